"""Rows of metrics as curves: thinned where long, with gaps where not finite."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.goodput import PHASES, PREFIX

POINTS = 2000  # of a curve; of a longer one the lowest and highest of each stretch stay
CLOCK_POINTS = 500

Points = list[tuple[int, float | None]]
Row = Mapping[str, Any]


def curves(rows: Sequence[Row]) -> dict[str, Points]:
    """Steps and values by name, in order of steps; None stands for NaN and infinity.

    Where a step has a value twice, as after a rollback, the later one counts.
    """
    found: dict[str, dict[int, float | None]] = {}
    for row in rows:
        for name, value in row.items():
            if name == "step" or not isinstance(value, int | float | None):
                continue
            number = math.nan if value is None else float(value)
            points = found.setdefault(name, {})
            points[row["step"]] = number if math.isfinite(number) else None
    return {name: sorted(points.items()) for name, points in found.items()}


def thin(points: Points, most: int = POINTS) -> Points:
    """At most about ``most`` points, with every peak: of each stretch its extremes.

    The first and the last point stay, and so does a gap in each stretch that has one.
    """
    if len(points) <= most:
        return points
    inner = points[1:-1]
    stretches = max(1, (most - 2) // 2)
    kept = [points[0]]
    for index in range(stretches):
        begin = index * len(inner) // stretches
        stretch = inner[begin : (index + 1) * len(inner) // stretches]
        numbers = [(value, step) for step, value in stretch if value is not None]
        if not numbers:
            kept += stretch[:1]
            continue
        gap = next((point for point in stretch if point[1] is None), None)
        low, high = min(numbers), max(numbers)
        chosen = {(step, value) for value, step in (low, high)}
        kept += sorted(chosen | ({gap} if gap else set()), key=lambda point: point[0])
    return [*kept, points[-1]]


def clock(rows: Sequence[Row]) -> list[tuple[int, float]]:
    """Seconds of work, all attempts together, at some of the logged steps."""
    found: list[tuple[int, float]] = []
    for row in rows:
        if f"{PREFIX}ratio" in row:
            parts = [row.get(f"{PREFIX}{phase}_seconds") for phase in PHASES]
            seconds = sum(float(p) for p in parts if isinstance(p, int | float))
            if not found or (row["step"] > found[-1][0] and seconds > found[-1][1]):
                found.append((row["step"], seconds))
    every = -(-len(found) // CLOCK_POINTS) or 1
    return found[::every] + (found[-1:] if (len(found) - 1) % every else [])


def rounded(value: float | None) -> float | int | None:
    """Six digits: more than a screen can show, and a third of the bytes."""
    if value is None:
        return None
    short = float(f"{value:.6g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
