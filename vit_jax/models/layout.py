"""How activations lie on the mesh of ``jax.set_mesh``: the one table, and its use.

Parameters are `sharding.PARAM_RULES`' matter. Without a mesh, or on one device, nothing
here does anything.
"""

import math

import jax
from jax.sharding import AbstractMesh, PartitionSpec

BATCH = ("slices", "data", "fsdp")
HEADS = ("tensor",)  # and hidden units: what "tensor" splits of the parameters
TOKENS = ("sequence",)

# The axes of each dimension from the first; those behind are whole.
ACTIVATIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "images": (BATCH,),  # [B, H, W, C]
    "tokens": (BATCH, TOKENS),  # [B, N, D]
    "queries": (BATCH, TOKENS, HEADS),  # [B, T, H, Dh], and what attention gives
    "keys": (BATCH, (), HEADS),  # [B, S, H, Dh], and values: each device has all
    "hidden": (BATCH, TOKENS, HEADS),  # [B, N, M]
    "features": (BATCH,),  # [B, F]
}


def constrain(array: jax.Array, kind: str) -> jax.Array:
    """The array, laid out as ``ACTIVATIONS[kind]`` says.

    An axis that does not divide its dimension does not split it, but for tokens: any
    number of them that is not below the axis's is split, the last device having fewer.
    """
    mesh, free = free_axes()
    if not free or mesh.size == 1:
        return array
    spec = [
        dividing(mesh, free, axes, size, uneven=axes == TOKENS)
        for axes, size in zip(ACTIVATIONS[kind], array.shape, strict=False)
    ]
    return jax.lax.with_sharding_constraint(array, PartitionSpec(*spec))


def free_axes() -> tuple[AbstractMesh, tuple[str, ...]]:
    """The mesh, and its axes that no ``shard_map`` around this one has split yet."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh, tuple(axis for axis in mesh.axis_names if axis not in mesh.manual_axes)


def dividing(
    mesh: AbstractMesh,
    free: tuple[str, ...],
    axes: tuple[str, ...],
    size: int,
    *,
    uneven: bool = False,
) -> tuple[str, ...] | None:
    """As many of the axes, from the first, as divide a dimension.

    With ``uneven`` those that leave each device an entry.
    """
    chosen: list[str] = []
    for axis in axes:
        if axis in free:
            parts = math.prod(mesh.shape[name] for name in [*chosen, axis])
            if size % parts == 0 or (uneven and size > parts):
                chosen.append(axis)
    return tuple(chosen) or None
