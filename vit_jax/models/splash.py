"""JAX's splash attention for TPU (Pallas) on tokens and heads of any number and size.

It is flash attention (arXiv 2205.14135) that leaves out masked blocks. The logits never
reach memory, in the forward and in the backward pass.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jaxtyping import Array, Bool, Float

LANES = 128  # of a TPU's vector registers: tokens come in multiples of it
MAX_BLOCK = 640  # 4 float32 arrays of 640 x 640 are in use at once: 6.5 of 16 MiB


def attend(
    query: Float[Array, "B T H Dh"],
    key: Float[Array, "B S H Dh"],
    value: Float[Array, "B S H Dh"],
    mask: Bool[Array, "#B 1 1 S"] | None = None,
    *,
    causal: bool = False,
    interpret: bool = False,
) -> Float[Array, "B T H Dh"]:
    """Softmax attention of one device's rows and heads.

    Tokens are padded to a multiple of 128 (577 to 640) and the padding is masked by
    segment ids. A row whose keys are all masked has finite values without a meaning.

    Args:
      query, key, value: per-head projections.
      mask: True where a key may be attended to.
      causal: query i sees the keys up to i.
      interpret: run the kernel's arithmetic without a TPU; slow.
    """
    batch, num_queries, _, head_dim = query.shape
    num_keys = key.shape[1]
    # The kernel has no scale. In float32, so that bfloat16 is rounded once.
    scaled = query.astype(jnp.float32) * head_dim**-0.5
    query = _heads_first(scaled.astype(query.dtype))
    key, value = _heads_first(key), _heads_first(value)
    kernel = _build(query.shape, key.shape, causal=causal, interpret=interpret)
    if mask is None and key.shape[2] == num_keys:
        out = jax.vmap(kernel)(query, key, value)
    else:
        attended = jnp.ones((batch, 1, 1, num_keys), bool) if mask is None else mask
        attended = jnp.broadcast_to(attended[:, 0, 0], (batch, num_keys))
        ids = splash_attention.SegmentIds(
            q=jnp.ones((batch, query.shape[2]), jnp.int32),
            kv=_pad(attended.astype(jnp.int32), axis=1),  # 0 meets no query
        )
        out = jax.vmap(kernel)(query, key, value, ids)
    return out[:, :, :num_queries].swapaxes(1, 2)  # [B, T, H, Dh]


def _heads_first(array: jax.Array) -> jax.Array:
    """To ``[B, H, N, Dh]`` with N a multiple of 128."""
    return _pad(array.swapaxes(1, 2), axis=2)


def _pad(array: jax.Array, axis: int) -> jax.Array:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, -array.shape[axis] % LANES)
    return jnp.pad(array, widths)


def block_size(num_tokens: int) -> int:
    """Tokens of a block: the most, to 640, that divide a multiple of 128 evenly.

    256 is one block, and so is 640; 1,024 are two of 512, and 1,152 three of 384.
    """
    sizes = range(LANES, min(num_tokens, MAX_BLOCK) + 1, LANES)
    return max(size for size in sizes if num_tokens % size == 0)


def _build(
    query_shape: tuple[int, ...],
    key_shape: tuple[int, ...],
    *,
    causal: bool,
    interpret: bool,
) -> Callable[..., jax.Array]:
    """The kernel for one row, ``[H, N, Dh]``.

    Built in each trace: its constants belong to the trace.
    """
    _, num_heads, num_queries, _ = query_shape
    num_keys = key_shape[2]
    kind = splash_attention.CausalMask if causal else splash_attention.FullMask
    head = kind((num_queries, num_keys))
    queries, keys = block_size(num_queries), block_size(num_keys)
    # With one block of keys the backward pass of queries needs no sum over blocks, so
    # that one kernel does all of it; with more, its partial sums would be in memory.
    fused = keys == num_keys
    kernel: Any = splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([head] * num_heads),
        block_sizes=splash_attention.BlockSizes(
            block_q=queries,
            block_kv=keys,
            block_kv_compute=keys,
            block_q_dkv=queries,
            block_kv_dkv=keys,
            block_kv_dkv_compute=keys,
            block_q_dq=None if fused else queries,
            block_kv_dq=None if fused else keys,
            use_fused_bwd_kernel=fused,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    return kernel
