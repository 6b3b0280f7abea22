"""The curves of a made-up run: a real picture with the panels its rows call for."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_jax.metrics import JsonlWriter
from vit_jax.report.curves import draw


def _write_run(workdir: Path) -> None:
    writer = JsonlWriter(workdir / "metrics.jsonl")
    random = np.random.default_rng(0)
    total = 1684
    for step in range(10, total + 1, 10):
        done = step / total
        warm = min(1.0, step / 150)
        train = {
            "loss": 2.3 * math.exp(-3 * done) + 0.05 * random.random(),
            "accuracy": 1 - 0.9 * math.exp(-4 * done) - 0.03 * random.random(),
            "learning_rate": 1.2e-3 * warm * 0.5 * (1 + math.cos(math.pi * done)),
            "img_per_sec": 7500 + 200 * random.standard_normal(),
        }
        writer.write_scalars(step, {f"train/{k}": v for k, v in train.items()})
        if step % 210 == 0:
            accuracy = 1 - 0.9 * math.exp(-3.6 * done)
            loss = 2.4 * math.exp(-2.7 * done) + 0.1
            writer.write_scalars(step, {"val/accuracy": accuracy, "val/loss": loss})
            writer.write_scalars(step, {"knn/accuracy": accuracy - 0.08})
    writer.close()


def _colours(path: Path) -> set[tuple[int, int, int]]:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    return set(map(tuple, np.unique(pixels, axis=0).tolist()))


def test_draw_shows_training_and_every_evaluation(tmp_path):
    _write_run(tmp_path)
    path = draw(tmp_path)
    assert path == tmp_path / "figures" / "curves.png"
    with Image.open(path) as image:
        width, height = image.size
    assert width > 1800
    assert width > 3 * height
    colours = _colours(path)
    assert (0xE4, 0x57, 0x2E) in colours  # val
    assert (0x2A, 0x9D, 0x5C) in colours  # knn
    assert len(colours) > 100


def test_draw_leaves_no_empty_panel(tmp_path):
    _write_run(tmp_path)
    full = draw(tmp_path)
    with Image.open(full) as image:
        full_width = image.width
    rows = '{"step": 1, "train/loss": 2.0}\n{"step": 2, "train/loss": null}\n{"st'
    (tmp_path / "metrics.jsonl").write_text(rows)
    with Image.open(draw(tmp_path)) as image:
        assert image.width < full_width / 3


def test_draw_says_when_there_is_nothing_to_draw(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/grad_norm": 2.0}\n')
    with pytest.raises(ValueError, match="no curves to draw"):
        draw(tmp_path)
