"""The train step: the same on any mesh, in micro-batches, with an average, frozen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import base
from tests import training
from vit_jax import train_state
from vit_jax.objectives.base import Objective, split
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
    "fsdp_tensor": dict(fsdp=4, tensor=2),
    "all": dict(data=2, fsdp=2, tensor=2),
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
