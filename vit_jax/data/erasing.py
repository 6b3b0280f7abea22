"""Random erasing of rectangles in a batch, on the device (arXiv 1708.04896).

Draws depend on the key and the row alone. Sizes, aspect ratios and attempts are those
of timm, whose noise is also per pixel and in normalised units.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

AREA = (0.02, 1 / 3)  # of the image
ASPECT = (0.3, 1 / 0.3)  # height over width, uniform in its logarithm
ATTEMPTS = 10  # at a rectangle smaller than the image; then none is erased
FILLS = ("noise", "zero")


def random_erase(
    images: Float[Array, "B *V H W C"], key: Key[Array, ""], *, rate: float, fill: str
) -> Float[Array, "B *V H W C"]:
    """Erases one rectangle in a share of the images.

    Args:
      images: normalised, with any number of views after the rows.
      key: of the whole batch.
      rate: share of the images that lose a rectangle.
      fill: of `FILLS`: "noise" (standard normal) or "zero" (the mean colour).
    """
    *leading, height, width, _ = images.shape
    chosen_key, box_key, noise_key = jax.random.split(key, 3)
    count = math.prod(leading)
    chosen = jax.random.uniform(chosen_key, (count,)) < rate
    draws = jax.random.uniform(box_key, (count, ATTEMPTS, 4))
    box = rectangles(draws, height, width)
    erased = inside(box, height, width) & chosen[:, None, None]
    erased = erased.reshape(*leading, height, width, 1)
    if fill == "zero":
        return jnp.where(erased, 0.0, images)
    # Fused into the selection: no second batch in memory.
    noise = jax.random.normal(noise_key, images.shape, images.dtype)
    return jnp.where(erased, noise, images)


def rectangles(
    draws: Float[Array, "N attempts 4"], height: int, width: int
) -> tuple[Int[Array, "N"], Int[Array, "N"], Int[Array, "N"], Int[Array, "N"]]:
    """Turns uniform draws (area, aspect, row, column) into boxes.

    Returns:
      top, bottom, left and right (bottom and right excluded) of the first attempt that
      is smaller than the image on both sides; an empty box where none is.
    """
    area = (AREA[0] + draws[..., 0] * (AREA[1] - AREA[0])) * (height * width)
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    aspect = jnp.exp(low + draws[..., 1] * (high - low))
    tall = jnp.round(jnp.sqrt(area * aspect))
    wide = jnp.round(jnp.sqrt(area / aspect))
    fits = (tall < height) & (wide < width)  # [N, attempts]
    first = jnp.argmax(fits, axis=1)[:, None]
    tall, wide, fits, row, column = (
        jnp.take_along_axis(values, first, axis=1)[:, 0]
        for values in (tall, wide, fits, draws[..., 2], draws[..., 3])
    )
    tall, wide = tall * fits, wide * fits
    top = jnp.floor(row * (height - tall + 1))
    left = jnp.floor(column * (width - wide + 1))
    sides = (top, top + tall, left, left + wide)
    top, bottom, left, right = (side.astype(jnp.int32) for side in sides)
    return top, bottom, left, right


def inside(
    box: tuple[Int[Array, "N"], Int[Array, "N"], Int[Array, "N"], Int[Array, "N"]],
    height: int,
    width: int,
) -> Bool[Array, "N H W"]:
    """True on the pixels of each box (top, bottom, left, right; ends excluded)."""
    top, bottom, left, right = (side[:, None] for side in box)
    rows, columns = jnp.arange(height), jnp.arange(width)
    in_rows = (rows >= top) & (rows < bottom)
    in_columns = (columns >= left) & (columns < right)
    return in_rows[:, :, None] & in_columns[:, None, :]
