"""Fixed position embeddings on the grid of patches."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def sincos2d(
    height: int, width: int, dim: int, temperature: float = 10_000.0
) -> Float[Array, "N D"]:
    """2-D sine-cosine embeddings in the MoCo-v3 form (arXiv 2104.02057).

    Row ``y * width + x`` is ``[sin x, cos x, sin y, cos y]`` over ``dim / 4``
    frequencies whose exponents run from 0 to 1 inclusive. (`sincos2d_mae` has other
    frequencies; the two must not be mixed.)

    Raises:
      ValueError: ``dim`` is not a multiple of 4, or is below 8.
    """
    if dim % 4 or dim < 8:
        raise ValueError(f"sincos2d needs a width in fours, at least 8; got {dim}")
    exponents = jnp.arange(dim // 4, dtype=jnp.float32) / (dim // 4 - 1)
    return _sincos(height, width, 1.0 / temperature**exponents)


def sincos2d_mae(
    height: int, width: int, dim: int, temperature: float = 10_000.0
) -> Float[Array, "N D"]:
    """2-D sine-cosine embeddings in MAE's form (arXiv 2111.06377).

    As `sincos2d`, but the exponents are ``i / (dim / 4)`` and stop short of 1.

    Raises:
      ValueError: ``dim`` is not a multiple of 4.
    """
    if dim % 4 or dim < 4:
        raise ValueError(f"sincos2d_mae needs a width in fours; got {dim}")
    exponents = jnp.arange(dim // 4, dtype=jnp.float32) / (dim // 4)
    return _sincos(height, width, 1.0 / temperature**exponents)


def _sincos(height: int, width: int, omega: Float[Array, "Q"]) -> Float[Array, "N D"]:
    """Sines and cosines of column and row times each frequency, x before y."""
    y, x = jnp.mgrid[:height, :width]
    y = y.reshape(-1, 1) * omega  # [N, D/4]
    x = x.reshape(-1, 1) * omega
    return jnp.concatenate([jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)], axis=1)


FIXED = {"sincos2d": sincos2d, "sincos2d_mae": sincos2d_mae}
