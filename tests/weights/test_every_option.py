"""Format x pooling x option: each model comes back as it was, or is refused by name.

That other libraries compute the same is in the tests of each format.
"""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from tests.models import tiny
from vit_jax.models.vit import ViT
from vit_jax.weights.base import Card, Preprocessing, complete
from vit_jax.weights.build import build
from vit_jax.weights.files import WeightsError
from vit_jax.weights.load import FORMATS, load
from vit_jax.weights.table import constant

WRITERS = ("npz", "big_vision", "timm", "huggingface")
POOLS = {
    "cls": {"pool": "cls", "cls_token": True, "position": "learned_cls"},
    "gap": {"pool": "gap", "position": "learned"},
    "map": {"pool": "map", "position": "learned"},
    "cls_gap": {"pool": "cls_gap", "cls_token": True, "position": "learned_cls"},
}
OPTIONS = {
    "plain": {},
    "exact GELU": {"activation": "gelu"},
    "epsilon": {"norm_epsilon": 1e-5},
    "no head": {"num_classes": 0},
    "pre-logits": {"pre_logits": 10},
    "registers": {"registers": 2},
    "positions of all": {"position": "learned_prefix", "registers": 2},
    "qk-norm": {"qk_norm": True},
    "LayerScale": {"layer_scale": 0.1},
    "DINOv2": {
        "layer_scale": 0.1,
        "activation": "gelu",
        "image_size": (12, 12),
        "patch_size": (4, 4),
        "mlp_dim": 48,
    },
    "SwiGLU": {"mlp": "swiglu"},
    "RMSNorm": {"norm": "rms"},
    "norm of features": {"final_norm": "features"},
    "both norms": {"final_norm": "both"},
    "axial rope": {"rope": "axial"},
    "DINOv3 rope": {"rope": "dinov3", "position": "none"},
    "parallel blocks": {"parallel_blocks": True},
    "fixed positions": {"position": "sincos2d"},
    "MAE's positions": {"position": "sincos2d_mae"},
    "distillation": {"distillation": "head"},
    "stem": {"stem": (1,), "image_size": (24, 24), "patch_size": (4, 4)},
}

# What each format can hold. Written down here, so that neither a refusal nor an
# acceptance appears unnoticed.
_NPZ = {"plain", "no head", "pre-logits", "fixed positions", "MAE's positions"}
_TORCH = {
    *("plain", "exact GELU", "epsilon", "no head", "registers", "positions of all"),
    *("qk-norm", "LayerScale", "DINOv2", "RMSNorm", "norm of features"),
    *("fixed positions", "MAE's positions"),
}
HOLDS = {
    ("npz", "cls"): _NPZ | {"stem"},
    ("npz", "gap"): _NPZ | {"stem"},
    ("npz", "map"): set(),
    ("npz", "cls_gap"): set(),
    ("big_vision", "cls"): _NPZ,
    ("big_vision", "gap"): _NPZ,
    ("big_vision", "map"): _NPZ,
    ("big_vision", "cls_gap"): set(),
    ("timm", "cls"): _TORCH | {"SwiGLU", "distillation"},
    ("timm", "gap"): _TORCH | {"SwiGLU"},
    ("timm", "map"): _TORCH,
    ("timm", "cls_gap"): set(),
    ("huggingface", "cls"): _TORCH | {"SwiGLU", "distillation"},
    ("huggingface", "gap"): _TORCH | {"SwiGLU"},
    ("huggingface", "map"): _TORCH,
    ("huggingface", "cls_gap"): {"DINOv2"},
}


@functools.cache
def written(pool, option):
    """Settings and parameters of a tiny model with this pooling and option."""
    changes = POOLS[pool] | OPTIONS[option]
    try:
        settings = complete(tiny.settings(**changes))
        _, shapes = tiny.vit_shapes(**changes)
    except ValueError:
        return None  # the two exclude each other
    return settings, tiny.flatten(tiny.fill(shapes))


@functools.cache
def logits(pool, option):
    """What the model computes for `images`."""
    settings, params = written(pool, option)
    leaves = {path: constant(array) for path, array in params.items()}
    model, missing, unplaced = build(lambda key: ViT(**settings, key=key), leaves)
    assert not missing and not unplaced
    return run(model)


def run(model):
    images = tiny.images(image_size=model.image_size)
    return np.asarray(_run(*nnx.split(model), images))


@functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.FAST)
def _run(graphdef, params, images):
    return nnx.merge(graphdef, params)(images)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("format", WRITERS)
def test_comes_back_or_is_refused(format, pool, tmp_path):
    held = {
        option
        for number, option in enumerate(OPTIONS)
        if comes_back(format, pool, option, tmp_path / str(number))
    }
    assert held == HOLDS[format, pool]


def comes_back(format, pool, option, folder):
    """Whether the format holds the model; if not, it says so and writes nothing."""
    made = written(pool, option)
    if made is None:
        return False
    folder.mkdir()
    settings, params = made
    target = folder / ("out.npz" if format in ("npz", "big_vision") else "out")
    size = settings["image_size"]
    card = Card(name="tiny", preprocessing=Preprocessing(image_size=size))
    try:
        FORMATS[format].write(target, settings, params, card)
    except WeightsError as error:
        message = str(error)
    else:
        same_model(target, pool, option)
        return True
    assert "\n" not in message and "cannot be written" in message, message
    assert not list(folder.iterdir())
    return False


def same_model(target, pool, option):
    """What was written has the same parameters, or folds them into the same logits."""
    settings, params = written(pool, option)
    model, record = load(str(target), image_size=settings["image_size"])
    # Hugging Face's DINOv2 always has a mask token, which no classifier uses.
    assert set(record.unused) <= {"dinov2.embeddings.mask_token"}
    assert not record.missing
    state = tiny.flatten(nnx.to_pure_dict(nnx.state(model)))
    folded = {"cls", "distillation", "registers", "position_embedding"}
    for path in params.keys() - folded:
        np.testing.assert_array_equal(state[path], params[path], err_msg=path)
    if all(np.array_equal(state.get(path), params.get(path)) for path in folded):
        behaviour = ("activation", "norm_epsilon", "norm", "final_norm", "pool", "mlp")
        assert all(record.settings[name] == settings[name] for name in behaviour)
        return
    np.testing.assert_allclose(run(model), logits(pool, option), atol=1e-5)
