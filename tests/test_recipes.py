"""The shipped recipes: published values, and models that build at their real size."""

from pathlib import Path

import jax
import pytest
from flax import nnx

from vit_jax import config as configs
from vit_jax import objectives
from vit_jax.models import vit

FOLDER = Path(__file__).resolve().parents[1] / "configs"
NAMES = sorted(file.stem for file in FOLDER.glob("*.py") if file.stem != "base")
I21K = ("Ti/16", "S/32", "S/16", "B/32", "B/16", "L/16")
SPECS = [
    *NAMES,
    "digits:Ti/2",
    *(f"vit_i21k:{size}" for size in I21K),
]


def load(spec):
    name, _, arg = spec.partition(":")
    return configs.load(f"{FOLDER / name}.py" + (f":{arg}" if arg else ""))


def build(config):
    settings = {key: config.model[key] for key in config.model if key != "init_from"}
    return objectives.build(
        config.objective.to_dict(),
        encoder=vit.build(key=jax.random.key(0), **settings),
    )


@pytest.mark.parametrize("spec", SPECS)
def test_builds_and_predicts_at_its_real_size(spec):
    config = load(spec)
    objective = nnx.eval_shape(lambda: build(config))
    shape = (2, *config.model.image_size, config.model.channels)
    out = nnx.eval_shape(
        lambda model, images: model.predict(images),
        objective,
        jax.ShapeDtypeStruct(shape, "float32"),
    )
    assert out["logits"].shape == (2, config.model.num_classes)


@pytest.mark.parametrize("spec", SPECS)
def test_has_no_problems_on_eight_devices(spec):
    assert configs.check(load(spec), facts=None, num_devices=8) == []


def test_vit_s16_i1k():
    """big_vision's configs/vit_s16_i1k.py; its weight decay 1e-4 over its rate 1e-3."""
    config = load("vit_s16_i1k")
    assert config.train.batch_size == 1024
    assert config.train.duration.epochs == 90
    assert config.optim.to_dict() == {
        "name": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": pytest.approx(1e-4 / 1e-3),
        "decay_mask": "kernels",
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "mu_dtype": "bfloat16",
        "clip_norm": 1.0,
    }
    assert config.schedule.name == "cosine"
    assert config.schedule.warmup.steps == 10_000
    assert config.schedule.final == 0
    augment = config.data.augment
    assert (augment.crop, augment.area, augment.flip) == ("inception", (0.05, 1), True)
    assert (augment.randaugment_layers, augment.randaugment_magnitude) == (2, 10)
    assert augment.mixup == 0.2
    assert config.objective.to_dict() == {
        "name": "supervised",
        "loss": "softmax",
        "label_smoothing": 0.0,
    }
    model = config.model
    assert (model.variant, model.pool, model.position) == ("S/16", "gap", "sincos2d")
    assert (model.pre_logits, model.head_bias, model.num_classes) == (-1, 0, 1000)
    assert config.data.split == "train[:99%]"
    assert config.evals.minival.split == "train[99%:]"
    assert config.evals.val.split == "validation"
    assert config.evals.val.resize == 256
    assert config.checkpoint.best == "minival/accuracy"


@pytest.mark.parametrize(
    ("variant", "layers", "magnitude", "mixup"),
    [
        ("Ti/16", 0, 0, 0),
        ("S/32", 0, 0, 0),
        ("S/16", 2, 0, 0),
        ("B/32", 2, 10, 0.2),
        ("B/16", 2, 10, 0.2),
        ("L/16", 2, 15, 0.5),
    ],
)
def test_vit_i21k(variant, layers, magnitude, mixup):
    """big_vision's configs/vit_i21k.py."""
    config = load(f"vit_i21k:{variant}")
    assert config.model.variant == variant
    augment = config.data.augment
    assert augment.randaugment_layers == layers
    assert augment.randaugment_magnitude == magnitude
    assert augment.mixup == mixup
    assert (augment.crop, augment.flip) == ("inception", True)
    assert config.train.batch_size == 4096
    assert config.train.duration.epochs == 300
    assert config.schedule.name == "cosine"
    assert config.schedule.warmup.steps == 10_000
    assert (config.optim.learning_rate, config.optim.weight_decay) == (1e-3, 0.1)
    assert (config.optim.mu_dtype, config.optim.clip_norm) == ("bfloat16", 1.0)
    assert (config.objective.loss, config.model.head_bias) == ("sigmoid", -10)
    assert (config.model.pool, config.model.position) == ("gap", "learned")
    assert (config.model.pre_logits, config.model.num_classes) == (0, 21_843)


def test_vit_i21k_knows_its_sizes():
    assert load("vit_i21k").model.variant == "B/16"
    with pytest.raises(configs.ConfigError, match="no published level for 'H/14'"):
        load("vit_i21k:H/14")


def test_digits():
    config = load("digits")
    assert (config.data.name, config.data.split) == ("digits", "train")
    assert (config.evals.val.split, config.evals.val.resize) == ("test", 0)
    assert (config.model.image_size, config.model.channels) == ((8, 8), 1)
    assert config.data.augment.flip is False
    assert config.model.dtype == "float32"
    assert load("digits:Ti/2").model.width is None
