"""Flip, normalisation and mixup of a global batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import sharding
from vit_jax.data import mixing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pixels(rows, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (rows, 6, 5, 3), np.uint8)


def test_normalize():
    images = pixels(4)
    out = mixing.normalize(jnp.asarray(images), MEAN, STD)
    assert out.dtype == jnp.float32
    expected = (images / 255.0 - np.asarray(MEAN)) / np.asarray(STD)
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_normalize_to_minus_one_and_one():
    images = jnp.asarray([0, 255], jnp.uint8).reshape(2, 1, 1, 1)
    out = mixing.normalize(images, (0.5,), (0.5,))
    np.testing.assert_allclose(np.ravel(out), [-1.0, 1.0], atol=1e-6)


def test_flip_mirrors_half_of_the_rows_left_right():
    images = jnp.asarray(pixels(400), jnp.float32)
    out = np.asarray(mixing.flip(images, jax.random.key(0)))
    images = np.asarray(images)
    same = (out == images).all((1, 2, 3))
    mirrored = (out == images[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 150 < mirrored.sum() < 250  # five standard deviations
    other = np.asarray(mixing.flip(jnp.asarray(images), jax.random.key(1)))
    assert not np.array_equal(other, out)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_mixup(alpha):
    images = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype(np.float32)
    labels = np.eye(8, dtype=np.float32)  # so that a row's weights can be read off
    weights = []
    for seed in range(20):
        key = jax.random.key(seed)
        mixed, targets = mixing.mixup(
            jnp.asarray(images), jnp.asarray(labels), alpha, key
        )
        targets = np.asarray(targets)
        weight = targets[0, 0]
        before = np.roll(np.arange(8), 1)  # the row before, around the end
        expected = weight * labels + (1 - weight) * labels[before]
        np.testing.assert_allclose(targets, expected, atol=1e-6)
        expected = weight * images + (1 - weight) * images[before]
        np.testing.assert_allclose(mixed, expected, atol=1e-5)
        np.testing.assert_allclose(targets.sum(-1), 1.0, atol=1e-6)
        weights.append(float(weight))
    assert min(weights) >= 0.5
    assert max(weights) <= 1.0
    assert len(set(weights)) > 10


def test_mixup_weights_follow_beta():
    images, labels = jnp.zeros((2, 1, 1, 1)), jnp.eye(2)
    draw = jax.vmap(lambda key: mixing.mixup(images, labels, 0.4, key)[1][0, 0])
    weights = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    rng = np.random.default_rng(0)
    beta = rng.beta(0.4, 0.4, 100_000)
    expected = np.maximum(beta, 1 - beta).mean()
    assert weights.min() >= 0.5
    assert abs(weights.mean() - expected) < 0.02


def test_one_hot():
    out = mixing.one_hot(jnp.asarray([2, 0, -1]), 3)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, [[0, 0, 1], [1, 0, 0], [0, 0, 0]])


def build(flip_images, mixup_alpha):
    return mixing.build_prepare(
        num_classes=10,
        mean=MEAN,
        std=STD,
        flip_images=flip_images,
        mixup_alpha=mixup_alpha,
    )


def batch_of(rows):
    labels = np.random.default_rng(1).integers(0, 10, rows)
    return {"image": jnp.asarray(pixels(rows)), "label": jnp.asarray(labels, jnp.int32)}


def test_prepare_without_randomness():
    batch = batch_of(8)
    out = build(False, 0.0)(batch, jax.random.key(0))
    assert set(out) == {"images", "labels"}
    np.testing.assert_array_equal(
        out["images"], mixing.normalize(batch["image"], MEAN, STD)
    )
    np.testing.assert_array_equal(out["labels"], np.eye(10)[batch["label"]])


@pytest.mark.parametrize(("flip_images", "alpha"), [(True, 0.0), (False, 0.5)])
def test_prepare_turns_each_part_on(flip_images, alpha):
    batch, key = batch_of(8), jax.random.key(0)
    plain, out = build(False, 0.0)(batch, key), build(flip_images, alpha)(batch, key)
    assert not np.array_equal(out["images"], plain["images"])
    assert np.array_equal(out["labels"], plain["labels"]) == (not alpha)


def test_prepare_is_the_same_on_eight_devices():
    batch, key = batch_of(16), jax.random.key(7)
    prepare = jax.jit(build(True, 0.2))
    mesh = sharding.build_mesh(slices=1, data=4, fsdp=2, tensor=1, sequence=1)
    rows = sharding.batch_sharding(mesh)
    expected = prepare(batch, key)
    sharded = jax.jit(build(True, 0.2), out_shardings=rows)(
        jax.device_put(batch, rows), jax.device_put(key, sharding.replicated(mesh))
    )
    assert len(sharded["images"].sharding.device_set) == 8
    assert sharded["images"].addressable_shards[0].data.shape[0] == 2
    for name, value in expected.items():
        np.testing.assert_allclose(sharded[name], value, atol=1e-6)
