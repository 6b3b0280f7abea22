"""Position tables for another grid and patch kernels for another patch size.

Each is a product with one small matrix an axis. The matrices are PyTorch's
interpolation (corners not aligned), which published weights were resized with.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

METHODS = ("bilinear", "bicubic")


def _linear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - np.abs(distance), 0.0)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Cubic convolution (Keys, 1981) with slope ``a`` where it first crosses zero."""
    x = np.abs(distance)
    near = ((a + 2.0) * x - (a + 3.0)) * x**2 + 1.0
    far = a * (((x - 5.0) * x + 8.0) * x - 4.0)
    return np.where(x <= 1.0, near, np.where(x < 2.0, far, 0.0))


def resize_matrix(old: int, new: int, method: str, antialias: bool) -> np.ndarray:
    """The linear map from ``old`` samples of an axis to ``new``, ``[new, old]``.

    With ``antialias`` the kernel is as wide as a new sample when shrinking, and is cut
    off and normalised at the edges; without it the edge's sample is repeated outwards.
    Bicubic kernels have a = -0.5 and -0.75 in these two cases, as in PyTorch.

    Raises:
      ValueError: ``method`` is unknown.
    """
    if method not in METHODS:
        raise ValueError(
            f"resampling method {method!r} is unknown; known: {', '.join(METHODS)}"
        )
    scale = old / new
    centres = (np.arange(new)[:, None] + 0.5) * scale
    reach = 0 if antialias else 2  # samples beyond the edge that a kernel may touch
    samples = np.arange(-reach, old + reach)
    distance = samples + 0.5 - centres  # [new, old + 2 * reach]
    if antialias:
        distance = distance / max(scale, 1.0)
    if method == "bilinear":
        weights = _linear(distance)
    else:
        weights = _cubic(distance, a=-0.5 if antialias else -0.75)
    weights = weights / weights.sum(axis=1, keepdims=True)
    return weights @ np.eye(old)[np.clip(samples, 0, old - 1)]


def _resize_axes(
    array: jax.Array | np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> jax.Array:
    """Multiplies the first two of four axes by a matrix each, in float32."""
    return jnp.einsum(
        "yh,xw,hwcd->yxcd",
        rows.astype(np.float32),
        columns.astype(np.float32),
        array,
        precision="highest",  # TPUs and TF32 would round weights to 8 or 10 bits
    )


def resize_grid(
    table: Float[Array | np.ndarray, "1 N D"],
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    *,
    method: str = "bicubic",
    antialias: bool = True,
) -> Float[Array, "1 M D"]:
    """Resamples a table with a row per patch to another grid, row by row.

    Equals ``torch.nn.functional.interpolate(..., align_corners=False)``; the table
    itself when the grids are equal.

    Raises:
      ValueError: ``method`` is not ``"bilinear"`` or ``"bicubic"``.
    """
    if old_grid == new_grid:
        return jnp.asarray(table)
    rows, columns = (
        resize_matrix(old, new, method, antialias)
        for old, new in zip(old_grid, new_grid, strict=True)
    )
    width = table.shape[-1]
    resized = _resize_axes(table.reshape(*old_grid, 1, width), rows, columns)
    return resized.reshape(1, -1, width)


def resize_positions(
    table: Float[Array | np.ndarray, "1 R D"],
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    *,
    method: str = "bicubic",
    antialias: bool = True,
) -> Float[Array, "1 S D"]:
    """`resize_grid` for a table whose first rows belong to prefix tokens.

    All rows but the last ``prod(old_grid)`` are kept as they are.

    Raises:
      ValueError: the table has fewer rows than ``old_grid`` has patches, or ``method``
        is unknown.
    """
    prefix = table.shape[1] - math.prod(old_grid)
    if prefix < 0:
        raise ValueError(
            f"a position table of {table.shape[1]} rows is too short for a grid of "
            f"{old_grid} patches (high, wide)"
        )
    grid = resize_grid(
        table[:, prefix:], old_grid, new_grid, method=method, antialias=antialias
    )
    return jnp.concatenate([table[:, :prefix], grid], axis=1)


def pi_resize(
    kernel: Float[Array | np.ndarray, "ph pw C D"], new_size: tuple[int, int]
) -> Float[Array, "qh qw C D"]:
    """Resizes a patch embedding's kernel by FlexiViT's pseudo-inverse (2212.08013).

    With ``B`` the bilinear enlargement of a patch, the result is ``pinv(B^T) kernel``:
    on enlarged patches it gives exactly the tokens that ``kernel`` gives on the
    originals, and on shrunk patches the closest to them.
    """
    old_size = kernel.shape[:2]
    if old_size == tuple(new_size):
        return jnp.asarray(kernel)
    # B is a Kronecker product of one matrix an axis, and so is its pseudo-inverse.
    rows, columns = (
        np.linalg.pinv(resize_matrix(old, new, "bilinear", antialias=False).T)
        for old, new in zip(old_size, new_size, strict=True)
    )
    return _resize_axes(kernel, rows, columns)
