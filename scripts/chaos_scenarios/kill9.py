"""SIGKILL at random instants, then the same command: is it as if never killed?"""

import dataclasses
import os
import pathlib
import shutil
import signal
import time

import numpy as np

from . import compare, runs
from .core import Context, Outcome, Scenario

STEPS, EVERY = 60, 5  # of a run, and between its saves


@dataclasses.dataclass(frozen=True)
class Straight:
    """An uninterrupted run, and how long it takes."""

    workdir: pathlib.Path
    seconds: float


def straight_run(context: Context, home: pathlib.Path) -> Straight:
    """Runs without interruption, twice: the second with everything compiled.

    The short form runs once. It draws no instant from the length of a run, and if two
    such runs differed, so would the first trial.

    Raises:
      AssertionError: already these two differ, so no comparison would mean anything.
    """
    folder = context.folder / "straight"
    folder.mkdir(exist_ok=True)
    first, second = folder / "first", folder / "second"
    made = (first,) if context.short else (first, second)
    for workdir in made:
        took = folder / f"{workdir.name}.seconds"
        if not took.exists():
            shutil.rmtree(workdir, ignore_errors=True)  # of a start that failed
            process = runs.start(context, workdir)
            runs.finish(process)
            took.write_text(str(time.monotonic() - process.started))
    different = [] if context.short else compare.run_differences(first, second)
    if different:
        raise AssertionError(f"two uninterrupted runs differ: {'; '.join(different)}")
    return Straight(made[-1], float(took.read_text()))


def unfinished(workdir: pathlib.Path, since: float = 0.0) -> set[str]:
    """Names of checkpoints under way, or left half-way, begun after a time."""
    try:
        with os.scandir(workdir / "checkpoints") as entries:
            return {
                entry.name
                for entry in entries
                if "tmp" in entry.name and entry.stat().st_ctime > since
            }
    except FileNotFoundError:  # no folder yet, or one that has just been renamed
        return set()


def kill_in_save(
    process: runs.Process, workdir: pathlib.Path, rng: np.random.Generator
) -> None:
    """Kills within milliseconds of the beginning of one of the saves to come."""
    done = max(compare.committed(workdir), default=0)
    to_come = range(done + EVERY, STEPS + 1, EVERY)
    begun = time.time()  # an earlier kill may have left a save half-way
    step = str(rng.choice(to_come)) if to_come else str(STEPS)
    runs.wait_until(
        lambda: any(name.startswith(f"{step}.") for name in unfinished(workdir, begun)),
        [process],
        pause=0.0005,
    )
    time.sleep(rng.uniform(0, 0.1))
    process.signal(signal.SIGKILL, group=True)


def kill_anywhere(
    process: runs.Process, straight: Straight, rng: np.random.Generator
) -> None:
    """Kills at an instant drawn uniformly from the length of a run."""
    instant = process.started + rng.uniform(0, straight.seconds)
    runs.wait_until(lambda: time.monotonic() >= instant, [process])
    process.signal(signal.SIGKILL, group=True)


def left_behind(workdir: pathlib.Path, code: int) -> str:
    """Where the kill hit, by what it left."""
    if code == 0:
        return "after the end"
    if unfinished(workdir):
        return "killed in a save"
    if not compare.committed(workdir):
        return "killed before the first save"
    return "killed between saves"


def trial(
    context: Context,
    straight: Straight,
    folder: pathlib.Path,
    index: int,
    rng: np.random.Generator,
) -> Outcome:
    """Kill, in a quarter of the trials once more, then run to the end and compare."""
    workdir = folder / "run"
    in_save = index % 5 < 2  # 40 of 100
    kind = ""
    for _ in range(2 if rng.random() < 0.25 else 1):
        process = runs.start(context, workdir)
        if in_save:
            kill_in_save(process, workdir, rng)
        else:
            kill_anywhere(process, straight, rng)
        kind = left_behind(workdir, process.wait())
    runs.finish(runs.start(context, workdir))
    different = compare.run_differences(workdir, straight.workdir)
    if different:
        return Outcome(f"{kind}, DIFFERENT", False, "; ".join(different))
    return Outcome(kind, True)


SCENARIO = Scenario(
    name="kill9",
    what="kill -9 at random instants (40 % in a save), then the same command",
    bar="all bitwise equal: state, logs, example ids",
    count=100,
    short=2,
    prepare=straight_run,
    trial=trial,
)
