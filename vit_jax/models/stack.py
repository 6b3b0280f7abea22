"""``depth`` identical blocks: parameters stacked on a leading axis, run by a scan."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

# What a block keeps for the backward pass. "attention" is applied inside the block
# (models/attention.py): it recomputes the attention weights only, which a fused kernel
# does by itself.
REMAT: dict[str, Callable | None] = {
    "none": None,
    "attention": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
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
    constrain: Callable[[jax.Array], jax.Array] = lambda tokens: tokens,
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
        tokens = block(
            constrain(tokens), mask=mask, rotate=rotate, drop_path_rate=rate, key=key
        )
        return tokens, tokens if intermediates else None

    if (policy := REMAT[remat]) is not None:
        # prevent_cse guards against undoing the remat; inside a scan it only costs.
        layer = jax.checkpoint(layer, policy=policy, prevent_cse=unroll > 1)
    return jax.lax.scan(layer, tokens, (params, rates, keys), unroll=unroll)
