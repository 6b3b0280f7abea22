"""Two to four starts in one work directory at once: exactly one may win."""

import pathlib
import shutil
import time

import numpy as np

from . import compare, runs
from .core import Context, Outcome, Scenario
from .kill9 import STEPS, Straight, kill_anywhere, straight_run


def trial(
    context: Context,
    straight: Straight,
    folder: pathlib.Path,
    index: int,
    rng: np.random.Generator,
) -> Outcome:
    """Starters within milliseconds of each other, or one that comes upon a running one.

    In every other trial the directory holds the lock of a run that was killed, so that
    taking over a stale lock is raced for as well.
    """
    workdir = folder / "run"
    stale = index % 2 == 1
    while stale and not workdir.exists():
        process = runs.start(context, workdir, log="killed.txt")
        kill_anywhere(process, straight, rng)
        process.wait()
        if STEPS in compare.committed(workdir):  # too late: nothing left to race for
            shutil.rmtree(workdir)
    number = int(rng.integers(2, 5))
    spread = rng.choice([0.0, 0.05, 1.0])
    starters = []
    for rank in range(number):
        starters.append(runs.start(context, workdir, log=f"log{rank}.txt"))
        time.sleep(rng.uniform(0, spread))
    codes = [process.wait() for process in starters]
    winners = [
        process for process, code in zip(starters, codes, strict=True) if not code
    ]
    kind = f"{number} starters{', stale lock' if stale else ''}"
    # One that comes when the winner has finished finds a complete run.
    late = [process for process in winners if "already complete" in process.output()]
    if len(winners) - len(late) != 1 or codes.count(2) != number - len(winners):
        said = " | ".join(process.tail(3) for process in starters)
        return Outcome(f"{kind}, WRONG", False, f"exit codes {codes}: {said}")
    owner = next(process for process in winners if process not in late).pid
    for process, code in zip(starters, codes, strict=True):
        if code == 2 and str(owner) not in process.output():
            text = f"the owner, pid {owner}, is not named: {process.tail(5)}"
            return Outcome(f"{kind}, owner not named", False, text)
    different = compare.run_differences(workdir, straight.workdir)
    if different:
        return Outcome(f"{kind}, DIFFERENT", False, "; ".join(different))
    return Outcome(kind, True)


SCENARIO = Scenario(
    name="race",
    what="2 to 4 starters in one directory, half upon the lock of a killed run",
    bar="exactly one winner, the owner named to the others, its run bitwise right",
    count=50,
    short=1,
    prepare=straight_run,
    trial=trial,
    jobs=1,
)
