"""Tiny classifiers, batches and numpy forms of losses, for the tests of objectives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from tests.models import tiny
from vit_jax.objectives.base import merge, split

HEADS = {"cls_token": True, "distillation": "head", "pool": "cls"}


def encoder(seed=0, **changes):
    """A tiny ViT with random parameters, whose heads give logits of some size."""
    graphdef, shapes = tiny.vit_shapes(**changes)
    params = jax.tree.map(jnp.asarray, tiny.fill(shapes, seed))
    for name in params.keys() & {"head", "head_distillation"}:
        params[name]["kernel"] *= 5.0
    return nnx.merge(graphdef, params)


def batch(rows=5, classes=7, seed=0):
    """Images, and labels as mixup makes them."""
    labels = np.random.default_rng(seed).dirichlet(np.ones(classes), size=rows)
    return {
        "images": tiny.images(batch=rows, seed=seed + 1),
        "labels": jnp.asarray(labels, jnp.float32),
    }


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def softmax_loss(logits, labels):
    """Cross-entropy of each row."""
    return -(np.asarray(labels, np.float64) * log_softmax(logits)).sum(-1)


def by_heart(objective, batch, *, steps=150):
    """Losses and metrics of Adam on the same images."""
    graphdef, params, frozen = split(objective)
    tx = optax.adam(1e-2)

    @tiny.jit
    def run(params, state):
        def step(carry, _):
            params, state = carry

            def loss(params):
                return merge(graphdef, params, frozen).loss(batch, key=None)

            (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
            updates, state = tx.update(grads, state)
            return (optax.apply_updates(params, updates), state), (value, metrics)

        return jax.lax.scan(step, (params, state), length=steps)

    return run(params, tx.init(params))[1]


def gradients(objective, batch):
    """Of the loss: by the parameters, and by the frozen ones."""
    graphdef, *trees = split(objective)

    def loss(params, frozen):
        return merge(graphdef, params, frozen).loss(batch, key=None)[0]

    return tiny.jit(jax.grad(loss, argnums=(0, 1)))(*trees)
