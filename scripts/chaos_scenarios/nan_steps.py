"""Steps whose loss is not finite: not applied, counted, and after so many the end."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np

from . import compare, runs
from .core import Context, Outcome, Scenario

STEPS, POISONED = 60, 20
VALUES = ("nan", "inf", "-inf")
# Two trials more than poisoned steps: whole runs.
RUN_ON, RUN_OUT = POISONED, POISONED + 1
IN_A_ROW = 4


@dataclasses.dataclass(frozen=True)
class Poisoned:
    """What the worker said of each poisoned step, and which they were."""

    steps: list[int]
    values: list[str]
    answers: list[dict]

    def flags(self) -> list[str]:
        """Arguments of the worker and of the driver."""
        return [
            f"--poison={step}:{value}"
            for step, value in zip(self.steps, self.values, strict=True)
        ]


def prepare(context: Context, home: pathlib.Path) -> Poisoned:
    """Runs 60 steps, 20 of them poisoned, in one process."""
    rng = np.random.default_rng(0)
    # Never the last one, and few in a row: the run is to reach its end.
    steps = sorted(int(s) for s in rng.choice(range(2, STEPS), POISONED, replace=False))
    values = [VALUES[number % len(VALUES)] for number in range(POISONED)]
    poisoned = Poisoned(steps, values, [])
    done = subprocess.run(
        [
            *(sys.executable, "-m", "chaos_scenarios.nan_worker"),
            *(f"--steps={STEPS}", *poisoned.flags()),
        ],
        env=runs.environment(context),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=runs.PATIENCE,
    )
    if done.returncode:
        raise AssertionError(f"the poisoned steps ended early:\n{done.stderr[-2000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
    *answers, last = lines
    if last["still"] or len(answers) != POISONED:
        raise AssertionError(f"{last['still']} healthy steps changed nothing")
    return dataclasses.replace(poisoned, answers=answers)


def trial(
    context: Context,
    poisoned: Poisoned,
    folder: pathlib.Path,
    index: int,
    rng: np.random.Generator,
) -> Outcome:
    """One poisoned step, or one whole run."""
    if index == RUN_ON:
        return runs_on(context, poisoned, folder)
    if index == RUN_OUT:
        return runs_out(context, folder)
    answer = poisoned.answers[index % POISONED]
    kind = f"step of {poisoned.values[index % POISONED]}"
    if answer["changed"] or answer["counter"] != 1:
        return Outcome(f"{kind}: APPLIED", False, f"{answer}")
    return Outcome(kind, True)


def wrong_checkpoints(workdir: pathlib.Path) -> list[str]:
    """Checkpoints that hold something that is not finite."""
    found = []
    for step in compare.committed(workdir):
        arrays = compare.read_state(workdir / "checkpoints" / str(step))
        found += [f"{name} of step {step}" for name in compare.not_finite(arrays)]
    return found


def runs_on(context: Context, poisoned: Poisoned, folder: pathlib.Path) -> Outcome:
    """The same poison in a run: it gets to its end, the steps are counted."""
    workdir = folder / "run"
    changes = [f"train.duration.steps={STEPS}", "checkpoint.every.steps=1"]
    changes += ["checkpoint.keep=100", f"train.max_nonfinite={POISONED}"]
    process = runs.start(context, workdir, *changes, driver=poisoned.flags())
    code = process.wait()
    wrong = wrong_checkpoints(workdir)
    rows = compare.read_rows(workdir)
    counted = {row["step"] for row in rows if row.get("train/nonfinite")}
    problems = [f"not finite: {wrong[:3]}"] if wrong else []
    if code:
        problems.append(f"exit code {code}")
    if counted != set(poisoned.steps):
        problems.append(f"counted {sorted(counted)}, poisoned {poisoned.steps}")
    if compare.committed(workdir)[-1:] != [STEPS]:
        problems.append(f"saved up to {compare.committed(workdir)[-1:]}")
    if problems:
        text = f"{'; '.join(problems)}; last lines:\n{process.tail()}"
        return Outcome("a run with them: WRONG", False, text)
    return Outcome(f"a run with them, {STEPS} checkpoints finite", True)


def runs_out(context: Context, folder: pathlib.Path) -> Outcome:
    """So many in a row that the run is to stop, and to say which examples it was."""
    workdir = folder / "run"
    driver = [f"--poison={step}:nan" for step in range(22, 22 + 2 * IN_A_ROW)]
    change = f"train.max_nonfinite={IN_A_ROW}"
    process = runs.start(context, workdir, change, driver=driver)
    code, said = process.wait(), process.output()
    problems = []
    if code != 1:
        problems.append(f"exit code {code}, not 1")
    if "Traceback" in said:
        problems.append("a traceback")
    if "example" not in said.lower():
        problems.append("the examples are not named")
    saved = compare.committed(workdir)
    if not saved or wrong_checkpoints(workdir):
        problems.append(f"checkpoints {saved}, wrong: {wrong_checkpoints(workdir)}")
    if problems:
        text = f"{'; '.join(problems)}; last lines:\n{process.tail()}"
        return Outcome(f"{IN_A_ROW} in a row: WRONG", False, text)
    return Outcome(f"{IN_A_ROW} in a row end the run", True)


SCENARIO = Scenario(
    name="nan",
    what=f"{POISONED} steps that are not finite, then a run with them, then too many",
    bar="state unchanged by them, counted, no non-finite checkpoint; exit 1 with ids",
    count=POISONED + 2,
    short=POISONED,
    prepare=prepare,
    trial=trial,
)
