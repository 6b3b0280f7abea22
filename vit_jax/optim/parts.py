"""Parts of the optimizers that optax lacks, or that must act on each layer of a stack.

optax takes a leaf for one parameter. A stack is one leaf with many parameters, so that
its norms, its root mean square and its factors would be those of all layers together.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax.optim.paths import is_stacked, map_paths


def per_layer(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies a transformation without state to each layer of a stack by itself."""

    def update(updates: Any, state: Any, params: Any) -> Any:
        def one(update: jax.Array, param: jax.Array) -> Any:
            return tx.update(update, optax.EmptyState(), param)[0]

        return map_paths(
            lambda path, *leaves: (jax.vmap(one) if is_stacked(path) else one)(*leaves),
            updates,
            params,
        ), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def factored_rms(
    *, decay_power: float, b2_cap: float, min_factored: int, eps: float
) -> optax.GradientTransformation:
    """Adafactor's second moment (arXiv 1804.04235), of each layer by itself.

    Its decay is ``min(b2_cap, 1 - t ** -decay_power)`` at update t = 1, 2, ... Of a
    parameter's two largest dimensions, if both have ``min_factored`` or more, the
    means over one and over the other are kept; of other parameters the whole moment.
    The layer axis is never one of the two.
    """

    def decay_at(step: Any, power: Any) -> jax.Array:
        return jnp.minimum(b2_cap, 1.0 - (step + 1.0) ** -power)

    tx = optax.scale_by_factored_rms(
        decay_rate=decay_power,
        min_dim_size_to_factor=min_factored,
        epsilon=eps,
        decay_rate_fn=decay_at,
    )
    axes = optax.FactoredState(None, 0, 0, 0)  # pyright: ignore[reportArgumentType]

    def collect(results: Any, count: Any) -> optax.FactoredState:
        def field(name: str) -> Any:
            return jax.tree.map(
                lambda state: getattr(state, name),
                results,
                is_leaf=lambda node: isinstance(node, optax.FactoredState),
            )

        return optax.FactoredState(count, field("v_row"), field("v_col"), field("v"))

    def init(params: Any) -> optax.FactoredState:
        stacked = jax.vmap(tx.init, out_axes=axes)
        states = map_paths(
            lambda path, leaf: (stacked if is_stacked(path) else tx.init)(leaf), params
        )
        return collect(states, jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any) -> Any:
        stacked = jax.vmap(tx.update, in_axes=(0, axes, 0), out_axes=(0, axes))

        def one(path: str, gradient: Any, row: Any, column: Any, full: Any, param: Any):
            before = optax.FactoredState(state.count, row, column, full)
            return (stacked if is_stacked(path) else tx.update)(gradient, before, param)

        pairs = map_paths(
            one, updates, state.v_row, state.v_col, state.v, params
        )  # of update and state
        outer = jax.tree.structure(updates)
        scaled, states = zip(*outer.flatten_up_to(pairs), strict=True)
        count = optax.safe_increment(state.count)
        return outer.unflatten(scaled), collect(outer.unflatten(states), count)

    return optax.GradientTransformation(init, update)


def scale_by_adam(
    *, b1: float, b2: float, eps: float, mu_dtype: str, nu_dtype: str
) -> optax.GradientTransformation:
    """Adam's update (arXiv 1412.6980), each moment in a type of its own.

    In bfloat16 the second moment is rounded up or down at random, in proportion: to
    the nearest, ``b2 * nu`` with b2 = 0.999 is nu itself, and the moment never falls.
    The draws depend on the update's number alone, so that a resumed run has them again.
    """
    tx = optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=jnp.dtype(mu_dtype))
    if nu_dtype == "float32":
        return tx
    dtype = jnp.dtype(nu_dtype)

    def init(params: Any) -> optax.ScaleByAdamState:
        state = tx.init(params)
        return state._replace(nu=optax.tree.cast(state.nu, dtype))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        exact = state._replace(nu=optax.tree.cast(state.nu, jnp.float32))
        updates, new = tx.update(updates, exact, params)
        key = jax.random.fold_in(jax.random.key(0), new.count)
        leaves, structure = jax.tree.flatten(new.nu)
        rounded = [
            round_at_random(leaf, jax.random.fold_in(key, index))
            for index, leaf in enumerate(leaves)
        ]
        return updates, new._replace(nu=structure.unflatten(rounded))

    return optax.GradientTransformation(init, update)


def round_at_random(values: jax.Array, key: jax.Array) -> jax.Array:
    """float32 to one of the two nearest bfloat16, whose mean is the value.

    A bfloat16 is the upper half of a float32: noise in the lower half carries into the
    upper with just the probability wanted.
    """
    noise = jax.random.bits(key, values.shape, jnp.uint16).astype(jnp.uint32)
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32) + noise
    upper = bits & jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(upper, jnp.float32).astype(jnp.bfloat16)
