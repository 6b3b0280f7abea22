"""A run that goes on with other devices or processes: same examples, same loss."""

import dataclasses
import itertools
import pathlib
import shutil
import threading
from collections.abc import Sequence

import numpy as np

from . import compare, runs
from .core import Context, Outcome, Scenario, percentile

CUT, TOTAL = 10, 15  # the change comes after this many steps
BAR = 1e-5  # relative, of the first loss after the change


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a run lives: devices in all, and processes they are spread over."""

    devices: int
    processes: int = 1

    def __str__(self) -> str:
        plural = "" if self.processes == 1 else f" in {self.processes} processes"
        return f"{self.devices}{plural}"


SIZES = [Layout(number) for number in (1, 2, 4, 8)]
# Numbers of devices in one process; then the same two devices in one and two.
PAIRS = [
    *itertools.permutations(SIZES, 2),
    (Layout(2), Layout(2, 2)),
    (Layout(2, 2), Layout(2)),
]
# Far apart, and both ways between one and two processes: what the short form runs.
FIRST = [2, 12, 13]
ORDER = [*FIRST, *(number for number in range(len(PAIRS)) if number not in FIRST)]


def run(context: Context, workdir: pathlib.Path, layout: Layout) -> str:
    """Trains to the end on a layout; returns what the first process printed."""
    changes = [
        f"train.duration.steps={TOTAL}",
        "checkpoint.keep=3",
        "checkpoint.best=",
    ]
    if layout.processes == 1:
        started = [runs.start(context, workdir, *changes, devices=layout.devices)]
    else:
        each = layout.devices // layout.processes
        started = runs.start_two(context, workdir, *changes, devices=each)
    for process in started:
        runs.finish(process)
    return started[0].output()


class Straight:
    """Uninterrupted runs by layout, made when first asked for."""

    def __init__(self, context: Context, home: pathlib.Path):
        self._context, self._home = context, home
        # Each has its own, so that two layouts can be made side by side.
        self._making = {before: threading.Lock() for before, _ in PAIRS}

    def on(self, layout: Layout) -> pathlib.Path:
        """The work directory of the uninterrupted run."""
        workdir = self._home / f"straight-{layout.devices}-{layout.processes}"
        with self._making[layout]:
            if compare.committed(workdir)[-1:] != [TOTAL]:
                run(self._context, workdir, layout)
        return workdir


def layout(devices: int) -> str:
    """How a run's first lines end."""
    return f"data {devices}" if devices > 1 else "one device"


def trial(
    context: Context,
    straight: Straight,
    folder: pathlib.Path,
    index: int,
    rng: np.random.Generator,
) -> Outcome:
    """Goes on from step 10 of one layout on another."""
    before, after = PAIRS[ORDER[index % len(PAIRS)]]
    reference, workdir = straight.on(before), folder / "run"
    shutil.copytree(reference, workdir)
    for step in compare.committed(workdir):
        if step > CUT:
            shutil.rmtree(workdir / "checkpoints" / str(step))
    said = run(context, workdir, after)
    kind = f"{before} -> {after}"
    expected, actual = compare.losses(reference), compare.losses(workdir)
    difference = abs(actual[CUT + 1] / expected[CUT + 1] - 1)
    problems = []
    if (
        f"resuming from step {CUT} " not in said
        or f"{layout(after.devices)}\n" not in said
    ):
        problems.append(f"not resumed at step {CUT} on {after.devices} devices")
    if compare.example_checksums(workdir) != compare.example_checksums(reference):
        problems.append("other example ids")
    if len(compare.example_checksums(workdir)) != TOTAL:
        problems.append("example ids were not logged at every step")
    if actual.keys() != expected.keys():
        problems.append(f"steps {sorted(actual)}, not {sorted(expected)}")
    if difference > BAR:
        problems.append(f"next loss differs by {difference:.1e}")
    if problems:
        return Outcome(f"{kind}: WRONG", False, "; ".join(problems))
    return Outcome(kind, True, figures={"difference": difference})


def figures(outcomes: Sequence[Outcome]) -> str:
    """The largest difference of the next loss."""
    return f"next loss differs by at most {percentile(outcomes, 'difference', 100):.1e}"


SCENARIO = Scenario(
    name="elastic",
    what="resumed on other devices (all ordered pairs of 1, 2, 4, 8) or processes",
    bar="same example ids; next loss within 1e-5 relative",
    count=len(PAIRS),
    short=2,
    prepare=Straight,
    trial=trial,
    figures=figures,
)
