"""Checkpoints: bit for bit, into other shardings, which are kept, what is missing."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import training
from vit_jax.checkpoint import (
    CheckpointError,
    Checkpoints,
)


@functools.cache
def parts_on(devices, *changes):
    mesh = ("mesh.data=1", f"mesh.fsdp={devices}")
    config = training.tiny_config("train.ema=0.9", *mesh, *changes)
    return training.build(config, devices=jax.devices()[:devices])


def trained(devices):
    state, _, _ = training.run_steps(parts_on(devices), 2)
    return state


def state_of(value):
    return {"params": {"w": jnp.full((2, 3), float(value))}}


def fill(folder, metrics, *, keep, best="val/accuracy"):
    """A directory with a save for each of metrics, which may be None."""
    with_steps = Checkpoints(folder, keep=keep, best=best)
    name = best or "val/accuracy"
    for number, value in enumerate(metrics, start=1):
        results = {} if value is None else {name: value}
        with_steps.save(number, state_of(number), results)
        with_steps.wait()
    return with_steps


def saved(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


@pytest.mark.parametrize(("first", "second"), [(1, 8), (8, 1), (8, 8)])
def test_a_state_comes_back_bit_for_bit_in_other_shardings(tmp_path, first, second):
    state = trained(first)
    expected = training.host(state)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    checkpoints.save(2, state, {"val/accuracy": 0.25})
    checkpoints.close()
    again = Checkpoints(tmp_path / "checkpoints", keep=2)
    parts = parts_on(second)
    restored, evaluations = again.restore(2, parts.state_shapes)
    again.close()
    assert training.same_bits(restored, expected)
    assert evaluations == {"val/accuracy": 0.25}
    jax.tree.map(
        lambda leaf, shape: np.testing.assert_equal(
            leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim), True
        ),
        restored,
        parts.state_shapes,
    )
    replicated = [
        leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(restored)
    ]
    assert all(replicated) == (second == 1)


def test_the_restored_state_trains_on_as_if_nothing_had_happened(tmp_path):
    parts = parts_on(1)
    straight, _, _ = training.run_steps(parts, 1, state=trained(1))
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(2, trained(1), {})
    checkpoints.wait()
    restored, _ = checkpoints.restore(2, parts.state_shapes)
    checkpoints.close()
    resumed, _, _ = training.run_steps(parts, 1, state=restored)
    assert int(resumed.step) == 3
    assert training.same_bits(resumed, straight)


def test_the_newest_and_the_best_are_kept(tmp_path):
    checkpoints = fill(tmp_path / "c", [0.1, 0.9, 0.3, 0.2, 0.4], keep=2)
    assert saved(tmp_path / "c") == [2, 4, 5]
    assert (checkpoints.latest(), checkpoints.best()) == (5, 2)
    checkpoints.close()
    reopened = Checkpoints(tmp_path / "c", keep=2, best="val/accuracy")
    assert (reopened.latest(), reopened.best()) == (5, 2)
    reopened.close()


def test_the_best_loss_is_the_smallest(tmp_path):
    checkpoints = fill(tmp_path / "c", [0.5, 0.1, 0.9, 0.7], keep=2, best="val/loss")
    assert saved(tmp_path / "c") == [2, 3, 4]
    assert checkpoints.best() == 2
    checkpoints.close()


def test_without_a_best_metric_the_newest_are_kept(tmp_path):
    checkpoints = fill(tmp_path / "c", [0.9, 0.1, 0.2], keep=2, best="")
    assert saved(tmp_path / "c") == [2, 3]
    assert checkpoints.best() == 3
    checkpoints.close()


def test_a_result_that_is_missing_or_no_number_is_never_the_best(tmp_path):
    checkpoints = fill(tmp_path / "c", [None, 0.2, float("nan"), None], keep=4)
    assert checkpoints.best() == 2
    checkpoints.close()


def test_results_of_an_earlier_step_do_not_rank_a_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2, best="val/accuracy")
    checkpoints.save(1, state_of(1), {"val/accuracy": 0.5})
    for step in (2, 3, 4):
        checkpoints.save(step, state_of(step), {"val/accuracy": 0.9}, measured=False)
        checkpoints.wait()
    assert checkpoints.best() == 1
    assert saved(tmp_path / "c") == [1, 3, 4]
    shapes = jax.eval_shape(lambda: state_of(0))
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
    )
    _, evaluations = checkpoints.restore(3, shapes)
    assert evaluations == {"val/accuracy": 0.9}
    checkpoints.close()


def test_finding_a_step(tmp_path):
    checkpoints = fill(tmp_path / "c", [0.9, 0.1, 0.2], keep=2)
    assert checkpoints.find("latest") == 3
    assert checkpoints.find("best") == 1
    assert checkpoints.find("2") == 2
    with pytest.raises(CheckpointError, match=r"no checkpoint '7'; there: 1, 2, 3"):
        checkpoints.find("7")
    with pytest.raises(CheckpointError, match=r"no checkpoint 'newest'; there: 1"):
        checkpoints.find("newest")
    checkpoints.close()
    empty = Checkpoints(tmp_path / "empty", keep=2)
    with pytest.raises(CheckpointError, match=r"no checkpoint 'latest'; there: none"):
        empty.find("latest")
    empty.close()


def test_reading_leaves_a_save_under_way_alone(tmp_path):
    fill(tmp_path / "c", [0.1], keep=2).close()
    partial = tmp_path / "c" / "2.orbax-checkpoint-tmp"
    partial.mkdir()
    (partial / "file").write_text("half")
    reader = Checkpoints(tmp_path / "c", keep=2, best="val/accuracy", read_only=True)
    assert (reader.find("latest"), reader.find("best")) == (1, 1)
    reader.close()
    assert (partial / "file").read_text() == "half"


def test_reading_makes_no_directory(tmp_path):
    reader = Checkpoints(tmp_path / "c", keep=2, best="val/accuracy", read_only=True)
    with pytest.raises(CheckpointError, match=r"there: none"):
        reader.find("latest")
    reader.close()
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_was_cut_short_is_not_the_newest(tmp_path):
    fill(tmp_path / "c", [0.1], keep=2).close()
    shutil.copytree(tmp_path / "c" / "1", tmp_path / "c" / "2.orbax-checkpoint-tmp")
    again = Checkpoints(tmp_path / "c", keep=2)
    assert again.latest() == 1
    again.close()
