"""What docs/reference/extending.md adds works, with the lines of that page."""

import csv
import importlib
import types

import numpy as np
import optax
import pytest
from PIL import Image

from configs import base
from tests import training
from tests.docs import pages
from tests.weights import exports
from vit_jax import config as configs
from vit_jax import evals, schedules, train
from vit_jax.data import sources
from vit_jax.evaluate import evaluate
from vit_jax.models import variants
from vit_jax.models.variants import Size
from vit_jax.weights import codecs, table
from vit_jax.weights.arrays import Arrays, open_arrays
from vit_jax.weights.export import export
from vit_jax.weights.folders import save_safetensors


def module(name, **given):
    """The page's file of that name, as a module."""
    found = types.ModuleType(name.replace(" ", "_"))
    vars(found).update(given)
    exec(compile(pages.named(name), name, "exec"), vars(found))
    return found


def entry(name, **given):
    """The page's row of a table, as a dict."""
    return eval("{" + pages.named(name) + "}", given)


def test_every_named_block_is_tested_here_or_in_test_new_objective():
    named = {b.text for b in pages.blocks("python") if b.mark == "named"}
    here = {
        *("size", "schedule", "data set", "data set entry", "evaluator"),
        *("evaluator config", "row", "weight format"),
    }
    assert named == here | {"objective", "objective config"}


def test_a_size(monkeypatch):
    row = entry("size", Size=Size)
    monkeypatch.setattr(variants, "VARIANTS", variants.VARIANTS | row)
    found = variants.parse("XL/16")
    assert found.width == 1280
    assert found.depth == 28


def test_a_schedule(monkeypatch):
    square = module("schedule", optax=optax).square
    monkeypatch.setitem(schedules.SCHEDULES, "square", square)
    built = schedules.build(
        name="square",
        peak=2.0,
        total_steps=12,
        warmup_steps=2,
        cooldown_steps=0,
        final=0.5,
        timescale=1,
    )
    assert [float(built(step)) for step in (0, 2, 7, 12)] == [0.0, 2.0, 1.25, 1.0]


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """A CSV file of 24 images of two classes; their kind is in SOURCES."""
    rng = np.random.default_rng(0)
    with open(tmp_path / "images.csv", "w", newline="") as file:
        for number in range(24):
            dark, name = number % 2, f"{number}.png"
            pixels = rng.integers(0, 100, (8, 8), np.uint8) + 155 * (1 - dark)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name)
            split = "test" if number >= 16 else "train"
            kind = ("bright", "dark")[dark]
            csv.writer(file).writerow((split, kind, tmp_path / name))
    row = entry("data set entry", Kind=sources.Kind, listed=module("data set"))
    monkeypatch.setattr(sources, "SOURCES", sources.SOURCES | row)
    return f"csv:{tmp_path / 'images.csv'}"


def test_a_data_set_is_trained_on_and_an_evaluator_asked(listed, tmp_path, monkeypatch):
    monkeypatch.setitem(evals.EVALUATORS, "rank", module("evaluator").Rank)
    flags = training.flags(
        *(f"data.name={listed}", "train.duration.steps=24", "model.depth=1"),
        *("data.augment.mixup=0.0", "evals.val.every.steps=24", "train.batch_size=8"),
        *("checkpoint.every.steps=24", "model.num_classes=2"),
    )
    config = configs.load(training.DIGITS, flags)
    code = pages.named("evaluator config").replace("epochs=25", "steps=24")
    with config.unlocked():
        exec(code, {"config": config, "base": base})
    assert not configs.check(config, facts=None, num_devices=8)
    folder = str(tmp_path / "run")
    result = train.train(config, folder, say=lambda line: None)
    assert result.evaluations["val/examples"] == 8
    assert result.evaluations["val/accuracy"] == 1.0
    rank = result.evaluations["rank/rank"]
    assert 1 < rank <= 16  # the width
    _, again = evaluate(folder, names=["rank"], say=lambda line: None)
    assert again == {"rank/rank": rank}
    names = (tmp_path / "run" / "classes.txt").read_text().split()
    assert names == ["bright", "dark"]


def test_splits_of_a_data_set(listed):
    half = sources.open_source(sources.DataSpec(listed), "train[8:]+test")
    assert len(half) == 16
    assert half.where(0).endswith("8.png")


def test_a_row_of_a_format():
    row = eval(pages.named("row"), {"Row": table.Row, "codecs": codecs})
    layers = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    named = {f"blocks.{i}.mlp.fc1.weight": layer for i, layer in enumerate(layers)}
    found = table.decode(Arrays("file", named), [row], 3)
    kernel = table.whole(found["blocks/mlp/hidden/kernel"])
    np.testing.assert_array_equal(kernel, layers.transpose(0, 2, 1))


def test_a_weight_format_is_read(tmp_path, monkeypatch):
    source, model = exports.write_source(tmp_path / "source", activation="gelu")
    export(source, str(tmp_path / "timm"), to="timm", say=lambda line: None)
    arrays = open_arrays(str(tmp_path / "timm" / "model.safetensors"))
    prefix = "module.base_encoder."
    renamed = {prefix + name: np.array(array) for name, array in arrays.items()}
    renamed["module.predictor.0.weight"] = np.zeros((2, 2), np.float32)
    save_safetensors(tmp_path / "moco.safetensors", renamed.items())
    load = importlib.import_module("vit_jax.weights.load")  # a function has this name
    formats = {"moco": module("weight format"), **load.FORMATS}
    monkeypatch.setattr(load, "FORMATS", formats)
    found, record = load.load(
        str(tmp_path / "moco.safetensors"),
        num_heads=model.settings.num_heads,
        image_size=model.image_size,
    )
    assert record.format == "moco"
    assert record.unused == ("module.predictor.0.weight",)
    assert record.preprocessing.mean == (0.485, 0.456, 0.406)
    images = exports.images(model)
    np.testing.assert_allclose(
        exports.expected(found, images), exports.expected(model, images), atol=1e-5
    )
