"""The recipes of next-patch prediction: published values, and real sizes."""

import jax
import pytest
from flax import nnx

from tests.test_recipes import build, load
from vit_jax import config as configs


def test_aim_i1k():
    """The paper's hyper-parameters; its sizes and positions as in apple/ml-aim."""
    config = load("aim_i1k")
    assert config.train.batch_size == 4096
    assert config.train.duration.steps == 500_000
    assert config.optim.to_dict() == {
        "name": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "decay_mask": "kernels",
        "b1": 0.9,
        "b2": 0.95,
        "eps": 1e-8,
        "mu_dtype": "float32",
        "nu_dtype": "float32",
        "clip_norm": 1.0,
        "layer_decay": 1.0,
    }
    assert (config.schedule.name, config.schedule.final) == ("cosine", 0)
    assert config.schedule.warmup.steps == 31_250
    augment = config.data.augment
    assert (augment.crop, augment.area, augment.flip) == ("inception", (0.4, 1), True)
    assert (augment.policy, augment.color_jitter, augment.erase) == ("none", 0, 0)
    assert (augment.mixup, augment.cutmix) == (0, 0)
    assert config.data.mean == (0.485, 0.456, 0.406)
    assert config.data.std == (0.229, 0.224, 0.225)
    assert config.objective.to_dict() == {
        "name": "autoregressive",
        "norm_pixels": True,
        "decoder_width": 2048,
        "decoder_depth": 12,
        "chunk": 0,
    }
    model = config.model
    assert (model.variant, model.image_size) == ("AIM-600M/14", (224, 224))
    assert (model.pool, model.cls_token, model.num_classes) == ("gap", None, 0)
    assert (model.position, model.activation) == ("sincos2d_mae", "gelu")
    assert not config.evals and config.checkpoint.best == ""
    assert config.data.split == "train"


@pytest.mark.parametrize(
    ("size", "width", "depth", "heads", "millions"),
    # By hand: 13 w a block for biases and norms beside its 12 w^2.
    [
        ("AIM-600M", 1536, 24, 12, 681),
        ("AIM-1B", 2048, 24, 16, 1210),
        ("AIM-3B", 3072, 24, 24, 2721),
        ("AIM-7B", 4096, 32, 32, 6447),
    ],
)
def test_sizes_of_aim(size, width, depth, heads, millions):
    config = load(f"aim_i1k:{size}")
    assert configs.check(config, facts=None, num_devices=64) == []
    objective = nnx.eval_shape(lambda: build(config))
    encoder = objective.encoder
    assert (encoder.width, encoder.depth, encoder.num_heads) == (width, depth, heads)
    assert (encoder.mlp_dim, encoder.grid) == (4 * width, (16, 16))
    assert encoder.cls is None and encoder.position_embedding is None
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(encoder)))
    assert round(count / 1e6) == millions
    assert objective.decoder.width == 2048 and objective.num_patches == 256


def test_aim_i1k_knows_its_sizes():
    with pytest.raises(configs.ConfigError, match="'B/16' is no size of AIM; known: A"):
        load("aim_i1k:B/16")


def test_aim_digits():
    config = load("aim_digits")
    assert (config.data.name, config.model.image_size) == ("digits", (8, 8))
    assert config.objective.name == "autoregressive"
    assert config.objective.norm_pixels is False
    assert config.data.augment.flip is False and config.data.augment.mixup == 0
