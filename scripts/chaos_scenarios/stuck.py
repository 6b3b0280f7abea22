"""Runs that stop getting anywhere: the watchdog ends them, and only them."""

import pathlib
import signal
import time
from collections.abc import Sequence

import numpy as np

from . import compare, runs
from .core import Context, Outcome, Scenario

LIMIT = 5.0  # seconds without progress, as configured here
MARGIN = 20.0  # for noticing, dumping and leaving, on a busy machine
STUCK_CODE, PEER_CODE = 3, 4
# What never returns, at a call drawn from this range.
PLACES = {
    "step sleeps": ("stepping", 5, 40),
    "data thread sleeps": ("loading", 5, 40),
    "evaluation sleeps": ("evaluating", 1, 3),
    "save sleeps": ("saving", 1, 8),
}
KINDS = (*PLACES, "peer stopped")
SLOW = 20  # the last trial: steps 10 times slower, which is no reason to end a run


def watchdog() -> list[str]:
    """A watchdog with little patience."""
    return [f"train.watchdog.seconds={LIMIT}", "train.watchdog.factor=10.0"]


def stacks(workdir: pathlib.Path) -> str:
    """The stack dumps of a run."""
    return "".join(path.read_text() for path in workdir.glob("stacks-*.txt"))


def prepare(context: Context, home: pathlib.Path) -> None:
    """Nothing is shared."""


def trial(
    context: Context,
    shared: None,
    folder: pathlib.Path,
    index: int,
    rng: np.random.Generator,
) -> Outcome:
    """One way of getting stuck."""
    if index == SLOW:
        return slower(context, folder)
    kind = KINDS[index % len(KINDS)]
    if kind == "peer stopped":
        return stopped_peer(context, folder, rng)
    place, first, last = PLACES[kind]
    call = int(rng.integers(first, last + 1))
    marks = folder / "phases.txt"
    driver = [f"--phases={marks}", f"--stick={place}:{call}"]
    process = runs.start(context, folder / "run", *watchdog(), driver=driver)
    line = f"begin {place} {call} "
    runs.wait_until(lambda: line in read(marks), [process])
    stuck = time.monotonic()
    code = process.wait(LIMIT + MARGIN + 60)
    seconds = time.monotonic() - stuck
    problems = []
    if code != STUCK_CODE:
        problems.append(f"exit code {code}, not {STUCK_CODE}")
    if seconds > LIMIT + MARGIN:
        problems.append(f"ended after {seconds:.1f} s")
    if "stuck_here" not in stacks(folder / "run"):
        problems.append("no stack dump shows where it was stuck")
    return judged(kind, problems, process, seconds)


def read(path: pathlib.Path) -> str:
    """What a file holds so far."""
    return path.read_text() if path.exists() else ""


def judged(
    kind: str, problems: list[str], process: runs.Process, seconds: float
) -> Outcome:
    """An outcome from a list of what was wrong."""
    if problems:
        text = f"{'; '.join(problems)}; last lines:\n{process.tail()}"
        return Outcome(f"{kind}: WRONG", False, text)
    return Outcome(kind, True, figures={"seconds": seconds})


def stopped_peer(
    context: Context, folder: pathlib.Path, rng: np.random.Generator
) -> Outcome:
    """SIGSTOP to one of two processes: the other one's watchdog must notice."""
    workdir, step = folder / "run", int(rng.integers(3, 30))
    pair = runs.start_two(context, workdir, *watchdog())
    runs.wait_until(lambda: runs.steps_shown(pair[0].output()) >= step, pair)
    victim = int(rng.integers(2))
    pair[victim].signal(signal.SIGSTOP)
    stopped = time.monotonic()
    other = pair[1 - victim]
    code = other.wait(LIMIT + MARGIN + 60)
    seconds = time.monotonic() - stopped
    problems = []
    if code != STUCK_CODE:
        problems.append(f"exit code {code} of the other process, not {STUCK_CODE}")
    if seconds > LIMIT + MARGIN:
        problems.append(f"the other process ended after {seconds:.1f} s")
    if not stacks(workdir):
        problems.append("no stack dump")
    pair[victim].signal(signal.SIGCONT)  # awake again, it must not live on alone
    if pair[victim].wait(60) == 0:
        problems.append("the stopped process ended with 0")
    return judged("peer stopped", problems, other, seconds)


def slower(context: Context, folder: pathlib.Path) -> Outcome:
    """Steps of 0.4 s, then of 4 s, with a limit that a single one comes close to."""
    workdir = folder / "run"
    driver = ["--slow=stepping:0.4", "--slower=stepping:13:4.0"]
    changes = ["train.duration.steps=18", "evals.val.every.steps=18", *watchdog()]
    process = runs.start(context, workdir, *changes, driver=driver)
    code = process.wait()
    problems = []
    if code:
        problems.append(f"exit code {code}")
    if stacks(workdir):
        problems.append("a stack dump was written")
    if compare.committed(workdir)[-1:] != [18]:
        problems.append(f"checkpoints {compare.committed(workdir)}")
    return judged("10 times slower, no alarm", problems, process, 0.0)


def figures(outcomes: Sequence[Outcome]) -> str:
    """Time from getting stuck to the exit."""
    seconds = [outcome.figures.get("seconds", 0.0) for outcome in outcomes]
    return f"limit {LIMIT:.0f} s, ended after at most {max(seconds):.1f} s"


SCENARIO = Scenario(
    name="stuck",
    what="stuck process: SIGSTOP of a peer; sleep in step, data, evaluation, save",
    bar="ended by the watchdog with a stack dump; no alarm at steps 10 times slower",
    count=SLOW + 1,
    short=3,
    prepare=prepare,
    trial=trial,
    figures=figures,
)
