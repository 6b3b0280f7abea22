"""Pictures of a sweep: parallel coordinates, and the metric against each key."""

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vit_jax.sweep.record import Sweep
from vit_jax.sweep.table import Row, varied
from vit_jax.sweep.trials import text

_GREY = "#bbbbbb"
_POINT = "#4c78a8"
_MEAN = "#e4572e"
_BAND = 0.06  # of lines that have the same value
_SPREAD = 15.0  # a key whose largest value is so many times its smallest is logarithmic


class Scale:
    """Where the values of a key are on an axis from 0 to 1."""

    def __init__(self, values: Sequence[Any]):
        distinct = {text(value): value for value in values}
        numbers = [
            v
            for v in distinct.values()
            if isinstance(v, int | float) and not isinstance(v, bool)
        ]
        self.numeric = len(numbers) == len(distinct)
        self.names: list[str] = sorted(distinct)
        self.repeats = len(distinct) < len(values)
        self.log = False
        if self.numeric:
            self._low, self._high = min(numbers), max(numbers)
            ordered = sorted(numbers)
            self.log = self._low > 0 and (
                self._high / self._low >= _SPREAD or _is_geometric(ordered)
            )
            if len(ordered) > 6:
                ordered = self._spaced()
            self.names = [f"{value:.3g}" for value in ordered]
            self.ticks = [self.place(value) for value in ordered]
        else:
            self.ticks = [self.place(distinct[name]) for name in self.names]

    def _spaced(self) -> list[float]:
        space = np.geomspace if self.log else np.linspace
        return [float(value) for value in space(self._low, self._high, 5)]

    def place(self, value: Any) -> float:
        if not self.numeric:
            last = max(1, len(self.names) - 1)
            return self.names.index(text(value)) / last
        if self._high == self._low:
            return 0.5
        if self.log:
            return math.log(value / self._low) / math.log(self._high / self._low)
        return (value - self._low) / (self._high - self._low)


def _is_geometric(ordered: Sequence[float]) -> bool:
    """Whether a few values are spaced more evenly by factors than by differences."""
    if not 3 <= len(ordered) <= 6:
        return False

    def unevenness(values: np.ndarray) -> float:
        gaps = np.diff(values)
        return float(gaps.max() / gaps.min())

    return unevenness(np.log(ordered)) < unevenness(np.asarray(ordered))


def draw(workdir: Any, found: Sequence[Row], sweep: Sweep) -> list[Any]:
    """Writes ``figures/parallel.png`` and ``figures/keys.png``; returns their paths.

    Only trials that have a value of the metric are in them; what was pruned is pale.

    Raises:
      ValueError: no trial has one, or all are the same in every key.
    """
    shown = [row for row in found if row.value is not None]
    keys = [key for key in varied(found) if all(key in row.overrides for row in shown)]
    if not shown or not keys:
        raise ValueError(f"nothing to draw yet: no trial has reported {sweep.metric}")
    folder = workdir / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in (
        ("parallel", parallel(shown, keys, sweep, workdir.name)),
        ("keys", against_keys(shown, keys, sweep, workdir.name)),
    ):
        picture = io.BytesIO()
        figure.set_dpi(150)
        FigureCanvasAgg(figure).print_png(picture)
        path = folder / f"{name}.png"
        path.write_bytes(picture.getvalue())
        paths.append(path)
    return paths


def parallel(
    shown: Sequence[Row], keys: Sequence[str], sweep: Sweep, title: str
) -> Figure:
    """An axis for each key and the last for the metric; a line for each trial."""
    figure = Figure(figsize=(1.9 * (len(keys) + 1) + 1.2, 4.2))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    values = [row.value for row in shown if row.value is not None]
    scales = [Scale([row.overrides[key] for row in shown]) for key in keys]
    scales.append(_metric_scale(values))
    colours = matplotlib.colormaps["viridis" if sweep.mode == "max" else "viridis_r"]
    better_last = sorted(
        shown, key=lambda row: row.value or 0.0, reverse=sweep.mode == "min"
    )
    lowest = _BAND / 2 if sweep.mode == "min" else -_BAND / 2
    shift = np.linspace(lowest, -lowest, len(shown)) if len(shown) > 1 else [0.0]
    for row, aside in zip(better_last, shift, strict=True):
        points = [*(row.overrides[key] for key in keys), row.value]
        heights = [s.place(p) for s, p in zip(scales, points, strict=True)]
        # Side by side, or trials of the same value would hide each other.
        heights[:-1] = [
            height + aside * scale.repeats
            for height, scale in zip(heights[:-1], scales, strict=False)
        ]
        axes.plot(
            range(len(heights)),
            heights,
            color=colours(0.95 * heights[-1]),
            linewidth=1.4,
            alpha=0.3 if row.status != "done" else 0.85,
        )
    for index, scale in enumerate(scales):
        axes.axvline(index, color=_GREY, linewidth=1.0, zorder=3)
        for tick, name in zip(scale.ticks, scale.names, strict=True):
            axes.annotate(
                name,
                (index, tick),
                xytext=(5, 0),
                textcoords="offset points",
                fontsize=8,
                color="#222222",
                va="center",
                zorder=4,
                bbox={"facecolor": "white", "alpha": 0.85, "pad": 0.8, "lw": 0},
            )
    axes.set_xlim(-0.1, len(keys) + 0.35)
    axes.set_ylim(-0.06, 1.06)
    names = [*(_short(key) for key in keys), sweep.metric]
    axes.set_xticks(range(len(names)), names, fontsize=9, color="#333333")
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    figure.suptitle(f"{title}: {len(shown)} trials", fontsize=11, fontweight="bold")
    return figure


def _metric_scale(values: Sequence[float]) -> Scale:
    scale = Scale(values)
    scale.log = False
    space = sorted(set(values)) if len(set(values)) < 4 else scale._spaced()
    scale.names = [f"{value:.4g}" for value in space]
    scale.ticks = [scale.place(value) for value in space]
    return scale


def against_keys(
    shown: Sequence[Row], keys: Sequence[str], sweep: Sweep, title: str
) -> Figure:
    """A panel for each key: a point for each trial, and the means where they repeat."""
    columns = min(4, len(keys))
    lines = -(-len(keys) // columns)
    figure = Figure(figsize=(3.4 * columns + 0.4, 3.1 * lines + 0.3))
    figure.set_layout_engine("constrained", wspace=0.06, hspace=0.06)
    for index, key in enumerate(keys):
        axes = figure.add_subplot(lines, columns, index + 1)
        _panel(axes, shown, key)
        if index % columns == 0:
            axes.set_ylabel(sweep.metric, fontsize=9, color="#555555")
    figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def _panel(axes: Axes, shown: Sequence[Row], key: str) -> None:
    scale = Scale([row.overrides[key] for row in shown])
    by_value: dict[float, list[float]] = {}
    for row in shown:
        assert row.value is not None
        place = row.overrides[key] if scale.numeric else scale.place(row.overrides[key])
        done = row.status == "done"
        if done:
            by_value.setdefault(place, []).append(row.value)
        axes.plot(
            [place],
            [row.value],
            "o",
            color=_POINT,
            alpha=0.75 if done else 0.25,
            markersize=5,
            markeredgewidth=0,
        )
    repeated = len(by_value) < sum(map(len, by_value.values()))
    if repeated and len(by_value) > 1:
        places = sorted(by_value)
        means = [float(np.mean(by_value[place])) for place in places]
        axes.plot(places, means, "-", color=_MEAN, linewidth=1.6, label="mean")
        axes.legend(fontsize=8, frameon=False)
    if scale.log:
        axes.set_xscale("log")
    if not scale.numeric:
        axes.set_xticks(scale.ticks, scale.names)
        axes.set_xlim(-0.15, 1.15)
    elif len(by_value) <= 6 and by_value:
        axes.set_xticks(sorted(by_value), [f"{v:.3g}" for v in sorted(by_value)])
        axes.minorticks_off()
    axes.set_title(_short(key), fontsize=10, color="#333333")
    axes.tick_params(labelsize=8, color=_GREY, labelcolor="#444444")
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_GREY)


def _short(key: str) -> str:
    """The last two parts of a key."""
    return ".".join(key.split(".")[-2:])
