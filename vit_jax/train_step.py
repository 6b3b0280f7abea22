"""One update of the parameters, as a pure function; it names no objective."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax.objectives.base import merge
from vit_jax.train_state import TrainState

Batch = dict[str, jax.Array]
TrainStep = Callable[
    [TrainState, dict[str, Any], Batch, jax.Array], tuple[TrainState, Batch]
]


def split_batch(batch: Batch, parts: int) -> Batch:
    """``[B, ...]`` to ``[parts, B / parts, ...]``, part i holding rows i, i+parts, ...

    Strided, not in blocks: each device's rows then stay on that device.
    """

    def split(rows: jax.Array) -> jax.Array:
        return rows.reshape(-1, parts, *rows.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, batch)


def build_train_step(
    graphdef: Any,
    tx: optax.GradientTransformation,
    *,
    prepare_batch: Callable[[Batch, jax.Array], Batch],
    accumulate: int,
    ema: float,
) -> TrainStep:
    """Returns ``train_step(state, frozen, batch, key) -> (state, metrics)``.

    The key is the run's own and never changes: what is random at a step is drawn from
    ``fold_in(key, step)``. The batch is prepared (mixup and the like) whole, then cut
    into ``accumulate`` micro-batches whose gradients are averaged.

    A step whose loss, gradient norm or resulting parameter norm is not finite changes
    nothing but ``state.step``, the place in the data; its metric ``nonfinite`` is True.
    The optimizer's own count, which its schedule follows, then lags by that step.
    """

    def loss_fn(params, frozen, batch, key):
        return merge(graphdef, params, frozen).loss(batch, key=key)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def gradients(params, frozen, batch, key):
        if accumulate == 1:
            return grad_fn(params, frozen, batch, key)
        keys = jax.random.split(key, accumulate)
        parts = split_batch(batch, accumulate)

        def add(total, part_and_key):
            part = grad_fn(params, frozen, *part_and_key)
            return jax.tree.map(jnp.add, total, part), None

        first = jax.tree.map(lambda rows: rows[0], parts)
        shapes = jax.eval_shape(grad_fn, params, frozen, first, key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, (parts, keys))
        return jax.tree.map(lambda leaf: leaf / accumulate, total)

    def train_step(state, frozen, batch, key):
        prepare_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
        batch = prepare_batch(batch, prepare_key)
        (loss, metrics), grads = gradients(state.params, frozen, batch, loss_key)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = optax.incremental_update(params, state.ema, 1.0 - ema) if ema else {}
        norms = {
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),
        }
        finite = jnp.isfinite(loss) & jnp.all(
            jnp.isfinite(jnp.stack([*norms.values()]))
        )
        new_state = state.replace(params=params, opt_state=opt_state, ema=average)
        applied = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), new_state, state
        )
        metrics = {"loss": loss, **metrics, **norms, "nonfinite": ~finite}
        return applied.replace(step=state.step + 1), metrics

    return train_step
