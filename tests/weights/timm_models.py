"""What the tests of timm's format need: its own tiny models, their files, comparisons."""

import functools

import jax
import numpy as np
from flax import nnx

from tests import foreign
from tests.models import tiny
from vit_jax.weights.base import Card, Preprocessing, complete

TOLERANCE = 2e-5  # of logits against torch in float32
IMAGE = (12, 20)  # a grid of 3 x 4 patches of 4 x 5
CARD = Card("tiny", Preprocessing(IMAGE))

SIZES = {
    "img_size": list(IMAGE),
    "patch_size": [4, 5],
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "mlp_ratio": 40 / 24,
}

PLAIN = "vit_base_patch16_224"
GATED = "vit_giant_patch14_dinov2"
DISTILLED = "deit_base_distilled_patch16_224"

# What timm has of ours: an entry point and arguments that a config.json can hold.
MODELS = {
    "cls": (PLAIN, {}),
    "cls, tanh": (PLAIN, {"act_layer": "gelu_tanh"}),
    "cls, norm of features": (PLAIN, {"fc_norm": True}),
    "mean beside cls": (PLAIN, {"global_pool": "avg", "fc_norm": False}),
    "mean, norm of features": (PLAIN, {"global_pool": "avg", "class_token": False}),
    "mean": (PLAIN, {"global_pool": "avg", "class_token": False, "fc_norm": False}),
    "map": (PLAIN, {"global_pool": "map", "class_token": False}),
    "map with prefix, rms": (
        PLAIN,
        {
            "global_pool": "map",
            "pool_include_prefix": True,
            "reg_tokens": 1,
            "norm_layer": "rmsnorm",
        },
    ),
    "no positions": (PLAIN, {"pos_embed": "none"}),
    "cls without position": (PLAIN, {"no_embed_class": True}),
    "registers": (PLAIN, {"reg_tokens": 2}),
    "registers without cls": (
        PLAIN,
        {"reg_tokens": 2, "class_token": False, "global_pool": "avg"},
    ),
    "registers, scales": (
        PLAIN,
        {"reg_tokens": 2, "no_embed_class": True, "init_values": 0.1},
    ),
    "qk norm": (PLAIN, {"qk_norm": True}),
    "qk norm, rms": (PLAIN, {"qk_norm": True, "norm_layer": "rmsnorm"}),
    "epsilon 1e-5": ("vit_base_patch16_clip_224", {"pre_norm": False}),
    "swiglu": (GATED, {"mlp_ratio": 80 / 24}),
    "swiglu, rms": (GATED, {"mlp_ratio": 80 / 24, "norm_layer": "rmsnorm"}),
    "distilled": (DISTILLED, {}),
    "no head": (PLAIN, {"num_classes": 0}),
}


def build(architecture=PLAIN, **arguments):
    """One of timm's models, tiny, with random weights and no zeros."""
    chosen = {"num_classes": 7} | SIZES | arguments
    return foreign.randomise(foreign.timm.create_model(architecture, **chosen))


def save_folder(model, folder):
    """A folder with a config.json as timm writes it."""
    foreign.timm.models.save_for_hf(model, str(folder), safe_serialization=True)
    return str(folder)


def save(file, arrays):
    """A state dict alone: torch's tensors, contiguous, in safetensors."""
    import safetensors.torch

    arrays = {name: array.contiguous() for name, array in arrays.items()}
    safetensors.torch.save_file(arrays, str(file))
    return str(file)


def images(seed=0):
    shape = (2, *IMAGE, 3)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def theirs(model):
    """Logits of a model of timm."""
    return foreign.run(model, images()).numpy()


@functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.FAST)
def _run(graphdef, params, inputs):
    return nnx.merge(graphdef, params)(inputs)


def ours(model):
    """Logits of a model of ours."""
    return np.asarray(_run(*nnx.split(model), images()))


def gap(actual, expected):
    """Largest absolute difference."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    return np.abs(actual - expected).max()


def parameters(model):
    """By path within the ViT."""
    return tiny.flatten(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def random_model(**changes):
    """Complete settings, random parameters by path, and the model of both."""
    changes = {"image_size": IMAGE} | changes
    graphdef, shapes = tiny.vit_shapes(**changes)
    params = tiny.fill(shapes)
    model = nnx.merge(graphdef, params)
    return complete(tiny.settings(**changes)), tiny.flatten(params), model


def assert_same(actual, expected):
    """Both have the same names and, bit by bit, the same arrays."""
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        np.testing.assert_array_equal(
            np.asarray(array), np.asarray(expected[name]), err_msg=name, strict=True
        )
