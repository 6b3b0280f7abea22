"""A long run in one process: memory, threads and file descriptors stay flat."""

import pathlib
import time
from collections.abc import Sequence

import numpy as np

from . import compare, runs
from .core import Context, Outcome, Scenario

STEPS, SAVE_EVERY = 5_000, 10
SHORT_STEPS = 300
WARM = 0.2  # share of the run that is not judged
ALLOWED_MB = 20.0
ALLOWED_NUMBER = 2  # of threads and files: pools fill up; a leak a save is hundreds


def sample(pid: int) -> tuple[float, int, int]:
    """Resident MB, threads and open files of a process."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    files = len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["Threads"]), files


def watch(process: runs.Process) -> np.ndarray:
    """Samples of ``(step, MB, threads, files)`` until the end, ``[N, 4]``."""
    samples = []
    while process.running():
        try:
            now = sample(process.pid)
        except (FileNotFoundError, ProcessLookupError, KeyError):
            break  # it has just ended
        samples.append((runs.steps_shown(process.tail(40)), *now))
        time.sleep(0.1)
    return np.array(samples, float)


def prepare(context: Context, home: pathlib.Path) -> None:
    """Nothing is shared."""


def trial(
    context: Context,
    shared: None,
    folder: pathlib.Path,
    index: int,
    rng: np.random.Generator,
) -> Outcome:
    """Compares the end of the run with what it was after warming up."""
    total = SHORT_STEPS if context.short else STEPS
    process = runs.start(
        context,
        folder / "run",
        f"train.duration.steps={total}",
        f"checkpoint.every.steps={SAVE_EVERY}",
        f"evals.val.every.steps={total // 5}",
        "log.every.steps=10",
    )
    samples = watch(process)
    runs.finish(process)
    saves = total // SAVE_EVERY
    if compare.committed(folder / "run")[-1:] != [total]:
        return Outcome("WRONG", False, f"saved {compare.committed(folder / 'run')}")
    return judge(samples, total, f"{total:,} steps, {saves} saves")


def judge(samples: np.ndarray, total: int, kind: str) -> Outcome:
    """Compares a stretch after the warm-up with the last one."""
    step = samples[:, 0]
    early = samples[(step >= WARM * total) & (step < 2 * WARM * total)]
    late = samples[(step >= (1 - WARM) * total) & (step < total)]
    if min(len(early), len(late)) < 5:
        return Outcome("WRONG", False, f"only {len(early)} and {len(late)} samples")
    before, after = np.median(early, axis=0), np.median(late, axis=0)
    growth = after[1] - before[1]
    problems = []
    if growth > max(ALLOWED_MB, 0.01 * before[1]):
        problems.append(f"memory grew by {growth:.1f} MB from {before[1]:.0f} MB")
    for column, name in ((2, "threads"), (3, "open files")):
        # A save comes and goes with its own: a leak is there between and during saves.
        low, mid, high = (
            np.percentile(late[:, column], q) - np.percentile(early[:, column], q)
            for q in (10, 50, 90)
        )
        if min(low, mid, high) > ALLOWED_NUMBER:
            problems.append(f"{name}: {before[column]:.0f}, then {after[column]:.0f}")
    figures = {"growth": growth, "megabytes": before[1]}
    figures |= {"threads": after[2], "files": after[3]}
    if problems:
        return Outcome(f"{kind}: GROWS", False, "; ".join(problems), figures)
    return Outcome(kind, True, figures=figures)


def figures(outcomes: Sequence[Outcome]) -> str:
    """Growth, threads and open files."""
    last = outcomes[-1].figures
    if not last:
        return ""
    return (
        f"memory {last['growth']:+.1f} MB of {last['megabytes']:.0f}, "
        f"{last['threads']:.0f} threads, {last['files']:.0f} files"
    )


SCENARIO = Scenario(
    name="soak",
    what=f"{STEPS:,} steps and {STEPS // SAVE_EVERY} saves in one process",
    bar="memory growth <= 1 % or 20 MB; threads and open files flat",
    count=1,
    short=1,
    prepare=prepare,
    trial=trial,
    figures=figures,
)
