"""One of two processes killed: the other leaves, says why, and the run resumes."""

import pathlib
import signal
import time
from collections.abc import Sequence

import numpy as np

from . import compare, runs
from .core import Context, Outcome, Scenario, percentile

LIMIT = 30.0
PEER_CODE = 4


def prepare(context: Context, home: pathlib.Path) -> pathlib.Path:
    """An uninterrupted run of two processes."""
    workdir = home / "straight"
    if not compare.committed(workdir):
        for process in runs.start_two(context, workdir):
            runs.finish(process)
    return workdir


def trial(
    context: Context,
    straight: pathlib.Path,
    folder: pathlib.Path,
    index: int,
    rng: np.random.Generator,
) -> Outcome:
    """Kills one rank, in turn, at a random step."""
    workdir, victim = folder / "run", index % 2
    step, delay = int(rng.integers(1, 45)), rng.uniform(0, 0.05)
    pair = runs.start_two(context, workdir)
    runs.wait_until(lambda: runs.steps_shown(pair[0].output()) >= step, pair)
    time.sleep(delay)
    pair[victim].signal(signal.SIGKILL, group=True)
    killed = time.monotonic()
    pair[victim].wait()
    other = pair[1 - victim]
    code = other.wait(2 * LIMIT)
    seconds = time.monotonic() - killed
    kind = f"rank {victim} killed"
    problems = []
    if seconds > LIMIT:
        problems.append(f"the other was there for {seconds:.1f} s")
    if code != PEER_CODE:
        problems.append(f"exit code {code}, not {PEER_CODE}")
    said = [line for line in other.output().splitlines() if "vit-jax:" in line]
    if not any(f"process {victim}" in line for line in said):
        problems.append(f"process {victim} is not named")
    if problems:
        text = f"{'; '.join(problems)}; last lines:\n{other.tail()}"
        return Outcome(f"{kind}: WRONG", False, text)
    for process in runs.start_two(context, workdir):
        runs.finish(process)
    different = compare.run_differences(workdir, straight)
    if different:
        return Outcome(f"{kind}: DIFFERENT", False, "; ".join(different))
    return Outcome(kind, True, figures={"seconds": seconds})


def figures(outcomes: Sequence[Outcome]) -> str:
    """Time until the survivor is gone."""
    return f"all out after at most {percentile(outcomes, 'seconds', 100):.1f} s"


SCENARIO = Scenario(
    name="peer-death",
    what="one of two processes killed",
    bar="all out within 30 s, rank named, resume bitwise equal",
    count=20,
    short=1,
    prepare=prepare,
    trial=trial,
    figures=figures,
)
