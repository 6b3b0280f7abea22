"""Tokens in front of the patches, positions, and which patches are kept."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def join(
    prefix: Sequence[Float[Array, "1 _ D"]],
    patches: Float[Array, "B N D"],
    positions: Float[Array, "1 R D"] | None,
) -> Float[Array, "B T D"]:
    """Adds the positions and puts the prefix in front of every image's patches.

    The last ``N`` rows of ``positions`` belong to the patches, the others to as many
    tokens at the start of the prefix.
    """
    rows = 0
    if positions is not None:
        positions = positions.astype(patches.dtype)
        rows = positions.shape[1] - patches.shape[1]
        patches = patches + positions[:, rows:]
    if not prefix:
        return patches
    front = jnp.concatenate(prefix, axis=1).astype(patches.dtype)
    if positions is not None and rows:
        placed = front[:, :rows] + positions[:, :rows]
        front = jnp.concatenate([placed, front[:, rows:]], axis=1)
    front = jnp.broadcast_to(front, (patches.shape[0], *front.shape[1:]))
    return jnp.concatenate([front, patches], axis=1)


def draw_kept(
    key: Key[Array, ""], shape: tuple[int, int], rate: float
) -> Int[Array, "B M"]:
    """For each of B images, which of its N patches stay, in rising order.

    At least one of them does; ``shape`` is (B, N).
    """
    keep = max(1, int(shape[1] * (1.0 - rate)))
    order = jnp.argsort(jax.random.uniform(key, shape), axis=1)
    return jnp.sort(order[:, :keep], axis=1)


def take(
    tokens: Float[Array, "B T D"], kept: Int[Array, "B M"], num_prefix: int
) -> Float[Array, "B S D"]:
    """The prefix and the kept patches."""
    patches = jnp.take_along_axis(tokens[:, num_prefix:], kept[:, :, None], axis=1)
    return jnp.concatenate([tokens[:, :num_prefix], patches], axis=1)
