"""Masks: exact counts, the order restored, whole units, a row on its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.objectives import masking

KEY = jax.random.key(3)


@pytest.mark.parametrize(
    ("places", "rate", "count"),
    [
        (196, 0.75, 147),  # MAE: int(196 * 0.25) = 49 are left
        (49, 0.6, 30),  # SimMIM: ceil(49 * 0.6)
        (196, 0.5, 98),
        (15, 0.2, 3),  # 15 * 0.2 is 3.0000000000000004 in binary
        (25, 0.8, 20),  # and 25 * (1 - 0.8) 4.999999999999999
        (7, 0.01, 1),
    ],
)
def test_counts(places, rate, count):
    assert masking.num_masked(places, rate) == count


def test_the_smallest_noise_is_kept_in_its_order():
    noise = jnp.array([[0.5, 0.1, 0.9, 0.3, 0.7], [0.2, 0.8, 0.6, 0.4, 0.0]])
    mask = masking.shuffle(noise, 3)
    np.testing.assert_array_equal(mask.kept, [[1, 3], [4, 0]])
    np.testing.assert_array_equal(mask.restore, [[2, 0, 4, 1, 3], [1, 4, 3, 2, 0]])
    np.testing.assert_array_equal(
        mask.masked,
        [[True, False, True, False, True], [False, True, True, True, False]],
    )


def test_a_shuffle_is_a_permutation_with_an_exact_count():
    mask = masking.random_shuffle(KEY, 50, 12, 9)
    assert mask.kept.shape == (50, 3) and (np.asarray(mask.masked).sum(1) == 9).all()
    for kept, restore, masked in zip(*map(np.asarray, mask), strict=True):
        assert set(kept) == set(np.flatnonzero(~masked))
        assert sorted(restore) == list(range(12))
        assert [restore[patch] for patch in kept] == [0, 1, 2]
    # Each patch of 50 x 9 is hidden 37.5 times; five standard deviations are 15.
    assert (abs(np.asarray(mask.masked).sum(0) - 37.5) < 15).all()


@pytest.mark.parametrize("unit", [(1, 1), (2, 3)])
def test_a_block_mask_hides_whole_units(unit):
    mask = masking.block_mask(KEY, 40, (4, 9), unit, 0.6)
    assert mask.shape == (40, 36)
    units = 36 // (unit[0] * unit[1])
    grid = np.asarray(mask).reshape(40, 4 // unit[0], unit[0], 9 // unit[1], unit[1])
    first = grid[:, :, :1, :, :1]
    assert (grid == first).all()
    assert (first.sum((1, 2, 3, 4)) == np.ceil(units * 0.6)).all()
    assert first.any(0).all() and not first.all(0).any()  # every unit, now and then


def test_places_are_those_hidden():
    mask = masking.block_mask(KEY, 6, (3, 4), (1, 2), 0.5)
    found = np.asarray(masking.places(mask, 6))
    for row, places in zip(np.asarray(mask), found, strict=True):
        np.testing.assert_array_equal(places, np.flatnonzero(row))


def draw(rows):
    return (
        *masking.random_shuffle(KEY, rows, 12, 9),
        masking.block_mask(KEY, rows, (4, 6), (2, 3), 0.5),
    )


def test_a_rows_mask_is_its_own():
    # Neither the size of the batch nor the devices matter, only key and row.
    few, many = draw(3), draw(16)
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a, b[:3])
    other = masking.random_shuffle(jax.random.key(4), 16, 12, 9)
    assert not np.array_equal(other.masked, many[2])
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sharded = jax.jit(lambda: draw(16), out_shardings=rows)()
    for a, b in zip(sharded, many, strict=True):
        np.testing.assert_array_equal(a, b)
