"""A trial: its identity, its directory, and the files in it that the sweep writes.

    trials/ID/overrides.json    what it changes, written before anything starts
    trials/ID/log.txt           what it said
    trials/ID/attempts.json     attempts that failed
    trials/ID/result.json       how it ended; once it is there, the trial is over

The directory is the trial's work directory, too: checkpoints, metrics and figures are
where any other run has them.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax import storage
from vit_jax.jsonl import read_rows

OVERRIDES, RESULT, ATTEMPTS = "overrides.json", "result.json", "attempts.json"
LOG, CLAIM = "log.txt", "claim"
DONE, FAILED, PRUNED = "done", "failed", "pruned"

# What depends on the machine and the hour, and says nothing of a trial.
_TIMINGS = re.compile(
    r"goodput|badput|img_per_sec|data_wait|tflops|mfu|peak_gib|seconds"
)


@dataclasses.dataclass(frozen=True)
class Trial:
    """Overrides of the sweep's config, the seed among them.

    Args:
      overrides: values as the config holds them, by key.
      number: its place in the sweep.
      steps: of the whole trial.
    """

    overrides: Mapping[str, Any]
    number: int
    steps: int

    @property
    def id(self) -> str:
        return identity(self.overrides)

    def flags(self) -> list[str]:
        """Arguments of `vit-jax train`."""
        return [f"--config.{key}={text(v)}" for key, v in self.overrides.items()]


def identity(overrides: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits; the same ones for the same overrides in any order."""
    content = json.dumps(dict(overrides), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def text(value: Any) -> str:
    """A value as it is typed on a command line."""
    if isinstance(value, list | tuple):
        return repr(tuple(_tuples(item) for item in value))
    return value if isinstance(value, str) else repr(value)


def _tuples(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    return value


def describe(overrides: Mapping[str, Any]) -> str:
    """``optim.learning_rate=0.001 seed=1``."""
    return " ".join(f"{key}={text(value)}" for key, value in overrides.items())


def folder(workdir: Any, trial_id: str) -> Any:
    """The directory of a trial."""
    return workdir / "trials" / trial_id


def write_trial(workdir: Any, trial: Trial) -> None:
    """Makes the directory of a trial, with its overrides."""
    place = folder(workdir, trial.id)
    place.mkdir(parents=True, exist_ok=True)
    content = dataclasses.asdict(trial) | {"overrides": dict(trial.overrides)}
    # Not synchronised: a thousand would take long, and one that a power failure
    # empties is written anew by the next start.
    _replace(place / OVERRIDES, {"id": trial.id, **content})


def read_trials(workdir: Any) -> list[Trial]:
    """The trials that a sweep has, in their order."""
    trials = []
    parent = workdir / "trials"
    for place in parent.iterdir() if parent.exists() else ():
        saved = read_json(place / OVERRIDES)
        with contextlib.suppress(KeyError, TypeError):
            trial = Trial(saved["overrides"], saved["number"], saved["steps"])
            if trial.id == place.name:
                trials.append(trial)
    return sorted(trials, key=lambda trial: (trial.number, trial.id))


def register(workdir: Any, chosen: Sequence[Trial]) -> list[Trial]:
    """Writes the trials that are new; those that are there keep their numbers."""
    known = {trial.id: trial for trial in read_trials(workdir)}
    free = max((trial.number for trial in known.values()), default=-1) + 1
    for trial in chosen:
        if trial.id not in known:
            known[trial.id] = Trial(trial.overrides, free, trial.steps)
            write_trial(workdir, known[trial.id])
            free += 1
    return [known[trial.id] for trial in chosen]


def forget_failures(workdir: Any) -> None:
    """Gives failed trials their attempts anew."""
    for trial in read_trials(workdir):
        place = folder(workdir, trial.id)
        if read_result(place).get("status") == FAILED:
            write_attempts(place, [])
            (place / RESULT).unlink()


def read_json(path: Any) -> dict[str, Any]:
    """What a file holds; nothing if it is not there or not whole."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text())
        if isinstance(content, dict):
            return content
    return {}


def read_result(place: Any) -> dict[str, Any]:
    """How a trial ended; empty while it has not, or where that is not whole."""
    found = read_json(place / RESULT)
    ended = found.get("status") in (DONE, FAILED, PRUNED)
    whole = isinstance(found.get("metrics"), dict) and isinstance(
        found.get("step"), int
    )
    return found if ended and whole else {}


def result_of(workdir: Any, trial: Trial) -> dict[str, Any]:
    """How a trial of a sweep ended; empty while it has not."""
    return read_result(folder(workdir, trial.id))


def write_result(place: Any, **fields: Any) -> dict[str, Any]:
    """Ends a trial: with its last metrics, and what else is known."""
    step, metrics = newest_metrics(place)
    result = {"id": place.name, "step": step, "metrics": metrics, **fields}
    storage.write_text(place / RESULT, json.dumps(result, indent=1))
    return result


def read_attempts(place: Any) -> list[dict[str, Any]]:
    """The attempts that failed; without those that are not whole."""
    found = read_json(place / ATTEMPTS).get("attempts")
    return [
        attempt
        for attempt in (found if isinstance(found, list) else ())
        if isinstance(attempt, dict) and attempt.keys() >= {"step", "seconds", "said"}
    ]


def write_attempts(place: Any, attempts: list[dict[str, Any]]) -> None:
    """Keeps the attempts that failed."""
    _replace(place / ATTEMPTS, {"attempts": attempts})


def rows_of(place: Any) -> list[dict[str, Any]]:
    """A trial's rows of metrics, none before it has written one."""
    with contextlib.suppress(OSError):
        return read_rows(place)
    return []


def newest_metrics(place: Any) -> tuple[int, dict[str, float | None]]:
    """The last logged step, and the newest value of everything but timings."""
    metrics: dict[str, float | None] = {}
    rows = rows_of(place)
    for row in rows:
        metrics |= {name: row[name] for name in row if not _TIMINGS.search(name)}
    metrics.pop("step", None)
    step = max((row["step"] for row in rows), default=0)
    return step, dict(sorted(metrics.items()))


def number(metrics: Mapping[str, Any], name: str) -> float | None:
    """A metric's value where it is a finite number."""
    value = metrics.get(name)
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def saved_step(place: Any) -> int:
    """The newest checkpoint's step, 0 where there is none."""
    checkpoints = place / "checkpoints"
    if not checkpoints.exists():
        return 0
    names = [path.name for path in checkpoints.iterdir()]
    return max((int(name) for name in names if name.isdigit()), default=0)


def _replace(path: Any, content: Mapping[str, Any]) -> None:
    if storage.is_bucket(path):
        path.write_text(json.dumps(content, indent=1))
        return
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)
