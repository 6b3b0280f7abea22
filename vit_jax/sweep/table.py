"""What is known of a sweep's trials, as rows; as a table, CSV or JSON."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

from vit_jax import storage
from vit_jax.lock.owner import EXPIRED_SECONDS, Owner
from vit_jax.sweep import trials
from vit_jax.sweep.record import Sweep
from vit_jax.sweep.trials import DONE, FAILED, PRUNED, Trial, text

RUNNING, WAITING, STARTED = "running", "waiting", "begun"
STATES = (DONE, FAILED, PRUNED, RUNNING, STARTED, WAITING)
_COLOURS = {DONE: "green", FAILED: "red", PRUNED: "yellow", RUNNING: "cyan"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A trial as it is now."""

    id: str
    number: int
    overrides: dict[str, Any]
    status: str
    step: int
    steps: int
    value: float | None  # of the sweep's metric
    metrics: dict[str, Any]
    attempts: int
    seconds: float | None
    said: str


def rows(workdir: Any, sweep: Sweep) -> list[Row]:
    """Every trial, in the order of the sweep."""
    return [_row(workdir, trial, sweep) for trial in trials.read_trials(workdir)]


def _row(workdir: Any, trial: Trial, sweep: Sweep) -> Row:
    place = trials.folder(workdir, trial.id)
    result = trials.read_result(place)
    failed = [] if result else trials.read_attempts(place)
    step, metrics = 0, {}
    if result:
        status, step, metrics = result["status"], result["step"], result["metrics"]
    elif is_running(place):
        status = RUNNING
    else:
        begun = failed or (place / "config.json").exists()
        status = STARTED if begun else WAITING
    if status in (RUNNING, STARTED):
        step, metrics = trials.newest_metrics(place)
    return Row(
        id=trial.id,
        number=trial.number,
        overrides=dict(trial.overrides),
        status=status,
        step=step,
        steps=trial.steps,
        value=trials.number(metrics, sweep.metric),
        metrics=metrics,
        attempts=result.get("attempts", len(failed)),
        seconds=result.get("seconds"),
        said=result.get("said", failed[-1]["said"] if failed else ""),
    )


def is_running(place: Any) -> bool:
    """Whether some process is at a trial.

    On this machine the kernel knows who has the claim; elsewhere the lock of the work
    directory is a sign of life, renewed every 10 s.
    """
    if storage.is_bucket(place):
        return (place / "lock").exists()
    if _is_claimed(place / trials.CLAIM):
        return True
    with contextlib.suppress(OSError):
        lock = place / "lock"
        owner = Owner.from_json(lock.read_bytes())
        here = owner.running() if owner else None
        if here is None:
            return time.time() - os.stat(lock).st_mtime < EXPIRED_SECONDS
        return here
    return False


def _is_claimed(path: Any) -> bool:
    import fcntl

    with contextlib.suppress(OSError), open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def ranked(found: Sequence[Row], sweep: Sweep) -> list[Row]:
    """The best first; what has no value after them, and what failed last."""
    sign = -1 if sweep.mode == "max" else 1

    def key(row: Row) -> tuple:
        known = row.value is not None
        value = sign * row.value if row.value is not None else 0.0
        return STATES.index(row.status), not known, value, row.number

    return sorted(found, key=key)


def best(found: Sequence[Row], sweep: Sweep) -> Row | None:
    """The best of the trials that are done."""
    done = [row for row in found if row.status == DONE and row.value is not None]
    return ranked(done, sweep)[0] if done else None


def varied(found: Sequence[Row]) -> list[str]:
    """The keys in which trials differ, in the order in which they are given."""
    keys = dict.fromkeys(key for row in found for key in row.overrides)
    if len(found) == 1:
        return list(keys)

    def several(key: str) -> bool:
        return (
            len({json.dumps(row.overrides.get(key, ...), default=str) for row in found})
            > 1
        )

    return [key for key in keys if several(key)]


def plain(found: Sequence[Row], *, result: bool) -> list[dict[str, Any]]:
    """Rows for JSON and CSV.

    Args:
      found: the rows.
      result: only what another run of the same sweep would give as well: without
        seconds and attempts.
    """
    shown = []
    for row in found:
        fields = dataclasses.asdict(row)
        if result:
            for name in ("attempts", "seconds"):
                del fields[name]
        shown.append(fields)
    return shown


def as_csv(found: Sequence[Row], *, result: bool) -> str:
    """A column for each key that varies and for each metric."""
    keys = varied(found)
    names = sorted({name for row in found for name in row.metrics})
    extra = [] if result else ["attempts", "seconds"]
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(["id", *keys, "status", "step", "steps", *extra, *names])
    for row in found:
        values = [
            text(row.overrides[key]) if key in row.overrides else "" for key in keys
        ]
        numbers = [row.metrics.get(name) for name in names]
        about = [row.status, row.step, row.steps]
        about += [getattr(row, name) for name in extra]
        writer.writerow([row.id, *values, *about, *numbers])
    return output.getvalue()


@dataclasses.dataclass(frozen=True)
class Group:
    """Trials that differ in their seeds alone."""

    overrides: dict[str, Any]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def over_seeds(found: Sequence[Row], sweep: Sweep) -> list[Group]:
    """Means over seeds of the trials that are done, the best first."""
    groups: dict[str, tuple[dict[str, Any], list[float]]] = {}
    for row in found:
        if row.status == DONE and row.value is not None:
            others = {k: v for k, v in row.overrides.items() if k != "seed"}
            name = json.dumps(others, sort_keys=True)
            groups.setdefault(name, (others, []))[1].append(row.value)
    made = [Group(others, tuple(values)) for others, values in groups.values()]
    return sorted(made, key=lambda group: group.mean, reverse=sweep.mode == "max")


def counts(found: Sequence[Row]) -> str:
    """``"9 done, 1 failed, 2 running"``."""
    by_state = {state: sum(row.status == state for row in found) for state in STATES}
    return ", ".join(f"{n} {state}" for state, n in by_state.items() if n) or "none"


def render(found: Sequence[Row], sweep: Sweep, *, title: str, limit: int) -> Any:
    """The table that is shown on a terminal."""
    from rich.table import Table

    keys = varied(found)
    shown = found[:limit]
    more = len(found) - len(shown)
    caption = f"{len(found)} trials: {counts(found)}"
    if more > 0:
        caption += f"; {more} more are not shown (--limit)"
    table = Table(title=title, caption=caption, title_justify="left")
    for name in ("trial", *keys, "status", "step", sweep.metric, "time", ""):
        right = name in ("step", sweep.metric, "time")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in shown:
        values = [
            text(row.overrides[key]) if key in row.overrides else "" for key in keys
        ]
        seconds = "" if row.seconds is None else _duration(row.seconds)
        value = "" if row.value is None else f"{row.value:.6g}"
        table.add_row(
            row.id,
            *values,
            f"[{_COLOURS.get(row.status, 'default')}]{row.status}[/]",
            f"{row.step:,}/{row.steps:,}",
            value,
            seconds,
            row.said if row.status == FAILED else "",
        )
    return table


def render_groups(groups: Sequence[Group], sweep: Sweep) -> Any:
    """Means over seeds as a table."""
    from rich.table import Table

    keys = list(dict.fromkeys(key for group in groups for key in group.overrides))
    table = Table(title="over seeds", title_justify="left")
    for name in (*keys, sweep.metric, "±", "n"):
        table.add_column(name, justify="left" if name in keys else "right")
    for group in groups:
        spread = "" if group.deviation is None else f"{group.deviation:.2g}"
        values = [text(group.overrides.get(key, "")) for key in keys]
        number = str(len(group.values))
        table.add_row(*values, f"{group.mean:.6g}", spread, number)
    return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
