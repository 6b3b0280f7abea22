"""Which patches an objective hides: masks by sorting noise, one function each.

A mask hides the same number of patches of every image, so that shapes are known. What
is drawn for a row depends on the key and the row alone, on any number of devices.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


class Shuffle(NamedTuple):
    """Patches in a random order, of which the first are kept.

    Attributes:
      kept: ``[B, K]``, the patches that are left.
      restore: ``[B, N]``, for each patch its place in the order.
      masked: ``[B, N]``, True where a patch is hidden.
    """

    kept: jax.Array
    restore: jax.Array
    masked: jax.Array


def num_masked(places: int, rate: float) -> int:
    """How many of so many places a mask hides: their share, rounded up.

    As arXiv 2111.06377 and 2111.09886 do, but without the noise of binary fractions: a
    fifth of 15 is 3.
    """
    return math.ceil(round(places * rate, 6))


def shuffle(noise: Float[Array, "B N"], masked: int) -> Shuffle:
    """Orders each row's patches by their noise and hides the last ``masked``."""
    keep = noise.shape[1] - masked
    order = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(order, axis=1)
    return Shuffle(order[:, :keep], restore, restore >= keep)


def random_shuffle(
    key: Key[Array, ""], rows: int, patches: int, masked: int
) -> Shuffle:
    """Hides ``masked`` patches of each row (arXiv 2111.06377)."""
    return shuffle(jax.random.uniform(key, (rows, patches)), masked)


def block_mask(
    key: Key[Array, ""],
    rows: int,
    grid: tuple[int, int],
    unit: tuple[int, int],
    rate: float,
) -> Bool[Array, "B N"]:
    """Hides units of patches (arXiv 2111.09886), True where a patch is hidden.

    Args:
      key: of the whole batch.
      rows: images.
      grid: patches high and wide.
      unit: of a unit, which divides the grid; (1, 1) hides single patches.
      rate: share of the units.
    """
    coarse = (grid[0] // unit[0], grid[1] // unit[1])
    places = math.prod(coarse)
    masked = random_shuffle(key, rows, places, num_masked(places, rate)).masked
    masked = masked.reshape(rows, coarse[0], 1, coarse[1], 1)
    fine = (rows, coarse[0], unit[0], coarse[1], unit[1])
    return jnp.broadcast_to(masked, fine).reshape(rows, -1)


def places(masked: Bool[Array, "B N"], count: int) -> Int[Array, "B M"]:
    """The ``count`` patches that each row hides, in rising order."""
    return jnp.argsort(~masked, axis=1, stable=True)[:, :count]
