"""Tiny classifiers, batches and numpy forms of losses, for the tests of objectives."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.models import tiny

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
