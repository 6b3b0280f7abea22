"""Patches as targets: normalised pixels, coarse colours, and back to images."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

LEVELS = 8  # of a channel: 3 bits
EPSILON = 1e-6

# Of 255 grey values; what they lose by being normalised and back is a tenth of it, and
# the means of two patches of 32 x 32 pixels differ by more.
_ROUNDING = 2.0**-12


class Normalized(NamedTuple):
    """Patches of mean 0 and variance 1, and what they were divided by."""

    patches: jax.Array
    mean: jax.Array
    std: jax.Array


def normalize_patches(patches: Float[Array, "B N P"]) -> Normalized:
    """Each patch less its mean, over its standard deviation (arXiv 2111.06377).

    The variance is divided by ``P - 1``, as in the paper's code.
    """
    mean = patches.mean(axis=-1, keepdims=True)
    std = jnp.sqrt(patches.var(axis=-1, keepdims=True, ddof=1) + EPSILON)
    return Normalized((patches - mean) / std, mean, std)


def unpatchify(
    patches: Float[Array, "B N P"], grid: tuple[int, int], patch_size: tuple[int, int]
) -> Float[Array, "B H W C"]:
    """Puts flattened patches together again; the inverse of `layers.patchify`."""
    (rows, columns), (height, width) = grid, patch_size
    images = patches.reshape(len(patches), rows, columns, height, width, -1)
    images = images.transpose(0, 1, 3, 2, 4, 5)
    return images.reshape(len(patches), rows * height, columns * width, -1)


def coarse_colors(
    patches: Float[Array, "B N P"], patch_size: tuple[int, int], side: int
) -> Float[Array, "B N S C"]:
    """Mean colours of the ``side * side`` equal parts of a patch, row by row."""
    height, width = patch_size
    parts = patches.reshape(
        *patches.shape[:2], side, height // side, side, width // side, -1
    )
    return parts.mean(axis=(3, 5)).reshape(*patches.shape[:2], side * side, -1)


def color_codes(
    colors: Float[Array, "*S C"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Int[Array, "*S"]:
    """Colours with 3 bits a channel as one number, the first channel's bits in front.

    Args:
      colors: normalised by ``mean`` and ``std``.
      mean, std: of pixels in 0..1.
    """
    grey = 255.0 * (colors * jnp.asarray(std) + jnp.asarray(mean))
    levels = jnp.floor((grey + _ROUNDING) / (256 // LEVELS)).astype(jnp.int32)
    levels = jnp.clip(levels, 0, LEVELS - 1)
    code = levels[..., 0]
    for channel in range(1, colors.shape[-1]):
        code = code * LEVELS + levels[..., channel]
    return code


def colors_of(
    codes: Int[Array, "*S"],
    channels: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Float[Array, "*S C"]:
    """The colour in the middle of each code, normalised; see `color_codes`."""
    powers = LEVELS ** jnp.arange(channels - 1, -1, -1)
    levels = codes[..., None] // powers % LEVELS
    grey = (levels + 0.5) * (256 // LEVELS)
    return (grey / 255.0 - jnp.asarray(mean)) / jnp.asarray(std)
