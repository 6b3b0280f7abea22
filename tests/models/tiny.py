"""Tiny models for the tests: every axis of another length, so that none can be mixed up.

Nothing is initialised here: the shapes are traced and filled with random numbers, so
that no parameter is zero.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vit_jax.models.vit import ViT

# The tests compile many small programs and run each once or twice, so that on a CPU
# most of their time is LLVM's; other compilers may not know the option.
FAST = {"xla_backend_optimization_level": 0}

# Grid 3 x 4 of 4 x 5 patches; heads of 8; no two axes alike.
SETTINGS = {
    "image_size": (12, 20),
    "patch_size": (4, 5),
    "channels": 3,
    "width": 24,
    "depth": 2,
    "mlp_dim": 40,
    "num_heads": 3,
    "num_classes": 7,
    "pool": "gap",
    "cls_token": False,
    "position": "learned",
}


def jit(function):
    """jax.jit for a function that is run about once."""
    cpu = jax.default_backend() == "cpu"
    return jax.jit(function, compiler_options=FAST if cpu else None)


def settings(**changes):
    """SETTINGS with changes."""
    return SETTINGS | changes


def shapes(make):
    """The graph definition and parameter shapes of make(key) -> module."""
    graphdefs = []

    def init(key):
        graphdef, state = nnx.split(make(key))
        graphdefs.append(graphdef)
        return nnx.to_pure_dict(state)

    params = jax.eval_shape(init, jax.random.key(0))
    return graphdefs[0], params


def vit_shapes(**changes):
    """The graph definition and parameter shapes of a tiny ViT."""
    return shapes(lambda key: ViT(**settings(**changes), key=key))


def fill(params, seed=0, std=0.2):
    """Random values for every leaf; norm scales are near 1 and nothing is zero."""
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        values = generator.normal(0.0, std, leaf.shape)
        if path[-1].key == "scale":
            values += 1.0
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, params)


def images(batch=2, seed=1, **changes):
    """A batch of random normalised images."""
    chosen = settings(**changes)
    shape = (batch, *chosen["image_size"], chosen["channels"])
    values = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(values, jnp.float32)


def flatten(params):
    """A nested dict as {"a/b/c": leaf}."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


def error(actual, expected):
    """Largest absolute difference relative to the scale of the expected values."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    return np.abs(actual - expected).max() / np.abs(expected).max()
