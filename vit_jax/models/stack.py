"""``depth`` identical blocks: parameters stacked on a leading axis, run by a scan."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Key

from vit_jax.models.attention import ATTENDED
from vit_jax.models.layout import constrain

BLOCK_INPUT = "block_input"

_policies = jax.checkpoint_policies


def _fused(primitive: Any, *_: Any, **__: Any) -> bool:
    """Attention kernels, which keep no attention weights."""
    return bool(re.match(r"pallas_call|dot_product_attention", primitive.name))


# What a block keeps for the backward pass: "none" everything that it needs,
# "elementwise" the results of products and kernels alone, "attention" those but for the
# attention weights, "dots" those of dense layers, "full" its input, and "offload" that
# in the host's memory.
#
# A scan has to store what is kept, where blocks written out let the compiler choose
# what to compute again instead: hence "elementwise" by default.
REMAT: dict[str, Callable | None] = {
    "none": None,
    "elementwise": _policies.save_from_both_policies(_policies.dots_saveable, _fused),
    "attention": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable,
        _policies.save_from_both_policies(
            _policies.save_only_these_names(ATTENDED), _fused
        ),
    ),
    "dots": _policies.dots_with_no_batch_dims_saveable,
    "full": _policies.nothing_saveable,
    "offload": _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[BLOCK_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


def build_blocks(
    make_block: Callable[[nnx.Rngs], nnx.Module], depth: int, key: Key[Array, ""]
) -> nnx.Module:
    """Builds ``depth`` blocks as one module whose parameters are ``[depth, ...]``."""
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make_block(nnx.Rngs(0))))

    def init(key: jax.Array) -> dict:
        return nnx.to_pure_dict(nnx.state(make_block(nnx.Rngs(key))))

    return nnx.merge(graphdef, jax.vmap(init)(jax.random.split(key, depth)))


def apply_blocks(
    blocks: nnx.Module,
    tokens: Float[Array, "B N D"],
    *,
    depth: int,
    remat: str,
    unroll: int,
    drop_path: float,
    mask: Bool[Array, "#B #H #N N"] | None = None,
    key: Key[Array, ""] | None = None,
    intermediates: bool = False,
    rotate: Callable[[jax.Array], jax.Array] | None = None,
) -> tuple[Float[Array, "B N D"], Float[Array, "L B N D"] | None]:
    """Runs the blocks in order; ``unroll=depth`` writes the loop out.

    The drop-path rate rises linearly from 0 at the first block to ``drop_path`` at
    the last. Layer i's key depends on ``key`` and i alone, so that every ``unroll``
    and every remat policy computes the same values. ``rotate`` is the same in all of
    them (see `Attention`).

    Returns:
      The tokens after the last block, and each block's output on request.
    """
    graphdef, state = nnx.split(blocks)
    params = nnx.to_pure_dict(state)
    rates = (
        jnp.linspace(0.0, drop_path, depth) if drop_path and key is not None else None
    )
    keys = None if key is None else jax.random.split(key, depth)

    def layer(
        tokens: jax.Array, per_layer: tuple
    ) -> tuple[jax.Array, jax.Array | None]:
        params, rate, key = per_layer
        block = nnx.merge(graphdef, params)
        rate = 0.0 if rate is None else rate
        tokens = checkpoint_name(constrain(tokens, "tokens"), BLOCK_INPUT)
        tokens = block(tokens, mask=mask, rotate=rotate, drop_path_rate=rate, key=key)
        return tokens, tokens if intermediates else None

    if (policy := REMAT[remat]) is not None:
        # prevent_cse guards against undoing the remat; inside a scan it only costs.
        layer = jax.checkpoint(layer, policy=policy, prevent_cse=unroll > 1)
    return jax.lax.scan(layer, tokens, (params, rates, keys), unroll=unroll)
