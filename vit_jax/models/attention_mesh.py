"""Attention kernels over the mesh of ``jax.set_mesh``: each device its rows and heads.

The compiler cannot split a kernel by itself; plain XLA attention needs none of this.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from vit_jax.models.layout import BATCH, HEADS, TOKENS, dividing, free_axes

Kernel = Callable[
    [jax.Array, jax.Array, jax.Array, jax.Array | None],
    jax.Array,
]


def on_mesh(
    kernel: Kernel,
    query: Float[Array, "B T H Dh"],
    key: Float[Array, "B S H Dh"],
    value: Float[Array, "B S H Dh"],
    mask: Bool[Array, "#B #H #T S"] | None,
    *,
    causal: bool,
) -> Float[Array, "B T H Dh"]:
    """``kernel(query, key, value, mask)`` on each device's part.

    Rows are over ``BATCH``, heads over ``HEADS``, and queries over ``TOKENS``: a device
    gathers all keys and values. Where an axis does not divide its dimension, all its
    devices compute the same; so they do over ``TOKENS`` for a causal kernel, which
    counts its queries from 0.
    """
    mesh, free = free_axes()
    if not free or mesh.size == 1:
        return kernel(query, key, value, mask)
    num_queries = query.shape[1]
    tokens = None
    (axis,) = TOKENS
    if axis in free and mesh.shape[axis] > 1 and not causal:
        tokens = axis
        query = _pad_queries(query, mesh.shape[axis])
        if mask is not None and mask.shape[2] > 1:
            widths = ((0, 0), (0, 0), (0, query.shape[1] - num_queries), (0, 0))
            mask = jnp.pad(mask, widths, constant_values=True)
    batch = dividing(mesh, free, BATCH, query.shape[0])
    heads = dividing(mesh, free, HEADS, query.shape[2])
    places = PartitionSpec(batch, tokens, heads, None)
    gathered = PartitionSpec(batch, None, heads, None)
    arguments, specs = (query, key, value), (places, gathered, gathered)
    if mask is not None:
        axes = zip((batch, heads, tokens, None), mask.shape, strict=True)
        arguments += (mask,)
        specs += (PartitionSpec(*(axis if size > 1 else None for axis, size in axes)),)

    def local(query: jax.Array, key: jax.Array, value: jax.Array, *mask: jax.Array):
        return kernel(query, key, value, mask[0] if mask else None)

    out = jax.shard_map(
        local,
        in_specs=specs,
        out_specs=places,
        axis_names=set(free),
        check_vma=False,  # kernels do not say along which axes their results vary
    )(*arguments)
    return out[:, :num_queries]


def _pad_queries(query: jax.Array, parts: int) -> jax.Array:
    return jnp.pad(query, ((0, 0), (0, -query.shape[1] % parts), (0, 0), (0, 0)))
