"""Types of the moments, what rounding does to them, and states that come back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import training
from tests.optim import trees
from vit_jax.checkpoint import Checkpoints
from vit_jax.optim.parts import round_at_random, scale_by_adam

# Fields of the states that hold first and second moments.
FIRST, SECOND = {"mu", "trace", "ema"}, {"nu", "v", "v_row", "v_col"}
START = trees.random_flat(0, trees.SMALL)


def moments(tx, fields):
    """Types and bytes of a state's arrays in those fields."""
    state = trees.flatten(jax.eval_shape(tx.init, trees.nest(START)))
    found = [x for path, x in state.items() if fields.intersection(path.split("/"))]
    return {x.dtype.name for x in found}, sum(x.size * x.dtype.itemsize for x in found)


@pytest.mark.parametrize("name", trees.NAMES)
def test_mu_dtype_is_of_the_first_moment_alone(name):
    full = trees.build(trees.section(name))
    half = trees.build(trees.section(name, mu_dtype="bfloat16"))
    parameters = sum(value.size for value in START.values())
    assert moments(full, FIRST) == ({"float32"}, 4 * parameters)
    assert moments(half, FIRST) == ({"bfloat16"}, 2 * parameters)
    assert moments(half, SECOND) == moments(full, SECOND)
    assert moments(half, SECOND)[0] <= {"float32"}


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_nu_dtype_is_of_the_second_moment_alone(name):
    full = trees.build(trees.section(name))
    half = trees.build(trees.section(name, nu_dtype="bfloat16"))
    assert moments(half, FIRST) == moments(full, FIRST)
    assert moments(half, SECOND)[0] == {"bfloat16"}
    assert moments(full, SECOND)[1] == 2 * moments(half, SECOND)[1] > 0


@pytest.mark.parametrize("name", trees.NAMES)
def test_low_precision_moments_update_almost_as_float32(name):
    """Of the way gone in 5 steps, at most 2 % is another."""
    types = {
        k: "bfloat16" for k in ("mu_dtype", "nu_dtype") if k in trees.section(name)
    }
    gradients = [trees.random_flat(seed, trees.SMALL) for seed in range(1, 6)]
    ways = []
    for changes in ({}, types):
        settings = trees.section(name, weight_decay=0.0, **changes)
        params, _ = trees.steps_of(trees.build(settings), START, gradients)
        ways.append([params[path] - START[path] for path in START])
    full, half = (np.concatenate([way.ravel() for way in group]) for group in ways)
    # bfloat16 rounds by 2 ** -9 at most, at random by 2 ** -8, which the few steps and
    # the square root leave at that size. Muon's five iterations and Lion's signs make
    # more of it: a small singular value, or an average near 0, is mostly rounding.
    limit = {"muon": 0.05, "lion": 0.05}.get(name, 0.02)
    difference = np.linalg.norm(half - full) / np.linalg.norm(full)
    assert difference < limit
    assert difference > 0 or name == "lion"  # whose signs may all be the same


def test_rounding_at_random_keeps_the_mean():
    exact = jnp.float32([1.0, 1.001, -3.003, 1e-12, 0.0, jnp.inf])
    draws = round_at_random(
        jnp.broadcast_to(exact[:, None], (6, 20_000)), jax.random.key(3)
    )
    assert draws.dtype == jnp.bfloat16
    draws = np.asarray(draws, np.float64)
    assert set(draws[0]) == {1.0} and set(draws[4]) == {0.0}
    assert set(draws[5]) == {np.inf}
    assert set(draws[1]) == {1.0, 1.0078125}  # its two neighbours
    for row, value in zip(draws[1:4], np.asarray(exact, np.float64)[1:4], strict=True):
        # A draw's deviation is at most half a spacing of 2 ** -7: of 20,000, 5 sigma.
        assert abs(row.mean() / value - 1) < 5 * 2**-8 / np.sqrt(20_000)


def test_a_second_moment_in_bfloat16_falls_as_in_float32():
    """Rounded to the nearest it would stay at 1: a step of b2 = 0.999 is too small."""
    b2, steps = 0.999, 700
    tx = scale_by_adam(b1=0.9, b2=b2, eps=1e-8, mu_dtype="float32", nu_dtype="bfloat16")
    zeros = jnp.zeros(4096)

    def step(state, _):
        return tx.update(zeros, state)[1], None

    start = tx.init(zeros)._replace(nu=jnp.ones(4096, jnp.bfloat16))
    state, _ = jax.jit(lambda state: jax.lax.scan(step, state, length=steps))(start)
    assert state.nu.dtype == jnp.bfloat16
    nu = np.asarray(state.nu, np.float64)
    # Each of the 700 steps adds noise with a deviation of at most 2 ** -8 of nu and,
    # being drawn where one step in 4 or 8 moves at all, about 0.04 altogether; the mean
    # of 4,096 is 64 times as sure.
    assert abs(nu.mean() / b2**steps - 1) < 5 * 0.1 / 64
    nearest = jnp.bfloat16(1.0)
    assert (jnp.float32(nearest) * b2).astype(jnp.bfloat16) == nearest


def test_every_state_comes_back_bit_for_bit(tmp_path):
    """And the step after it is the one that would have been."""
    states, steps = {}, {}
    for name in trees.NAMES:
        low = {
            k: "bfloat16" for k in ("mu_dtype", "nu_dtype") if k in trees.section(name)
        }
        tx = steps[name] = trees.build(trees.section(name, **low))
        params = jax.tree.map(jnp.asarray, trees.nest(START))
        gradient = jax.tree.map(
            jnp.asarray, trees.nest(trees.random_flat(1, trees.SMALL))
        )
        _, state = jax.jit(tx.update)(gradient, tx.init(params), params)
        states[name] = {"params": params, "opt_state": state}
    checkpoints = Checkpoints(tmp_path / "checkpoints", verify=False)
    checkpoints.save(1, states, {})
    checkpoints.close()
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), states
    )
    again = Checkpoints(tmp_path / "checkpoints")
    restored, _ = again.restore(1, abstract)
    again.close()
    assert training.same_bits(restored, states)
    assert jax.tree.structure(restored) == jax.tree.structure(states)
    name = "muon"  # with every kind of moment, one of them rounded at random
    update = jax.jit(steps[name].update)
    gradient = jax.tree.map(jnp.asarray, trees.nest(trees.random_flat(2, trees.SMALL)))
    one, two = (
        update(gradient, state[name]["opt_state"], state[name]["params"])
        for state in (states, restored)
    )
    assert training.same_bits(one, two)
