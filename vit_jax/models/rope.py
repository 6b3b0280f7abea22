"""Rotary position embedding of queries and keys on the grid of patches."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

ROPES = ("none", "axial", "dinov3")


def rope_table(
    kind: str, grid: tuple[int, int], head_dim: int, base: float
) -> tuple[Float[Array, "N Dh"], Float[Array, "N Dh"]]:
    """The sine and the cosine of every angle, a row per patch, row by row.

    The first half of the frequencies turns with y, the second with x; they fall from 1
    to ``base ** (4 / head_dim - 1)``.

    Args:
      kind: ``"axial"`` (arXiv 2403.13298): coordinates are patches, a rotation acts on
        neighbours ``(2i, 2i + 1)``. ``"dinov3"`` (arXiv 2508.10104): coordinates are
        centres of patches between -1 and 1 times 2 pi, a rotation acts on
        ``(i, i + head_dim / 2)``.
      grid: patches high and wide.
      head_dim: width of a head.
      base: the ratio of neighbouring frequencies is ``base ** (4 / head_dim)``.

    Raises:
      ValueError: ``head_dim`` is not a multiple of 4, or ``kind`` has no table.
    """
    if head_dim % 4:
        raise ValueError(
            f"rope needs heads with a width (model width / num_heads) in fours; "
            f"got {head_dim}"
        )
    frequencies = float(base) ** (-4.0 * np.arange(head_dim // 4) / head_dim)
    # In float64, as float32 angles of a long grid would be off by their rounding.
    y, x = np.mgrid[: grid[0], : grid[1]].astype(np.float64)
    if kind == "dinov3":
        y = 2.0 * np.pi * (2.0 * (y + 0.5) / grid[0] - 1.0)
        x = 2.0 * np.pi * (2.0 * (x + 0.5) / grid[1] - 1.0)
    elif kind != "axial":
        raise ValueError(f"rope {kind!r} has no table; known: {', '.join(ROPES[1:])}")
    coordinates = np.stack([y.ravel(), x.ravel()], axis=1)  # [N, 2]
    angles = coordinates[:, :, None] * frequencies
    angles = angles.reshape(-1, head_dim // 2)
    angles = np.repeat(angles, 2, axis=1) if kind == "axial" else np.tile(angles, 2)
    return jnp.float32(np.sin(angles)), jnp.float32(np.cos(angles))


def apply_rope(
    inputs: Float[Array, "B T H Dh"],
    sin: Float[Array, "N Dh"] | Float[Array, "B N Dh"],
    cos: Float[Array, "N Dh"] | Float[Array, "B N Dh"],
    kind: str,
) -> Float[Array, "B T H Dh"]:
    """Rotates the last ``N`` tokens; those before them (CLS, registers) stay.

    ``sin`` and ``cos`` are rows of `rope_table`, the same for every image or, where
    an objective has dropped patches, each image's own. Computed in float32.

    Raises:
      ValueError: there are more rows than tokens.
    """
    prefix = inputs.shape[1] - sin.shape[-2]
    if prefix < 0:
        raise ValueError(
            f"rope has rows for {sin.shape[-2]} patches, there are only "
            f"{inputs.shape[1]} tokens"
        )
    patches = inputs[:, prefix:].astype(jnp.float32)
    if kind == "axial":
        pairs = patches.reshape(*patches.shape[:-1], -1, 2)
        turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1)
        turned = turned.reshape(patches.shape)
    else:
        first, second = jnp.split(patches, 2, axis=-1)
        turned = jnp.concatenate([-second, first], axis=-1)
    # One rotation for all heads: [(B,) N, 1, Dh].
    rotated = patches * cos[..., None, :] + turned * sin[..., None, :]
    return jnp.concatenate([inputs[:, :prefix], rotated.astype(inputs.dtype)], axis=1)
