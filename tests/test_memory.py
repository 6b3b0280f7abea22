"""What a compiled train step holds: its state once."""

import math

import jax
import pytest

from tests import training
from tests.models import tiny
from vit_jax import setup
from vit_jax.config import load
from vit_jax.plan.program import batch_shapes


def compiled(*changes, devices=1):
    """The train step of a tiny config as a program, with its parts."""
    flags = [f"--config.{change}" for change in (*training.TINY, *changes)]
    config = load(training.DIGITS, flags)
    steps = setup.resolve_steps(config, 1437)
    parts = setup.build_parts(config, steps, devices=jax.devices()[:devices])
    batch = batch_shapes(config, config.train.batch_size, parts.mesh)
    with jax.set_mesh(parts.mesh):
        lowered = parts.train_step.lower(
            parts.state_shapes, parts.frozen, batch, parts.step_key
        )
    return lowered.compile(compiler_options=tiny.FAST), parts


def shard_bytes(shapes):
    """Bytes of a tree on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(shapes)
    )


@pytest.mark.parametrize("devices", [1, 8])
def test_the_new_state_takes_the_place_of_the_old(devices):
    program, parts = compiled(
        "train.ema=0.9", "mesh.fsdp=-1", "mesh.data=1", devices=devices
    )
    shapes = parts.state_shapes
    assert shapes.ema and shapes.opt_state and shapes.params
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes == shard_bytes(shapes)
    # What is new beside the state is the metrics.
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < 1024
    with jax.set_mesh(parts.mesh):
        before = parts.init()
        batch = training.batch(parts)
        program(before, parts.frozen, batch, parts.step_key)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(batch))


def test_each_remat_policy_keeps_less():
    sizes = ("model.depth=6", "model.width=32", "model.unroll=1", "train.batch_size=64")
    kept = {}
    for remat in ("none", "dots", "full"):
        program, _ = compiled(*sizes, f"model.remat={remat}")
        kept[remat] = program.memory_analysis().temp_size_in_bytes
    tokens = 4 * 64 * 16 * 32  # bytes of a block's output
    # "none" keeps for each block norms, projections, attention and the MLP's hidden
    # layer, "dots" the products of these without a batch axis, "full" its input.
    assert kept["full"] + 6 * 4 * tokens < kept["dots"]
    assert kept["dots"] + 6 * 4 * tokens < kept["none"]
