"""The tables of a report that compare runs: their state, configs and evaluations."""

from collections.abc import Sequence
from typing import Any

from vit_jax.config_json import flat
from vit_jax.progress import clock
from vit_jax.report.elements import Element, add, marked, run_name, table, wrapped
from vit_jax.report.record import Record
from vit_jax.report.series import Points
from vit_jax.report.status import headline_metric, number, status


def runs(parent: Element, records: Sequence[Record]) -> None:
    """What was run, how far it came and how fast."""
    results = {headline_metric(record) for record in records}
    result = next(iter(results)) if len(results) == 1 else None
    head = ["run", "state", result or "result", "best", "steps", "img/s", "MFU"]
    head += ["time", "goodput", "model", "objective", "data", "batch", "notes"]
    rows = [
        _run(record, index, is_named=result is not None)
        for index, record in enumerate(records)
    ]
    table(parent, head, rows)


def _run(record: Record, index: int, *, is_named: bool) -> list[Any]:
    found = status(record)
    step, total = found["step"], found["total_steps"]
    name = headline_metric(record)
    points = record.curves
    newest = record.newest(name) if name else None
    shown = number(name, newest[1]) if name and newest else None
    best = best_of(name, points[name]) if name else None
    data = (record.value("data.name"), record.value("data.split"))
    return [
        run_name(record, index),
        found["state"],
        shown and f"{'' if is_named else name} {shown}".strip(),
        f"{number(name, best[1])} at {best[0]:,}" if name and best else None,
        f"{step:,}" + (f" of {total:,}" if total else ""),
        _middle(points.get("train/img_per_sec"), "img_per_sec"),
        _middle(points.get("train/mfu"), "mfu"),
        clock(found["seconds"]) if found["seconds"] else None,
        number("goodput", found["goodput"]) if found["goodput"] is not None else None,
        model(record),
        record.value("objective.name"),
        " ".join(str(word) for word in data if word),
        f"{record.batch_size:,}" if record.batch_size else None,
        wrapped("; ".join(filter(None, (found["why"], events(points))))),
    ]


def model(record: Record) -> str | None:
    """The model's size in words."""
    value = record.value
    if value("model.variant"):
        return str(value("model.variant"))
    width, depth = value("model.width"), value("model.depth")
    return f"width {width}, depth {depth}" if width else None


LOWER = ("loss", "ece", "mse", "nll", "error")
HIGHER = ("accuracy", "top5", "psnr")


def best_of(name: str, points: Points) -> tuple[int, float] | None:
    """The step and value of the best result, the earliest of equals.

    None where nothing is known, or what is better cannot be told from the name.
    """
    known = [(step, value) for step, value in points if value is not None]
    if known and name.endswith(LOWER):
        return min(known, key=lambda point: point[1])
    if known and name.endswith(HIGHER):
        return max(known, key=lambda point: point[1])
    return None


def events(points: dict[str, Points]) -> str:
    """What went wrong on the way."""
    skipped = len(points.get("train/nonfinite", ()))
    back = len(points.get("train/rolled_back_to", ()))
    bad = points.get("data/bad_examples", ())
    found = [
        f"{skipped} steps not finite" if skipped else "",
        f"{back} rollbacks" if back else "",
        f"{bad[-1][1]:.0f} bad examples" if bad and bad[-1][1] else "",
    ]
    return ", ".join(filter(None, found))


def _middle(points: Points | None, name: str) -> str | None:
    """The median, which a slow first window does not move."""
    values = sorted(value for _, value in points or () if value is not None)
    if not values:
        return None
    return number(name, values[len(values) // 2]).removesuffix(" img/s")


def config_diff(parent: Element, records: Sequence[Record]) -> None:
    """The keys in which runs differ, and all others once."""
    every = [flat(record.config) for record in records]
    keys = sorted(set().union(*every))
    differing = [
        key for key in keys if len({_text(leaves, key) for leaves in every}) > 1
    ]
    if len(records) > 1:
        add(parent, "h3", "Where the configs differ")
        if differing:
            rows = [
                [key, *(_text(leaves, key) for leaves in every)] for key in differing
            ]
            table(parent, ["key", *(record.name for record in records)], rows)
        else:
            add(parent, "p", "The configs are the same.")
    common = [key for key in keys if key not in differing]
    if common:
        details = add(parent, "details")
        what = "The whole config" if len(records) == 1 else "What all configs share"
        add(details, "summary", f"{what} ({len(common)} fields)")
        text = "\n".join(f"{key} = {_text(every[0], key)}" for key in common)
        add(details, "pre", text)


def _text(leaves: dict[str, Any], key: str) -> str:
    return repr(leaves[key]) if key in leaves else "(absent)"


def evaluations(parent: Element, records: Sequence[Record]) -> None:
    """Each result of each run: the last, and the best with its step."""
    every = [record.curves for record in records]
    names = sorted(
        {
            name
            for found in every
            for name in found
            if "/" in name and not name.startswith(("train/", "goodput/", "data/"))
        }
    )
    if not names:
        add(parent, "p", "No evaluation has run yet.", class_="faint")
        return
    if len(records) == 1:
        (found,) = every
        rows = [
            [
                name,
                _at(name, last_of(found[name])),
                _at(name, best_of(name, found[name])),
            ]
            for name in names
        ]
        table(parent, ["result", "last", "best"], rows)
        return
    leaders = {name: _leader(name, every) for name in names}
    rows = []
    for index, (record, found) in enumerate(zip(records, every, strict=True)):
        cells: list[Any] = [run_name(record, index)]
        for name in names:
            text = _last_and_best(name, found.get(name, []))
            cells.append(marked(text) if leaders[name] == index and text else text)
        rows.append(cells)
    table(parent, ["run", *names], rows)


def _leader(name: str, every: Sequence[dict[str, Points]]) -> int | None:
    """Which run has the best of the results."""
    bests = [best_of(name, found.get(name, [])) for found in every]
    joined: Points = [(i, best[1]) for i, best in enumerate(bests) if best]
    found = best_of(name, joined) if len(joined) > 1 else None
    return found[0] if found else None


def _last_and_best(name: str, points: Points) -> str | None:
    last, best = last_of(points), best_of(name, points)
    if last is None:
        return None
    text = number(name, last[1])
    if best is None or best[1] == last[1]:
        return text
    return f"{text}, best {number(name, best[1])} at {best[0]:,}"


def last_of(points: Points) -> tuple[int, float] | None:
    """The step and value of the newest result that is a number."""
    known = [(step, value) for step, value in points if value is not None]
    return known[-1] if known else None


def _at(name: str, found: tuple[int, float] | None) -> str | None:
    return f"{number(name, found[1])} at step {found[0]:,}" if found else None
