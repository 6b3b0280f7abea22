"""The panels of a report as data for its script: which curves, where, how shown."""

from collections.abc import Sequence
from typing import Any

from vit_jax.report.record import Record
from vit_jax.report.series import Points, clock, rounded, thin

# Groups of panels in order: a title, and names or beginnings of names.
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Training", ("train/loss", "train/accuracy")),
    ("Evaluations", ("",)),  # what no other group takes
    (
        "Speed",
        ("train/img_per_sec", "train/mfu", "train/tflops", "train/data_wait"),
    ),
    ("Goodput and memory", ("goodput/ratio", "train/memory", "train/rss")),
    ("More of training", ("train/learning_rate", "train/", "data/")),
)
_NO_CURVES = ("train/nonfinite", "train/rolled_back_to", "data/example_ids")
_LABELS = {
    "train/img_per_sec": "images per second",
    "train/mfu": "MFU",
    "train/tflops": "TFLOP/s",
    "train/data_wait": "waiting for data",
    "train/memory_peak_gib": "peak memory of the fullest device, GiB",
    "train/rss_peak_gib": "peak memory of the process, GiB",
    "train/learning_rate": "learning rate",
    "goodput/ratio": "goodput",
}


def panels(records: Sequence[Record]) -> dict[str, Any]:
    """Runs and groups of panels as JSON; ``longest``: points of a curve as logged."""
    every = [record.curves for record in records]
    names = sorted({name for found in every for name in found if _is_shown(name)})
    grouped: dict[str, list[str]] = {title: [] for title, _ in GROUPS}
    for name in names:
        grouped[_group(name)].append(name)
    groups, longest = [], 0
    for title, wanted in GROUPS:
        drawn = []
        for name in sorted(grouped[title], key=lambda name: _place(name, wanted)):
            lines = [
                _line(index, found[name])
                for index, found in enumerate(every)
                if any(value is not None for _, value in found.get(name, ()))
            ]
            longest = max([longest, *(len(f[name]) for f in every if name in f)])
            if lines:
                drawn.append(_panel(name, lines))
        if drawn:
            groups.append({"title": title, "panels": drawn})
    return {
        "runs": [_run(record) for record in records],
        "groups": groups,
        "longest": longest,
    }


def _is_shown(name: str) -> bool:
    hidden = name.startswith("goodput/") and name != "goodput/ratio"
    hidden = hidden or name.endswith("/examples")  # how many were evaluated
    return not hidden and name not in _NO_CURVES


def _group(name: str) -> str:
    exact = [title for title, names in GROUPS if name in names]
    by_start = [
        title for title, names in GROUPS if any(n and name.startswith(n) for n in names)
    ]
    return next(iter([*exact, *by_start]), "Evaluations")


def _place(name: str, wanted: Sequence[str]) -> tuple[int, int, str]:
    """In the order of the table; of results, accuracies and then losses first."""
    starts = [i for i, start in enumerate(wanted) if start and name.startswith(start)]
    last = name.rpartition("/")[2]
    kind = {"accuracy": 0, "loss": 1}.get(last, 2)
    return min(starts, default=0), kind, name


def _line(run: int, points: Points) -> dict[str, Any]:
    kept = thin(points)
    return {
        "run": run,
        "x": [step for step, _ in kept],
        "y": [rounded(value) for _, value in kept],
    }


def _panel(name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    last = name.rpartition("/")[2]
    percent = last.endswith(("accuracy", "top5", "mfu", "data_wait", "ratio"))
    return {
        "name": name,
        "title": _LABELS.get(name, name.removeprefix("train/")),
        "smooth": name.startswith("train/") and name != "train/learning_rate",
        "percent": percent,
        "zero": last in ("img_per_sec", "mfu", "tflops", "data_wait", "learning_rate"),
        "lines": lines,
    }


def _run(record: Record) -> dict[str, Any]:
    examples, batch_size = record.num_examples, record.batch_size
    times = clock(record.rows)
    return {
        "name": record.name,
        "epoch": examples / batch_size if examples and batch_size else None,
        "clock": {
            "steps": [step for step, _ in times],
            "seconds": [rounded(seconds) for _, seconds in times],
        },
    }
