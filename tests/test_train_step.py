"""The train step: the same on any mesh, in micro-batches, with an average, frozen."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import base
from tests import training
from tests.models import tiny
from vit_jax import setup, train_state
from vit_jax.objectives.base import Objective, merge, split
from vit_jax.train_step import build_train_step, split_batch

NOISE = (
    "model.dropout=0.1",
    "model.attention_dropout=0.1",
    "model.drop_path=0.1",
    "data.augment.mixup=0.2",
)
MESHES = {
    "data": dict(data=8),
    "fsdp": dict(fsdp=8),
    "sequence": dict(fsdp=2, sequence=4),
    "all": dict(data=2, fsdp=2, tensor=2),
}
GRADIENTS = {
    "data": dict(data=8),
    "fsdp": dict(fsdp=8),
    "tensor": dict(tensor=2),
    "sequence": dict(sequence=8),
    "uneven_sequence": dict(sequence=3),  # 16 tokens
    "fsdp_tensor": dict(fsdp=4, tensor=2),
    "fsdp_sequence": dict(fsdp=2, sequence=4),
    "tensor_sequence": dict(data=2, tensor=2, sequence=2),
    "two_slices": dict(slices=2, fsdp=4),
    "two_slices_all": dict(slices=2, data=1, fsdp=2, tensor=1, sequence=2),
}


@functools.cache
def single_losses():
    config = training.tiny_config(*NOISE)
    parts = training.build(config, devices=jax.devices()[:1])
    _, losses, _ = training.run_steps(parts, 4)
    return losses


def sharded(tree):
    leaves = jax.tree.leaves(tree)
    return sum(not leaf.sharding.is_fully_replicated for leaf in leaves)


@pytest.mark.parametrize("name", MESHES)
def test_a_mesh_trains_as_one_device_does(name):
    sizes = dict(data=1) | MESHES[name]
    mesh = [f"mesh.{axis}={size}" for axis, size in sizes.items()]
    config = training.tiny_config(*NOISE, *mesh)
    parts = training.build(config, devices=jax.devices()[:8])
    assert {axis: n for axis, n in parts.mesh.shape.items() if n > 1} == MESHES[name]
    state, losses, _ = training.run_steps(parts, 4)
    assert len(set(losses)) == 4
    np.testing.assert_allclose(losses, single_losses(), rtol=1e-5)
    if name == "data":
        assert not sharded(state.params)
    else:
        assert sharded(state.params) and sharded(state.opt_state)


def gradients(sizes, *changes):
    """A loss and its gradients by path, on a mesh of these sizes."""
    mesh = [f"mesh.{axis}={size}" for axis, size in (dict(data=1) | sizes).items()]
    config = training.tiny_config(*NOISE, *changes, *mesh)
    devices = jax.devices()[: math.prod(sizes.values())]
    parts = training.build(config, devices=devices)
    assert {axis: n for axis, n in parts.mesh.shape.items() if n > 1} == {
        axis: n for axis, n in sizes.items() if n > 1
    }
    prepare = setup.build_prepare(config)

    def loss(params, frozen, batch, key):
        batch = prepare(batch, key)
        return merge(parts.graphdef, params, frozen).loss(batch, key=key)[0]

    shapes = parts.state_shapes.params
    # Not as initialised: nothing would reach the blocks through a head of zeros.
    filled = tiny.fill(jax.tree.map(lambda leaf: leaf.update(sharding=None), shapes))
    params = jax.device_put(filled, jax.tree.map(lambda leaf: leaf.sharding, shapes))
    with jax.set_mesh(parts.mesh):
        given = (params, parts.frozen, training.batch(parts), parts.step_key)
        run = training.quickly(jax.jit(jax.value_and_grad(loss)))
        value, grads = run(*given)
    leaves = jax.tree_util.tree_leaves_with_path(training.host(grads))
    return float(value), {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


@functools.cache
def single_gradients():
    return gradients({})


def assert_gradients(name, sizes, wanted, *changes):
    """To 1e-5 of each parameter's gradient, in the Euclidean norm.

    That of keys' biases is zero but for rounding: softmax does not see them.
    """
    value, grads = gradients(sizes, *changes)
    assert value == pytest.approx(wanted[0], rel=1e-5), name
    assert grads.keys() == wanted[1].keys()
    for path, expected in wanted[1].items():
        error = np.linalg.norm(grads[path] - expected)
        if path.endswith("['key']['bias']"):
            assert np.linalg.norm(grads[path]) < 1e-7
        else:
            assert error <= 1e-5 * np.linalg.norm(expected) > 0, (name, path)


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_mesh_has_the_loss_and_gradients_of_one_device(name):
    assert_gradients(name, GRADIENTS[name], single_gradients())


def test_a_mesh_splits_tokens_that_it_does_not_divide():
    changes = ("model.cls_token=True", "model.pool=cls")  # 17 tokens
    sizes = dict(data=2, sequence=4)
    assert_gradients("cls", sizes, gradients({}, *changes), *changes)


def test_dropout_is_on_in_the_comparison_of_meshes():
    config = training.tiny_config("data.augment.mixup=0.2")
    parts = training.build(config, devices=jax.devices()[:1])
    _, losses, _ = training.run_steps(parts, 4)
    assert not np.allclose(losses[1:], single_losses()[1:], rtol=1e-3)


def sgd_config(*changes):
    config = training.tiny_config(*changes).unlock()
    config.optim = base.sgd(learning_rate=0.5, momentum=0.0, clip_norm=0.0)
    return config.lock()


def test_accumulation_changes_nothing():
    one = training.build(sgd_config(), devices=jax.devices()[:1])
    four = training.build(sgd_config("train.accumulate=4"), devices=jax.devices()[:1])
    before = training.host(one.init().params)
    state_one, _, rows_one = training.run_steps(one, 2)
    state_four, _, rows_four = training.run_steps(four, 2)
    for a, b in zip(rows_one, rows_four, strict=True):
        assert a.keys() == b.keys() >= {"loss", "grad_norm", "accuracy"}
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, err_msg=name)
    after = training.host(state_one.params)
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    ]
    assert any(moved)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        after,
        training.host(state_four.params),
    )


def test_accumulation_on_a_mesh():
    config = training.tiny_config("train.accumulate=2")
    single = training.build(config, devices=jax.devices()[:1])
    eight = training.build(config, devices=jax.devices()[:8])
    _, expected, _ = training.run_steps(single, 3)
    _, losses, _ = training.run_steps(eight, 3)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_micro_batches_take_every_nth_row():
    rows = {"x": jnp.arange(12).reshape(6, 2), "y": jnp.arange(6)}
    parts = split_batch(rows, 3)
    assert parts["y"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert parts["x"].shape == (3, 2, 2)
    assert parts["x"][1].tolist() == [[2, 3], [8, 9]]


def test_the_average_is_the_one_by_hand():
    parts = training.build(
        training.tiny_config("train.ema=0.9"), devices=jax.devices()[:1]
    )
    state = parts.init()
    expected = training.host(state.params)
    assert training.same_bits(state.ema, expected)
    for _ in range(3):
        state, _, _ = training.run_steps(parts, 1, state=state)
        expected = jax.tree.map(
            lambda average, new: 0.9 * average + 0.1 * new,
            expected,
            training.host(state.params),
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        training.host(state.ema),
        expected,
    )
    assert not training.same_bits(state.ema, state.params)


def test_without_an_average_there_is_none():
    parts = training.build(training.tiny_config(), devices=jax.devices()[:1])
    state, _, _ = training.run_steps(parts, 1)
    assert state.ema == {}
    assert int(state.step) == 1


def test_the_loss_falls_on_a_fixed_batch():
    config = training.tiny_config("data.augment.mixup=0.0")
    parts = training.build(config, devices=jax.devices()[:1], total=60)
    _, losses, _ = training.run_steps(parts, 60, fixed=True)
    assert losses[0] == pytest.approx(np.log(10), rel=0.05)
    assert losses[-1] < 0.8 * losses[0]


class Distil(Objective):
    """Follows a linear teacher."""

    frozen = ("teacher",)

    def __init__(self):
        self.student = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
        self.teacher = nnx.Linear(4, 3, rngs=nnx.Rngs(1))

    def loss(self, batch, *, key):
        error = self.student(batch["x"]) - self.teacher(batch["x"])
        return (error**2).mean(), {}


def paths(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves
    ]


def test_frozen_parts_are_neither_trained_nor_in_the_optimizer():
    graphdef, params, frozen = split(Distil())
    assert paths(params) == ["student/bias", "student/kernel"]
    assert paths(frozen) == ["teacher/bias", "teacher/kernel"]
    seen = []
    tx = optax.adam(0.1)

    def update(grads, state, params=None):
        seen.extend(paths(grads))
        return tx.update(grads, state, params)

    watched = optax.GradientTransformation(tx.init, update)
    step = build_train_step(
        graphdef,
        watched,
        prepare_batch=lambda batch, key: batch,
        accumulate=1,
        ema=0.0,
    )
    state = train_state.create(params, watched, with_ema=False)
    assert not [path for path in paths(state.opt_state) if "teacher" in path]
    before, started = training.host(frozen), training.host(params)
    given = {
        "x": jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)
    }
    step = jax.jit(step)
    state, first = step(state, frozen, given, jax.random.key(0))
    for _ in range(5):
        state, last = step(state, frozen, given, jax.random.key(0))
    assert seen == ["student/bias", "student/kernel"]
    assert last["loss"] < first["loss"]
    assert training.same_bits(frozen, before)
    assert paths(state.params) == paths(started)
    assert not training.same_bits(state.params, started)
