"""What a scenario is, what a trial gives back, and how trials are run and judged."""

import collections
import concurrent.futures
import dataclasses
import pathlib
import shutil
import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np


class CannotRunError(Exception):
    """This machine does not allow the scenario; it is counted as not run."""


class PrepareError(Exception):
    """What all trials share could not be made, so that none means anything."""


class HangError(Exception):
    """A process did not end in the time it was given; it has been killed."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one trial came to.

    Attributes:
      kind: a few words that the table counts, such as ``fell back``.
      good: whether the bar allows it.
      detail: what was seen, for a trial that is not good.
      figures: numbers that `Scenario.judge` looks at over all trials.
    """

    kind: str
    good: bool
    detail: str = ""
    figures: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Context:
    """What every trial may use.

    Attributes:
      folder: scratch space; a trial gets a folder of its own in it.
      data: flags that name the training data.
      short: the small form, where a trial itself can be made smaller.
      peer: "" for vit_jax, or "orbax": who restores in flip and truncate.
    """

    folder: pathlib.Path
    data: tuple[str, ...]
    short: bool = False
    peer: str = ""


def no_complaint(outcomes: Sequence[Outcome]) -> str:
    """Every trial is judged alone."""
    return ""


def no_figures(outcomes: Sequence[Outcome]) -> str:
    """Nothing beside the counts."""
    return ""


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One row of the table.

    Attributes:
      what: the measure, in words.
      bar: what must be seen.
      count: trials of the full form, ``short``: of the short one.
      prepare: makes what all trials share, such as an uninterrupted run.
      trial: ``(context, shared, folder, index, rng) -> Outcome``.
      jobs: trials side by side at most.
      complain: what is wrong with the outcomes together, or "".
      figures: measured numbers worth printing.
    """

    name: str
    what: str
    bar: str
    count: int
    short: int
    prepare: Callable[[Context, pathlib.Path], Any]
    trial: Callable[[Context, Any, pathlib.Path, int, np.random.Generator], Outcome]
    jobs: int = 2
    complain: Callable[[Sequence[Outcome]], str] = no_complaint
    figures: Callable[[Sequence[Outcome]], str] = no_figures


@dataclasses.dataclass(frozen=True)
class Record:
    """An outcome with what it takes to repeat it."""

    seed: int
    trial: int
    commit: str
    outcome: Outcome


def trial_rng(name: str, seed: int, index: int) -> np.random.Generator:
    """Randomness of one trial: (scenario, seed, index) and nothing else."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), index])


def run_trial(
    scenario: Scenario, context: Context, shared: Any, seed: int, index: int
) -> Outcome:
    """One trial in a folder of its own, which stays if the trial is not good."""
    folder = context.folder / scenario.name / f"{seed}-{index}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = trial_rng(scenario.name, seed, index)
    try:
        outcome = scenario.trial(context, shared, folder, index, rng)
    except HangError as error:
        outcome = Outcome("hang", False, str(error))
    except Exception as error:  # a trial that cannot be judged is a trial that failed
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        outcome = Outcome("error", False, text)
    if outcome.good:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def run_trials(
    scenario: Scenario,
    context: Context,
    indices: Iterable[int],
    *,
    seed: int,
    jobs: int,
    deadline: float,
    done: Callable[[int, Outcome], None],
) -> None:
    """Runs trials side by side and hands each over as it ends.

    Args:
      deadline: of `time.monotonic`; no trial starts after it.
      done: is called in this thread.
    """
    indices = list(indices)
    if not indices:
        return
    home = context.folder / scenario.name
    home.mkdir(parents=True, exist_ok=True)
    try:
        shared = scenario.prepare(context, home)
    except (AssertionError, HangError) as error:
        raise PrepareError(str(error)) from error

    def run(index: int) -> Outcome | None:
        if time.monotonic() > deadline:
            return None
        return run_trial(scenario, context, shared, seed, index)

    try:
        jobs = max(1, min(jobs, scenario.jobs))
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            waiting = {pool.submit(run, index): index for index in indices}
            try:
                for future in concurrent.futures.as_completed(waiting):
                    outcome = future.result()
                    if outcome is not None:
                        done(waiting[future], outcome)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    finally:
        close = getattr(shared, "close", None)
        if close is not None:
            close()


def counted(outcomes: Sequence[Outcome]) -> str:
    """How often each kind was seen: ``fell back 31, harmless 9``."""
    kinds = collections.Counter(outcome.kind for outcome in outcomes)
    # Trials end in any order: kinds seen equally often are sorted by name.
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{kind} {number}" for kind, number in ordered)


def passed(scenario: Scenario, outcomes: Sequence[Outcome]) -> bool:
    """Whether every trial was good and the whole meets the bar."""
    return (
        bool(outcomes)
        and all(outcome.good for outcome in outcomes)
        and not scenario.complain(outcomes)
    )


def percentile(outcomes: Sequence[Outcome], figure: str, share: float) -> float:
    """A percentile of one figure over the trials that have it; NaN without any."""
    values = [
        outcome.figures[figure] for outcome in outcomes if figure in outcome.figures
    ]
    return float(np.percentile(values, share)) if values else float("nan")
