"""Every objective has on a mesh the loss and the gradients that one device has."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from tests import training
from tests.models import tiny
from vit_jax import objectives, sharding
from vit_jax.models.vit import ViT
from vit_jax.objectives.base import merge, split
from vit_jax.objectives.teachers import STORED, Stored, Teacher

ROWS, CLASSES, KEY = 8, 12, jax.random.key(7)
# 16 patches, each axis a multiple of what the meshes split it by.
MODEL = tiny.settings(
    image_size=(16, 16), patch_size=(4, 4), width=16, num_heads=2, mlp_dim=32,
    num_classes=0, dropout=0.1, drop_path=0.1,
)  # fmt: skip
CLASSIFIER = {"num_classes": CLASSES}
DEIT = CLASSIFIER | {"cls_token": True, "pool": "cls", "distillation": "head"}
ONE = {"slices": 1, "data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}
MESHES = {
    "mixed": {"data": 2, "fsdp": 2, "tensor": 2},
    "tokens": {"slices": 2, "fsdp": 2, "sequence": 2},
}
SIMMIM = {"mask_rate": 0.6, "mask_unit": 8, "hidden_rate": 1.0, "swapped_rate": 0.0}
MATCHING = {"match": "soft", "alpha": 1.0, "temperature": 2.0, "token": False}
# Section, what the model has, who teaches, and labels: one of a row, or several.
CASES = {
    "softmax": (base.supervised(label_smoothing=0.1), CLASSIFIER),
    "class_weights": (
        base.supervised(class_weights=tuple(np.linspace(0.5, 1.5, CLASSES).tolist())),
        CLASSIFIER,
    ),
    "several_labels": (base.supervised(loss="sigmoid"), CLASSIFIER),
    "deit_hard": (base.distillation(), DEIT),
    "deit_soft": (base.distillation(match="soft", temperature=3.0, alpha=0.1), DEIT),
    "matching": (base.distillation(**MATCHING), CLASSIFIER),
    "stored": (base.distillation(**MATCHING), CLASSIFIER),
    "mae": (base.mae(decoder_width=16, decoder_depth=2, decoder_heads=2), {}),
    "mean_colour": (base.masked_patch(mask_unit=8), {}),
    "colours_4x4": (base.masked_patch(target="colours_4x4"), {}),
    "pixels_l2": (base.masked_patch(target="pixels_l2"), {}),
    "simmim": (base.masked_patch(target="pixels_l1", **SIMMIM), {}),
    "next_patch": (base.autoregressive(decoder_width=12, decoder_depth=2), {}),
    "next_patch_chunks": (
        base.autoregressive(decoder_width=12, decoder_depth=2, chunk=4),
        {},
    ),
}

QUICK = {
    *((name, "mixed") for name in ("several_labels", "deit_hard", "matching", "mae")),
    *((name, "mixed") for name in ("mean_colour", "simmim", "next_patch_chunks")),
    *((name, "tokens") for name in ("mae", "next_patch")),
}


def filled(name):
    """Structure, parameters and frozen parameters, none of them zero."""
    section, model = CASES[name]
    given = dict(section)
    if name == "stored":
        given["teacher"] = Stored()
    elif "teacher" in given:
        settings = MODEL | {"width": 24, "num_heads": 3, "num_classes": CLASSES}
        given["teacher"] = Teacher(ViT(**settings, key=KEY), scale=(0.5,))
    objective = objectives.build(
        given,
        encoder=ViT(**MODEL | model, key=KEY),
        key=KEY,
        mean=(0.5,),
        std=(0.5,),
    )
    graphdef, *params = split(objective)
    return graphdef, *(tiny.fill(tree, seed) for seed, tree in enumerate(params))


def batch_of(name):
    generator = np.random.default_rng(3)
    labels = np.eye(CLASSES)[generator.integers(0, CLASSES, ROWS)]
    if name == "several_labels":
        labels = generator.integers(0, 2, (ROWS, CLASSES))
    return {
        "images": tiny.images(batch=ROWS, image_size=(16, 16)),
        "labels": jnp.asarray(labels, jnp.float32),
        STORED: jnp.asarray(generator.normal(size=(ROWS, CLASSES)), jnp.float32),
    }


def measured(name, sizes):
    """Loss, metrics and gradients by path, and how many parameters are in pieces."""
    sizes = ONE | sizes
    devices = jax.devices()[: math.prod(sizes.values())]
    mesh = sharding.build_mesh(**sizes, devices=devices)
    graphdef, *trees = filled(name)
    trees = [
        jax.device_put(tree, sharding.param_shardings(tree, mesh)) for tree in trees
    ]
    batch = jax.device_put(batch_of(name), sharding.batch_sharding(mesh))
    key = jax.device_put(KEY, sharding.replicated(mesh))

    def loss(params, frozen, batch, key):
        return merge(graphdef, params, frozen).loss(batch, key=key)

    with jax.set_mesh(mesh):
        run = training.quickly(jax.jit(jax.value_and_grad(loss, has_aux=True)))
        (value, metrics), grads = run(*trees, batch, key)
    pieces = sum(not leaf.is_fully_replicated for leaf in jax.tree.leaves(trees))
    return float(value), training.host(metrics), tiny.flatten(grads), pieces


@functools.cache
def alone(name):
    return measured(name, {})


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow)
        for pair in itertools.product(CASES, MESHES)
    ],
)
def test_loss_and_gradients_are_those_of_one_device(name, mesh):
    expected, wanted, on_one, _ = alone(name)
    value, metrics, grads, pieces = measured(name, MESHES[mesh])
    assert pieces
    assert value == pytest.approx(expected, rel=1e-5)
    assert metrics.keys() == wanted.keys()
    for metric, found in metrics.items():
        np.testing.assert_allclose(found, wanted[metric], rtol=1e-5)
    assert grads.keys() == on_one.keys()
    for path, grad in on_one.items():
        error = np.linalg.norm(np.asarray(grads[path]) - np.asarray(grad))
        if path.endswith("key/bias"):  # zero but for rounding: softmax does not see it
            assert error < 1e-5
        else:
            assert error <= 1e-5 * np.linalg.norm(np.asarray(grad)) > 0, path


def test_what_is_random_is_on_in_the_comparison():
    first = alone("mean_colour")[0]
    graphdef, params, frozen = filled("mean_colour")
    batch = batch_of("mean_colour")
    other = merge(graphdef, params, frozen).loss(batch, key=jax.random.key(8))[0]
    assert abs(float(other) - first) > 1e-3 * first
