"""The pictures have a line and a point for each trial, on the right scales."""

import numpy as np
import PIL.Image
import pytest

from tests.sweep import fakes
from vit_jax.sweep import plots, table
from vit_jax.sweep.plots import Scale


def rows(count=8):
    rates = [1e-4, 1e-3, 1e-2]
    made = []
    for number in range(count):
        overrides = {
            "optim.learning_rate": rates[number % 3],
            "optim.name": ["adamw", "lion"][number % 2],
            "seed": number,
        }
        value = 0.5 + 0.05 * number
        row = table.Row("i", number, overrides, "done", 5, 5, value, {}, 1, 1.0, "")
        made.append(row)
    return made


def test_scales():
    rate = Scale([1e-4, 1e-3, 1e-2])
    assert rate.log and np.allclose(rate.ticks, [0, 0.5, 1])
    assert rate.names == ["0.0001", "0.001", "0.01"]
    decay = Scale([0.0, 0.1, 0.4])
    assert not decay.log and np.allclose(decay.ticks, [0, 0.25, 1])
    assert Scale([1e-3, 2e-3, 4e-3]).log and not Scale([1, 2, 3]).log
    name = Scale(["lion", "adamw", "lion"])
    assert name.names == ["adamw", "lion"] and name.ticks == [0, 1]
    assert Scale([3]).ticks == [0.5]
    assert Scale([True, False]).names == ["False", "True"]
    assert len(Scale(list(np.linspace(0, 1, 50).tolist())).names) == 5


def test_each_trial_has_its_line_and_its_points(tmp_path):
    keys = ["optim.learning_rate", "optim.name", "seed"]
    figure = plots.parallel(rows(), keys, fakes.SWEEP, "s")
    (axes,) = figure.axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 4]
    assert len(lines) == 8
    heights = sorted(float(line.get_ydata()[-1]) for line in lines)
    assert heights[0] == 0 and heights[-1] == 1
    figure = plots.against_keys(rows(), keys, fakes.SWEEP, "s")
    assert len(figure.axes) == 3
    assert figure.axes[0].get_xscale() == "log"
    points = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    means = [line for line in figure.axes[0].lines if line.get_label() == "mean"]
    assert len(points) == 8 and len(means) == 1
    assert np.isclose(means[0].get_ydata()[0], np.mean([0.5, 0.65, 0.8]))
    assert not [line for line in figure.axes[2].lines if line.get_label() == "mean"]


def test_files(tmp_path):
    paths = plots.draw(tmp_path, rows(), fakes.SWEEP)
    assert [path.name for path in paths] == ["parallel.png", "keys.png"]
    for path in paths:
        pixels = np.asarray(PIL.Image.open(path).convert("L"))
        assert (pixels < 200).mean() > 0.005


def test_nothing_to_draw(tmp_path):
    with pytest.raises(ValueError, match="no trial has reported val/accuracy"):
        plots.draw(tmp_path, [], fakes.SWEEP)
