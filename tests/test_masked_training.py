"""Pre-training by masks through the whole program: log, resume, fine-tune, refusals."""

import math
import shutil

import numpy as np
import pytest
from etils import epath

from configs import base
from tests import training
from vit_jax import config as configs
from vit_jax import metrics, setup, warm_start
from vit_jax.checkpoint import Checkpoints
from vit_jax.data.facts import DatasetFacts
from vit_jax.train import train
from vit_jax.weights import load
from vit_jax.weights.build import by_path

# The recipes at the size of digits.
SMALL = (
    "model.width=16",
    "model.depth=2",
    "model.num_heads=2",
    "model.patch_size=(2,2)",
    "model.image_size=(8,8)",
    "model.channels=1",
    "model.dtype=float32",
    "data.name=digits",
    "data.mean=(0.5,)",
    "data.std=(0.5,)",
    "data.augment.crop=pad",
    "data.augment.pad=1",
    "data.augment.flip=False",
    "train.batch_size=16",
    "train.duration.steps=8",
    "schedule.warmup.steps=2",
    "log.every.steps=1",
    "log.tensorboard=False",
    "checkpoint.every.steps=4",
)
RECIPES = {
    "mae_i1k": (
        "objective.decoder_width=8",
        "objective.decoder_depth=1",
        "objective.decoder_heads=2",
    ),
    "masked_patch_i1k": ("model.drop_path=0.1",),
}


def small_config(recipe, *changes):
    file = training.ROOT / "configs" / f"{recipe}.py"
    overrides = (*SMALL, *RECIPES[recipe], f"data.dir={training.digits_dir()}")
    merged = dict(text.split("=", 1) for text in (*overrides, *changes))
    return configs.load(
        str(file), [f"--config.{key}={value}" for key, value in merged.items()]
    )


def run(config, workdir):
    said = []
    result = train(config, str(workdir), say=said.append)
    return result, "\n".join(map(str, said))


def losses(workdir):
    rows = metrics.read_rows(workdir / "metrics.jsonl")
    return [row["train/loss"] for row in rows if "train/loss" in row]


def restored(config, workdir):
    parts = training.build(config)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=9, read_only=True)
    state, _ = checkpoints.restore(8, parts.state_shapes)
    checkpoints.close()
    return training.host(state)


@pytest.mark.parametrize(
    "recipe", ["mae_i1k", pytest.param("masked_patch_i1k", marks=pytest.mark.slow)]
)
def test_a_run_is_logged_and_resumes_bit_for_bit(recipe, tmp_path):
    config = small_config(recipe)
    result, said = run(config, tmp_path / "run")
    assert (result.steps, result.evaluations) == (8, {})
    name = "mae" if recipe == "mae_i1k" else "masked_patch"
    assert f"{name} ViT" in said
    rows = metrics.read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 9))
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "run"))
    assert ("train/colour_accuracy" in rows[0]) == (recipe == "masked_patch_i1k")
    assert not [key for row in rows for key in row if key.startswith("val")]

    shutil.copytree(tmp_path / "run", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "8")
    result, _ = run(config, tmp_path / "again")
    assert result.trained_steps == 4
    assert losses(tmp_path / "again") == losses(tmp_path / "run")
    whole, again = (restored(config, tmp_path / part) for part in ("run", "again"))
    assert training.same_bits(whole, again)
    if recipe == "mae_i1k":
        starts_from(tmp_path / "run", tmp_path / "tuned", whole.params["encoder"])


def starts_from(pretrained, workdir, encoder):
    """The encoder alone is read, for a model with a head."""
    loaded = load(str(pretrained))
    assert loaded.model.num_classes == 0 and loaded.record.missing == ()
    assert any(path.startswith("decoder/") for path in loaded.record.unused)
    np.testing.assert_array_equal(
        loaded.model.blocks.mlp.hidden.kernel[...],
        encoder["blocks"]["mlp"]["hidden"]["kernel"],
    )
    config = training.tiny_config(
        f"model.init_from={pretrained}", "model.variant=source"
    )
    config = warm_start.adopt(config, epath.Path(workdir))
    shapes = training.build(config).state_shapes.params
    start = warm_start.prepare(config, shapes, workdir)
    assert start is not None
    paths = {path for path in by_path(shapes) if "/head/" not in path}
    assert start.leaves.keys() == paths


def problems(*changes, section=None, **fields):
    config = training.tiny_config(*changes).unlock()
    config.objective = section or base.mae()
    config.model.num_classes = None
    config.evals = {}
    config.checkpoint.best = ""
    for path, value in fields.items():
        place, name = config, path
        while "__" in name:
            head, _, name = name.partition("__")
            place = place[head]
        place[name] = value
    return configs.check(config, facts=None, num_devices=8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model__num_classes": 10}, "is 10, but objective 'mae' trains no such part"),
        ({"objective__mask_rate": 0.95}, "leave some of the 16 patches, got 0.95"),
        ({"objective__mask_rate": math.nan}, "must be in (0, 1)"),
        ({"objective__decoder_heads": 3}, "decoder_heads 3 does not divide"),
        ({"model__pool": "map"}, "model.pool is 'map', but objective 'mae'"),
        ({"data__augment__views": 2}, "objective 'mae' takes one view"),
        ({"checkpoint__best": "val/accuracy"}, "there are none: set ''"),
    ],
)
def test_what_a_config_cannot_ask_of_a_masked_autoencoder(fields, message):
    assert problems() == []
    found = problems(**fields)
    assert len(found) == 1 and message in found[0]


def test_what_a_config_cannot_ask_of_masked_patches():
    section = base.masked_patch(target="colours_4x4", mask_unit=3, hidden_rate=2.0)
    found = problems(section=section)
    assert [line.split(" ")[0] for line in found] == [
        "objective.target",
        "objective.hidden_rate",
        "objective.mask_unit",
    ]
    section = base.masked_patch()
    section["mask_ratio"] = 0.5
    (line,) = problems(section=section)
    assert "objective.mask_ratio is not a setting" in line
    assert "did you mean 'mask_rate'?" in line


def test_an_evaluation_that_needs_logits():
    found = problems(evals={"val": base.classification(split="test", resize=0)})
    assert found == [
        "evals.val: 'classification' needs logits, which objective 'mae' does not "
        "give; measure features: knn, fewshot, linear_probe"
    ]


def test_classes_of_the_data_are_not_taken_over():
    config = small_config("mae_i1k").unlock()
    config.model.num_classes = None
    facts = setup.describe_data(config.lock())
    assert isinstance(facts, DatasetFacts) and facts.num_classes == 10
    assert setup.resolve(config, facts).model.num_classes == 0
    config = training.tiny_config().unlock()
    config.model.num_classes = None
    assert setup.resolve(config, facts).model.num_classes == 10
