"""Optimizers on a mesh: the update of one device, and nothing large is replicated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import base
from tests import training
from tests.models.tiny import FAST
from tests.optim import trees
from vit_jax import sharding
from vit_jax.models import vit

# Dimensions that the mesh divides; heads 2, of 8, width 16.
SHAPES = {
    "encoder/position_embedding": (1, 9, 16),
    "encoder/blocks/attention/query/kernel": (3, 16, 2, 8),
    "encoder/blocks/attention/out/kernel": (3, 2, 8, 16),
    "encoder/blocks/mlp/hidden/kernel": (3, 16, 32),
    "encoder/blocks/mlp/hidden/bias": (3, 32),
    "encoder/head/kernel": (16, 8),
}


@functools.cache
def mesh():
    sizes = dict(slices=1, data=1, fsdp=4, tensor=2, sequence=1)
    return sharding.build_mesh(**sizes, devices=jax.devices()[:8])


def second_update(tx, start, state, gradient, where=None):
    """Parameters and state; the first update has filled the moments."""

    def step(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    update = jax.jit(step, out_shardings=where, compiler_options=FAST)
    return update(*update(start, state, gradient), gradient)


@pytest.mark.parametrize("name", trees.NAMES)
def test_a_mesh_updates_as_one_device_does(name):
    changes = {"adafactor": dict(min_factored=8, clip_rms=0.5)}.get(name, {})
    tx = trees.build(trees.section(name, layer_decay=0.8, **changes))
    start, gradient = (
        jax.tree.map(jnp.asarray, trees.nest(trees.random_flat(seed, SHAPES)))
        for seed in (0, 1)
    )
    given = (start, tx.init(start), gradient)
    wanted = trees.flatten(second_update(tx, *given))
    of_params = sharding.param_shardings(start, mesh())
    of_state = sharding.opt_state_shardings(given[1], start, of_params, mesh())
    laid_out = jax.device_put(given, (of_params, of_state, of_params))
    got = second_update(tx, *laid_out, (of_params, of_state))
    got = trees.flatten(got)
    assert got.keys() == wanted.keys()
    # Sums over other parts, each off by a few 2 ** -24. Muon's iteration has a slope of
    # 3.4445 ** 5 = 485 at a singular value of 0; its matrices have a norm of 1 before,
    # and after it and the scale a rate of 0.02 times 0.2 times 32 ** 0.5 at most.
    slack = 485 * 2**-23 * 0.02 * 0.2 * 32**0.5 if name == "muon" else 0.0
    for path in wanted:
        np.testing.assert_allclose(
            got[path], wanted[path], rtol=2e-6, atol=1e-6 + slack, err_msg=path
        )
    kernel = "encoder/blocks/mlp/hidden/kernel"
    whole = [path for path, x in got.items() if x.sharding.is_fully_replicated]
    assert not any(path.endswith(kernel) and got[path].size > 3 for path in whole)


@functools.cache
def shapes_of_g14():
    def build():
        model = vit.build(
            key=jax.random.key(0),
            variant="g/14",
            image_size=(224, 224),
            num_classes=1000,
            position="learned",
            pool="map",
        )
        return nnx.to_pure_dict(nnx.state(model))

    return {"encoder": jax.eval_shape(build)}


def size(leaf):
    return leaf.size * leaf.dtype.itemsize


@pytest.mark.parametrize("name", trees.NAMES)
def test_what_is_replicated_of_g14_is_small(name):
    shapes = shapes_of_g14()
    of_params = sharding.param_shardings(shapes, mesh())
    tx = trees.build(dict(getattr(base, name)()))
    state = jax.eval_shape(tx.init, shapes)
    where = sharding.opt_state_shardings(state, shapes, of_params, mesh())
    parameters = sum(map(size, jax.tree.leaves(shapes)))
    assert parameters > 4e9  # a billion of 4 bytes
    pairs = list(zip(jax.tree.leaves(state), jax.tree.leaves(where), strict=True))
    replicated = sum(size(x) for x, s in pairs if s.is_fully_replicated)
    each = sum(np.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in pairs)
    total = sum(size(x) for x, _ in pairs)
    # Two moments of what is replicated of the parameters themselves (norms, the outputs'
    # biases, positions), and a thousandth for counts and what is not factored.
    of_leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(of_params), strict=True)
    small = sum(size(x) for x, s in of_leaves if s.is_fully_replicated)
    assert small < 0.001 * parameters
    assert replicated < 2.002 * small
    # What is split along one axis of the mesh, or none, where kernels are along both.
    assert each < total / 8 + 0.002 * parameters
    assert total > 0.4 * parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", trees.NAMES)
def test_accumulated_gradients_update_as_those_of_the_whole_batch(name):
    states = []
    for accumulate in (1, 4):
        config = training.tiny_config(
            f"train.accumulate={accumulate}", "data.dir=unused"
        ).unlock()
        config.optim = (
            base.lars(learning_rate=2.0) if name == "lars" else getattr(base, name)()
        )
        parts = training.build(config.lock(), devices=jax.devices()[:1])
        state, losses, _ = training.run_steps(parts, 3)
        states.append((training.host(state.params), losses))
    (one, losses_one), (four, losses_four) = states
    np.testing.assert_allclose(losses_one, losses_four, rtol=1e-5)
    if name == "lars":  # linear in the gradient; others make much of a small one
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            one,
            four,
        )
