"""A tree with every kind of parameter, whole and in layers, and runs of optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import base
from tests.models.tiny import FAST
from vit_jax import optim

DEPTH = 3
# Every axis has another length, and layers are as many as a factored dimension needs.
SHAPES = {
    "encoder/cls": (1, 1, 6),
    "encoder/position_embedding": (1, 9, 6),
    "encoder/embedding/kernel": (2, 2, 4, 6),
    "encoder/embedding/bias": (6,),
    "encoder/blocks/attention/query/kernel": (DEPTH, 6, 2, 5),
    "encoder/blocks/attention/query/bias": (DEPTH, 2, 5),
    "encoder/blocks/attention/out/kernel": (DEPTH, 2, 5, 6),
    "encoder/blocks/attention_norm/scale": (DEPTH, 6),
    "encoder/blocks/mlp/hidden/kernel": (DEPTH, 6, 8),
    "encoder/blocks/mlp/hidden/bias": (DEPTH, 8),
    "encoder/blocks/mlp/out/kernel": (DEPTH, 8, 6),
    "encoder/pooling/mlp/hidden/kernel": (6, 8),
    "encoder/norm/scale": (6,),
    "encoder/head/kernel": (6, 7),
    "encoder/head/bias": (7,),
}
# A matrix and a vector of each layer, and of none: for what is compiled many times.
SMALL = {
    path: SHAPES[path]
    for path in (
        "encoder/blocks/attention/query/kernel",
        "encoder/blocks/attention_norm/scale",
        "encoder/head/kernel",
        "encoder/head/bias",
    )
}
SCHEDULE = dict(
    name="cosine", warmup_steps=2, cooldown_steps=0, final=0.0, timescale=10_000
)
CONSTANT = SCHEDULE | dict(name="constant", warmup_steps=0)
STEPS = 5
NAMES = tuple(optim.OPTIMIZERS)


def section(name, **changes):
    """The defaults with quick rates and float32 moments, for comparisons."""
    built = dict(getattr(base, name)(learning_rate=0.02, weight_decay=0.1))
    known = dict(mu_dtype="float32", nu_dtype="float32", min_factored=DEPTH)
    return built | {k: v for k, v in known.items() if k in built} | changes


def nest(flat):
    tree = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def flatten(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def random_flat(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {
        path: rng.standard_normal(shape).astype(np.float32)
        for path, shape in shapes.items()
    }


def in_layers(flat):
    """Stacks cut up: ``encoder/block0/...``, ``encoder/block1/...``."""
    cut = {}
    for path, value in flat.items():
        if "/blocks/" in path:
            for layer in range(DEPTH):
                cut[path.replace("/blocks/", f"/block{layer}/")] = value[layer]
        else:
            cut[path] = value
    return cut


def build(settings, schedule=CONSTANT, steps=STEPS):
    return optim.build(settings, schedule_section=schedule, total_steps=steps)[0]


def steps_of(tx, flat, gradients):
    """Parameters and state after updates with some gradients, all flat."""
    params = jax.tree.map(jnp.asarray, nest(flat))
    state = tx.init(params)

    def step(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step).lower(params, state, params).compile(compiler_options=FAST)
    for gradient in gradients:
        given = jax.tree.map(jnp.asarray, nest(gradient))
        params, state = compiled(params, state, given)
    return flatten(params), state
