"""Random erasing: rectangles by hand, and independence of the batch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import sharding
from vit_jax.data import erasing
from vit_jax.data.erasing import inside, random_erase, rectangles


def images_of(*shape):
    values = np.random.default_rng(0).uniform(5, 6, shape)  # no noise comes so high
    return jnp.asarray(values, jnp.float32)


def erase(images, seed=0, rate=1.0, fill="zero"):
    return np.asarray(random_erase(images, jax.random.key(seed), rate=rate, fill=fill))


def by_hand(draws, height, width):
    """One image's box, as the paper has it, attempt by attempt."""
    for area, aspect, row, column in np.asarray(draws, np.float64):
        area = (0.02 + area * (1 / 3 - 0.02)) * height * width
        aspect = math.exp(math.log(0.3) + aspect * (math.log(1 / 0.3) - math.log(0.3)))
        tall = round(math.sqrt(area * aspect))
        wide = round(math.sqrt(area / aspect))
        if tall < height and wide < width:
            top = int(row * (height - tall + 1))
            left = int(column * (width - wide + 1))
            return top, top + tall, left, left + wide
    return 0, 0, 0, 0


@pytest.mark.parametrize(("height", "width"), [(32, 48), (224, 224), (8, 40), (5, 3)])
def test_rectangles_equal_those_by_hand(height, width):
    draws = np.random.default_rng(0).random((200, 10, 4), np.float32)
    boxes = np.stack(rectangles(jnp.asarray(draws), height, width), axis=1)
    expected = np.array([by_hand(rows, height, width) for rows in draws])
    none = (expected == 0).all(1)
    assert (boxes[none, 1] == boxes[none, 0]).all()
    np.testing.assert_array_equal(boxes[~none], expected[~none])


def test_rectangles_take_the_first_attempt_that_fits():
    flat, square = [1.0, 0.0, 0.5, 0.5], [0.5, 0.5, 0.0, 0.0]
    draws = jnp.asarray([[flat, square, flat], [flat, flat, flat]])
    # Area 1/3 at aspect 0.3 is wider than an image of 40 x 20.
    top, bottom, left, right = (np.asarray(s) for s in rectangles(draws, 40, 20))
    side = round(math.sqrt((0.02 + 0.5 * (1 / 3 - 0.02)) * 800))
    assert [top[0], bottom[0], left[0], right[0]] == [0, side, 0, side]
    assert top[1] == bottom[1] and left[1] == right[1]
    assert not np.asarray(inside(rectangles(draws, 40, 20), 40, 20))[1].any()


@pytest.mark.parametrize("fill", erasing.FILLS)
def test_one_rectangle_is_filled_and_the_rest_is_kept(fill):
    images = images_of(50, 16, 24, 3)
    out = erase(images, fill=fill)
    changed = out != np.asarray(images)
    assert (changed.all(-1) == changed.any(-1)).all()  # all channels
    for mask, image in zip(changed.any(-1), out, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(columns) > 0
        assert np.ptp(rows) == len(rows) - 1 and np.ptp(columns) == len(columns) - 1
        assert (image[mask] == 0).all() == (fill == "zero")
    if fill == "noise":
        values = out[changed]
        assert abs(values.mean()) < 4 / len(values) ** 0.5
        assert abs(values.std() - 1) < 4 / (2 * len(values)) ** 0.5


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_rate_is_the_share_of_images(rate):
    images = images_of(2000, 12, 12, 1)
    changed = (erase(images, rate=rate) != np.asarray(images)).any((1, 2, 3))
    assert abs(changed.mean() - rate) <= 4 * math.sqrt(rate * (1 - rate) / 2000)


def test_views_are_erased_apart():
    images = images_of(6, 2, 16, 16, 3)
    out = erase(images)
    changed = (out != np.asarray(images)).any(-1)
    assert changed.any((2, 3)).all()
    assert not (changed[:, 0] == changed[:, 1]).all((1, 2)).any()


@pytest.mark.parametrize("fill", erasing.FILLS)
def test_a_row_does_not_depend_on_the_batch(fill):
    images = images_of(16, 12, 12, 3)
    whole = erase(images, seed=3, rate=0.5, fill=fill)
    np.testing.assert_array_equal(
        erase(images[:4], seed=3, rate=0.5, fill=fill), whole[:4]
    )


@pytest.mark.parametrize("fill", erasing.FILLS)
def test_erasing_is_the_same_on_eight_devices(fill):
    images = images_of(16, 12, 12, 3)
    mesh = sharding.build_mesh(slices=1, data=4, fsdp=2, tensor=1, sequence=1)
    rows = sharding.batch_sharding(mesh)
    call = jax.jit(
        lambda images, key: random_erase(images, key, rate=0.5, fill=fill),
        out_shardings=rows,
    )
    out = call(
        jax.device_put(images, rows),
        jax.device_put(jax.random.key(5), sharding.replicated(mesh)),
    )
    assert out.addressable_shards[0].data.shape[0] == 2
    alone = jax.jit(lambda i, k: random_erase(i, k, rate=0.5, fill=fill))
    np.testing.assert_array_equal(out, alone(images, jax.random.key(5)))
