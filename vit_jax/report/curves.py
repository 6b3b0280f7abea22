"""The learning curves of a run: one row of panels from its rows of metrics."""

import io
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from vit_jax.metrics import location, read_rows
from vit_jax.storage import absolute

Series = dict[str, tuple[list[int], list[float]]]

# Training is one colour everywhere; evaluations take the others in turn.
_TRAIN_COLOUR = "#4c78a8"
_OTHER_COLOURS = ("#e4572e", "#2a9d5c", "#8e6bbf", "#c99a1b", "#7a7a7a")

_PANELS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("loss", lambda name: name.endswith("/loss")),
    ("accuracy", lambda name: name.endswith("/accuracy")),
    ("learning rate", lambda name: name == "train/learning_rate"),
    ("images per second", lambda name: name == "train/img_per_sec"),
)


def draw(workdir: str | os.PathLike[str]) -> epath.Path:
    """Draws `workdir/figures/curves.png` and returns its path.

    Raises:
      ValueError: the run has logged none of the curves yet.
    """
    folder = absolute(workdir)
    series = _read(folder)
    panels: list[tuple[str, Series]] = []
    for title, belongs in _PANELS:
        chosen = {name: series[name] for name in series if belongs(name)}
        if chosen:
            panels.append((title, chosen))
    if not panels:
        raise ValueError(f"{location(folder)} has no curves to draw yet")

    figure = Figure(figsize=(3.6 * len(panels) + 0.4, 3.3))
    figure.set_layout_engine("constrained", wspace=0.06)
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(folder.name, fontsize=12, fontweight="bold")
    last_step = max(steps[-1] for _, chosen in panels for steps, _ in chosen.values())
    for index, (title, chosen) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        _draw_panel(axes, title, chosen)
        axes.set_xlim(0, max(1, last_step) * 1.02)
    path = folder / "figures" / "curves.png"
    path.parent.mkdir(exist_ok=True)
    figure.set_dpi(150)
    picture = io.BytesIO()
    canvas.print_png(picture)
    path.write_bytes(picture.getvalue())
    return path


def _read(workdir: epath.Path) -> Series:
    """Steps and finite values by name; train first, then val, then the rest."""
    rows: list[Mapping[str, Any]] = sorted(
        read_rows(workdir), key=lambda row: row["step"]
    )
    names = {name for row in rows for name in row if name != "step"}
    series: Series = {}
    for name in sorted(names, key=lambda name: (_rank(name), name)):
        chosen = [row for row in rows if _is_number(row, name)]
        if chosen:
            steps = [row["step"] for row in chosen]
            series[name] = (steps, [float(row[name]) for row in chosen])
    return series


def _rank(name: str) -> int:
    prefixes = ("train/", "val/")
    return next((i for i, p in enumerate(prefixes) if name.startswith(p)), 2)


def _is_number(row: Mapping[str, Any], name: str) -> bool:
    value = row.get(name)
    return isinstance(value, int | float) and math.isfinite(value)


def _draw_panel(axes: Axes, title: str, series: Series) -> None:
    others = 0
    for name, (steps, values) in series.items():
        train = name.startswith("train/")
        colour = _TRAIN_COLOUR if train else _OTHER_COLOURS[others % 5]
        others += not train
        few = (not train and len(steps) <= 40) or len(steps) == 1
        axes.plot(
            steps,
            values,
            label=name.rpartition("/")[0],
            color=colour,
            linewidth=1.3 if train else 1.8,
            alpha=0.85 if train else 1.0,
            marker="o" if few else "",
            markersize=4,
            zorder=2 if train else 3,
        )
    axes.set_title(title, fontsize=10, color="#333333")
    axes.set_xlabel("step", fontsize=9, color="#555555")
    if title in ("accuracy", "images per second"):
        axes.set_ylim(bottom=0)
    if title == "images per second":
        top = max(value for _, values in series.values() for value in values)
        axes.set_ylim(0, top * 1.1 or 1)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    if title == "learning rate":
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(_scientific))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(labelsize=8, color="#bbbbbb", labelcolor="#444444")
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#bbbbbb")
    if len(series) > 1:
        axes.legend(fontsize=8, frameon=False)


def _scientific(value: float, _: object = None) -> str:
    """1e-3 and 2.5e-4, as people write learning rates."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
