"""SIGTERM and SIGINT in every phase: saved, nothing lost, gone within seconds."""

import pathlib
import shutil
import signal
import time
from collections.abc import Sequence

import numpy as np

from . import compare, runs
from .core import Context, Outcome, Scenario, percentile
from .kill9 import Straight, straight_run

LIMIT = 5.0  # seconds from the end of the running step
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
# Where the signal hits, and what makes that place last.
PHASES = {
    "compiling": (),
    "stepping": ("--slow=stepping:0.15",),
    "evaluating": ("--slow=evaluating:0.5",),
    "saving": ("--slow=saving:0.3",),
    "waiting": ("--slow=loading:0.15",),
    "restoring": ("--slow=restoring:0.7",),
    "two processes": ("--slow=stepping:0.05",),
}
NOTHING_TO_SAVE = ("compiling", "restoring")
# What their second run adds to that of others: a whole new run, and two processes that
# are compared with nothing (peer-death compares theirs). The short form ends before it.
FIRST_ONLY = ("compiling", "two processes")


def events(path: pathlib.Path) -> list[tuple[str, str, int, float]]:
    """The complete lines that `driver.py` has written so far."""
    if not path.exists():
        return []
    text = path.read_text()
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [
        (word, place, int(number), float(at))
        for word, place, number, at in (line.split() for line in lines)
    ]


def moment(phase: str, rng: np.random.Generator) -> tuple[str, str, int, float]:
    """The event to wait for, and how long after it at most the signal is sent."""
    if phase == "waiting":  # no save and no evaluation is due after this step
        return "end", "stepping", int(rng.choice([1, 2, 6, 7, 11, 12])), 0.1
    place = "stepping" if phase == "two processes" else phase
    first, last, seconds = {
        "compiling": (1, 1, 0.5),
        "stepping": (2, 20, 0.15),
        "evaluating": (1, 2, 0.6),
        "saving": (1, 5, 0.4),
        "restoring": (1, 1, 0.8),
    }[place]
    return "begin", place, int(rng.integers(first, last + 1)), seconds


def half_done(straight: Straight, workdir: pathlib.Path) -> None:
    """A copy of a run as if it had died before its last save."""
    shutil.copytree(straight.workdir, workdir)
    shutil.rmtree(workdir / "checkpoints" / str(compare.committed(workdir)[-1]))


def finished(marks: pathlib.Path) -> int:
    """Steps that the loop of a new run has finished."""
    return sum(mark[:2] == ("end", "stepping") for mark in events(marks))


def trial(
    context: Context,
    straight: Straight,
    folder: pathlib.Path,
    index: int,
    rng: np.random.Generator,
) -> Outcome:
    """Signals a run in one phase, checks what it leaves, and lets it run on."""
    phase = list(PHASES)[index % len(PHASES)]
    number = (signal.SIGTERM, signal.SIGINT)[index // len(PHASES) % 2]
    kind = f"{phase} {number.name}"
    workdir, marks = folder / "run", folder / "phases0.txt"
    if phase == "restoring":
        half_done(straight, workdir)
    before = compare.committed(workdir)
    driver = [f"--phases={folder}/phases{{rank}}.txt", *PHASES[phase]]
    if phase == "two processes":
        started = runs.start_two(context, workdir, driver=driver)
    else:
        cache = phase != "compiling"
        started = [runs.start(context, workdir, driver=driver, cache=cache)]
    word, place, call, spread = moment(phase, rng)

    def reached() -> bool:
        return any(mark[:3] == (word, place, call) for mark in events(marks))

    if not runs.wait_until(reached, started):
        return Outcome(f"{kind}: ended before", False, started[0].tail())
    time.sleep(rng.uniform(0, spread))
    sent = time.monotonic()
    for process in started[: int(rng.integers(1, len(started) + 1))]:
        process.signal(number)
    codes = [process.wait() for process in started]
    exited = time.monotonic()
    seen = events(marks)
    ends = [at for *what, _, at in seen if what == ["end", "stepping"] and at > sent]
    seconds = exited - (min(ends) if ends else sent)
    problems = []
    if set(codes) != {CODES[number]}:
        problems.append(f"exit codes {codes}, not {CODES[number]}")
    if phase in NOTHING_TO_SAVE:
        if compare.committed(workdir) != before:
            problems.append(f"saved {compare.committed(workdir)}, had {before}")
    else:
        saved = max(compare.committed(workdir), default=0)
        if saved != finished(marks):
            problems.append(f"step {saved} saved, {finished(marks)} steps finished")
    if (workdir / "lock").exists():
        problems.append("the lock was not released")
    if seconds > 4 * LIMIT:
        problems.append(f"{seconds:.1f} s to exit")
    if problems:
        text = f"{'; '.join(problems)}; last lines:\n{started[0].tail()}"
        return Outcome(f"{kind}: WRONG", False, text)
    if context.short and phase in FIRST_ONLY:
        return Outcome(kind, True, figures={"seconds": seconds})
    return resumed(context, straight, folder, phase, kind, {"seconds": seconds})


def resumed(
    context: Context,
    straight: Straight,
    folder: pathlib.Path,
    phase: str,
    kind: str,
    figures: dict[str, float],
) -> Outcome:
    """The same command again, to the end."""
    workdir = folder / "run"
    if phase == "two processes":  # nothing to compare with bit for bit: see peer-death
        for process in runs.start_two(context, workdir):
            runs.finish(process)
        return Outcome(kind, True, figures=figures)
    runs.finish(runs.start(context, workdir, log="again.txt"))
    different = compare.run_differences(workdir, straight.workdir)
    if different:
        return Outcome(f"{kind}: DIFFERENT", False, "; ".join(different), figures)
    return Outcome(kind, True, figures=figures)


def complain(outcomes: Sequence[Outcome]) -> str:
    """The bar on time is one on all of them together."""
    slow = percentile(outcomes, "seconds", 95)
    return f"p95 to exit {slow:.1f} s > {LIMIT} s" if slow > LIMIT else ""


def figures(outcomes: Sequence[Outcome]) -> str:
    """Seconds to exit."""
    half, most = (percentile(outcomes, "seconds", share) for share in (50, 95))
    slowest = max(outcomes, key=lambda outcome: outcome.figures.get("seconds", 0.0))
    return f"to exit: median {half:.1f} s, p95 {most:.1f} s (slowest: {slowest.kind})"


SCENARIO = Scenario(
    name="term",
    what="SIGTERM or SIGINT in each phase, one process and two",
    bar="saved, 0 steps lost, right exit code, p95 <= 5 s; then on, bitwise equal",
    count=50,
    short=len(PHASES),
    prepare=straight_run,
    trial=trial,
    complain=complain,
    figures=figures,
)
