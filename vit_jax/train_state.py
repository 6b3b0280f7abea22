"""All that training carries from step to step, made straight into its shards."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct


@struct.dataclass
class TrainState:
    """A plain tree of arrays: what is checkpointed and what the step updates.

    ``step`` counts finished updates and is the position in the data as well. ``ema``
    is the moving average of ``params``, or an empty dict when it is off.
    """

    step: Any  # arrays, or in their places shapes or shardings
    params: Any
    opt_state: Any
    ema: Any


def create(
    params: dict[str, Any], tx: optax.GradientTransformation, *, with_ema: bool
) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        # A copy: the step donates its input, and one buffer cannot be given twice.
        ema=jax.tree.map(jnp.copy, params) if with_ema else {},
    )


def init_sharded(
    init: Callable[[jax.Array], TrainState], key: jax.Array, shardings: TrainState
) -> TrainState:
    """Runs ``init(key)`` under jit with each array born in its shards."""
    return jax.jit(init, out_shardings=shardings)(key)
