"""What a run is doing and how far it is, from its work directory."""

import contextlib
import signal
from collections.abc import Sequence
from typing import Any

from vit_jax.progress import ago, clock
from vit_jax.report.record import Record

Status = dict[str, Any]
QUIET_SECONDS = 600.0  # without a row, which is worth a word


def status(record: Record) -> Status:
    """The state of a run as JSON: ``state``, ``why``, and what is known of it."""
    state, why = state_of(record)
    step, total = record.step, record.total_steps
    rate = record.newest("train/img_per_sec")
    seconds = record.goodput()
    spent = sum(seconds.values())
    found: Status = {
        "workdir": record.place,
        "state": state,
        "why": why,
        "step": step,
        "total_steps": total,
        "percent": round(100 * step / total, 1) if total else None,
        "eta_seconds": _eta(record, rate[1] if rate else 0.0, state),
        "evaluation": _evaluation(record),
        "checkpoint": _checkpoint(record),
        "goodput": round(seconds.get("step", 0.0) / spent, 4) if spent else None,
        "seconds": round(spent, 1) if spent else None,
        "logged_seconds_ago": _rounded(record.logged_age),
        "device": _device(record),
        "process": _process(record),
    }
    for name in ("loss", "img_per_sec", "mfu", "data_wait"):
        newest = record.newest(f"train/{name}")
        found[name] = newest[1] if newest else None
    return found


def state_of(record: Record) -> tuple[str, str]:
    """One of running, waiting, finished, stopped, failed and crashed; and why."""
    lock, start = record.lock, record.start
    ended = start.get("ended")
    if lock is not None and lock.alive:
        begun = start and not ended
        if begun and record.step > int(start.get("step") or 0):
            return "running", _silence(record)
        return "waiting", "for its first step: it reads, restores or compiles"
    if lock is not None:
        return "crashed", f"its process is gone: {lock.owner}"
    if isinstance(ended, dict):
        return _ended(ended)
    total = record.total_steps
    if total and max(record.checkpoints, default=0) >= total:
        return "finished", ""
    if start:
        return "crashed", "it ended without a word: killed, or its machine is gone"
    if record.rows or record.checkpoints:
        return "stopped", "how, an older version did not note"
    return "waiting", "nothing has run here yet"


def _ended(ended: dict[str, Any]) -> tuple[str, str]:
    how, at = ended.get("how"), ended.get("at", "")
    if how == "finished":
        return "finished", at
    if how == "signal":
        name = str(ended.get("signal"))
        with contextlib.suppress(ValueError, TypeError):
            name = signal.Signals(ended["signal"]).name
        return "stopped", f"by {name}, {at}; the same command resumes"
    return "failed", f"{ended.get('message', '')} ({at})"


def _silence(record: Record) -> str:
    age = record.logged_age
    return f"nothing logged for {ago(age)}" if age and age > QUIET_SECONDS else ""


def _eta(record: Record, rate: float, state: str) -> float | None:
    total, batch_size = record.total_steps, record.batch_size
    if state != "running" or not rate > 0 or not total or not batch_size:
        return None
    return round((total - record.step) * batch_size / rate, 1)


def headline_metric(record: Record) -> str | None:
    """The name of the result that says most: the config's choice, or the first."""
    names = set(filter(_is_result, set().union(*record.rows)))
    best = record.value("checkpoint.best")
    if best in names:
        return best
    first = [name for name in sorted(names) if name.endswith("/accuracy")]
    losses = [name for name in sorted(names) if name.endswith("/loss")]
    return next(iter([*first, *losses, *sorted(names)]), None)


def _is_result(name: str) -> bool:
    return "/" in name and not name.startswith(("train/", "goodput/", "data/"))


def _evaluation(record: Record) -> Status | None:
    name = headline_metric(record)
    newest = record.newest(name) if name else None
    if newest is None:
        return None
    return {"name": name, "value": newest[1], "step": newest[0]}


def _checkpoint(record: Record) -> Status | None:
    if not record.checkpoints:
        return None
    step = max(record.checkpoints)
    return {"step": step, "age_seconds": _rounded(record.checkpoints[step])}


def _device(record: Record) -> str | None:
    start = record.start
    if not start.get("device"):
        return None
    processes = start.get("num_processes") or 1
    several = f", {processes} processes" if processes > 1 else ""
    return f"{start.get('num_devices', 1)} x {start['device']}{several}"


def _process(record: Record) -> Status | None:
    if record.lock is None:
        return None
    owner = record.lock.owner
    return {
        "user": owner.user,
        "host": owner.host,
        "pid": owner.pid,
        "since": owner.since,
        "sign_of_life_seconds_ago": _rounded(record.lock.age),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def number(name: str, value: float) -> str:
    """A metric's value for people."""
    if name.endswith(("accuracy", "top5")):
        return f"{100 * value:.2f} %"
    if name.endswith(("mfu", "data_wait", "goodput")):
        return f"{100 * value:.0f} %"
    if name.endswith("img_per_sec"):
        return f"{value:,.0f} img/s"
    return f"{value:.4g}"


def block(found: Status) -> str:
    """Some lines about one run."""
    lines = [("state", " ".join([found["state"], *_bracket(found["why"])]))]
    total = found["total_steps"]
    step = f"{found['step']:,}"
    if total:
        step += f" of {total:,} ({found['percent']:.0f} %)"
    if found["eta_seconds"] is not None:
        step += f", ETA {clock(found['eta_seconds'])}"
    lines.append(("step", step))
    if found["loss"] is not None:
        lines.append(("loss", number("loss", found["loss"])))
    if result := found["evaluation"]:
        value = number(result["name"], result["value"])
        lines.append((result["name"], f"{value} at step {result['step']:,}"))
    rates = [
        f"{label}{number(name, found[name])}"
        for name, label in (
            ("img_per_sec", ""),
            ("mfu", "MFU "),
            ("data_wait", "data-wait "),
        )
        if found[name] is not None
    ]
    if rates:
        lines.append(("speed", ", ".join(rates)))
    if saved := found["checkpoint"]:
        lines.append(
            ("checkpoint", f"step {saved['step']:,}, {ago(saved['age_seconds'])} ago")
        )
    if found["goodput"] is not None:
        share = number("goodput", found["goodput"])
        lines.append(("goodput", f"{share} of {clock(found['seconds'])}"))
    where = [found["device"] or ""]
    if process := found["process"]:
        where.append(
            f"{process['user']} on {process['host']}, process {process['pid']}, "
            f"since {process['since']}"
        )
    if any(where):
        lines.append(("where", "; ".join(filter(None, where))))
    return "\n".join([found["workdir"], *(f"  {n:14} {v}" for n, v in lines)])


def _bracket(why: str) -> list[str]:
    return [f"({why})"] if why else []


COLUMNS = (
    "workdir",
    "state",
    "step",
    "%",
    "ETA",
    "loss",
    "evaluation",
    "img/s",
    "saved",
)


def table(every: Sequence[Status]) -> list[tuple[str, ...]]:
    """A row of words for each run, under `COLUMNS`."""
    return [COLUMNS, *(_row(found) for found in every)]


def _row(found: Status) -> tuple[str, ...]:
    total, result, saved = (
        found["total_steps"],
        found["evaluation"],
        found["checkpoint"],
    )
    eta, rate = found["eta_seconds"], found["img_per_sec"]
    return (
        found["workdir"],
        found["state"],
        f"{found['step']:,}" + (f"/{total:,}" if total else ""),
        f"{found['percent']:.0f}" if total else "",
        "" if eta is None else clock(eta),
        "" if found["loss"] is None else number("loss", found["loss"]),
        f"{result['name']} {number(result['name'], result['value'])}" if result else "",
        "" if rate is None else f"{rate:,.0f}",
        f"{saved['step']:,}, {ago(saved['age_seconds'])} ago" if saved else "",
    )


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as they need."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
