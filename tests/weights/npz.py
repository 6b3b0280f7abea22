"""What the tests of both npz formats need: tiny models of ours, files, comparisons."""

import functools

import jax
import numpy as np
from flax import nnx

from tests.models import tiny
from vit_jax.models.vit import ViT
from vit_jax.weights.base import Card, Preprocessing, complete
from vit_jax.weights.load import open_checkpoint
from vit_jax.weights.table import whole

TOLERANCE = 1e-5  # of logits against references in float64
IMAGE = (12, 15)  # a grid of 3 x 3 patches of 4 x 5
CARD = Card("tiny", Preprocessing(IMAGE))

# timm's arguments for the same tiny model.
TIMM = {
    "img_size": IMAGE,
    "patch_size": (4, 5),
    "num_classes": 7,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "mlp_ratio": 40 / 24,
    "act_layer": "gelu_tanh",
    "fc_norm": False,
}


@functools.cache
def _shapes(settings):
    """Traced once for all the files that hold the same model."""
    return tiny.shapes(lambda key: ViT(**dict(settings), key=key))


def open_model(path, **arguments):
    """The model of a file, as `load` makes it but with less to trace, and its record."""
    opened = open_checkpoint(path, **arguments)
    graphdef, shapes = _shapes(tuple(opened.settings.items()))
    wanted = tiny.flatten(shapes)
    params = {name: whole(leaf) for name, leaf in opened.leaves.items()}
    assert params.keys() == wanted.keys()
    for name, array in params.items():
        assert array.shape == wanted[name].shape, name
    leaves = [params[name] for name in wanted]
    return nnx.merge(graphdef, jax.tree.structure(shapes).unflatten(leaves)), opened


@functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.FAST)
def _run(graphdef, params, images):
    return nnx.merge(graphdef, params)(images)


def logits(model, images):
    return np.asarray(_run(*nnx.split(model), images))


def gap(actual, expected):
    """Largest absolute difference."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    return np.abs(actual - expected).max()


def save(path, arrays):
    np.savez(path, **arrays)
    return str(path)


def read(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def parameters(model):
    """By path within the ViT."""
    return tiny.flatten(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def random_model(**changes):
    """Complete settings, random parameters by path, and the model of both."""
    changes = {"image_size": IMAGE, "position": "learned"} | changes
    settings = complete(tiny.settings(**changes))
    graphdef, shapes = _shapes(tuple(settings.items()))
    params = tiny.fill(shapes)
    return settings, tiny.flatten(params), nnx.merge(graphdef, params)


def assert_same(actual, expected):
    """Both have the same names and, bit by bit, the same arrays."""
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        np.testing.assert_array_equal(array, expected[name], strict=True)
