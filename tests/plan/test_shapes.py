"""Memory by shapes is what arrays really take; FLOPs are those of an unrolled program."""

import pathlib

import jax
import pytest

from vit_jax import setup
from vit_jax.config import load
from vit_jax.plan import predict, shapes
from vit_jax.plan.program import Job, build, make_mesh, mesh_sizes, prepare
from vit_jax.plan.topology import parse

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs" / "vit_s16_i1k.py")
TINY = (
    "model.width=16",
    "model.depth=3",
    "model.num_heads=2",
    "model.image_size=(32,32)",
    "train.batch_size=64",
)
SHARDED = ("mesh.data=1", "mesh.fsdp=4", "mesh.tensor=2")


def load_tiny(*overrides):
    return load(CONFIG, [f"--config.{key}" for key in (*TINY, *overrides)])


def job_of(*overrides, topology="v5e-8"):
    return prepare(load_tiny(*overrides), parse(topology))


@pytest.mark.parametrize("overrides", [(), SHARDED, (*SHARDED, "train.ema=0.99")])
def test_bytes_of_the_state_are_those_of_its_arrays(overrides):
    job = job_of(*overrides, topology="h100:1x8")  # where nothing fills up tiles
    memory = shapes.memory(shapes.Program(job), job.config, 8)
    state = setup.build_parts(job.config, job.steps).init()
    device = jax.devices()[0]

    def held(tree):
        return sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves(tree)
            for shard in leaf.addressable_shards
            if shard.device == device
        )

    assert memory.params * shapes.GIB == held(state.params)
    assert memory.opt_state * shapes.GIB == held(state.opt_state)
    assert memory.ema * shapes.GIB == held(state.ema)
    assert memory.gradients == memory.params


def test_what_is_planned_is_what_runs():
    """The abstract program has the shapes and shardings of the one that trains."""
    job = job_of(*SHARDED)
    planned, _ = build(
        job, mesh=make_mesh(mesh_sizes(job.config, 8), job.topology.chip)
    )
    real = setup.build_parts(job.config, job.steps)
    for ours, theirs in zip(
        jax.tree.leaves(planned.state_shapes),
        jax.tree.leaves(real.state_shapes),
        strict=True,
    ):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert ours.sharding.spec == theirs.sharding.spec
    assert dict(planned.mesh.shape) == dict(real.mesh.shape)
    assert planned.flops_per_image == real.flops_per_image


def test_kept_activations_by_remat():
    program = shapes.Program(job_of())
    sizes = {}
    for remat in ("none", "attention", "dots", "full"):
        config = job_of(f"model.remat={remat}").config
        sizes[remat] = shapes.memory(program, config, 8)
    kept = {name: memory.activations for name, memory in sizes.items()}
    assert kept["none"] > kept["attention"] > kept["dots"] > kept["full"] > 0
    # Full remat keeps a layer's input: 8 images of 4 tokens, 3 layers, in bfloat16.
    inputs = 8 * 4 * 16 * 3 * 2
    assert kept["full"] * shapes.GIB >= inputs


def test_activations_shrink_with_devices_and_micro_batches():
    program = shapes.Program(job_of(topology="h100:1x8"))

    def kept(topology, *overrides):
        job = job_of(*overrides, topology=topology)
        return shapes.memory(program, job.config, parse(topology).devices).activations

    assert kept("h100:1x8") == pytest.approx(2 * kept("h100:2x8"))
    assert kept("h100:1x8") == pytest.approx(4 * kept("h100:1x8", "train.accumulate=4"))


def test_traffic_follows_the_sharding():
    program = shapes.Program(job_of())
    data = predict.traffic(program, job_of().config, 8)
    split = predict.traffic(program, job_of("mesh.data=1", "mesh.fsdp=8").config, 8)
    tensor = predict.traffic(program, job_of(*SHARDED).config, 8)
    params = shapes.count(program.state.params)
    # Gradients in bfloat16, the head's in float32, round a ring of eight, twice.
    assert 2 * params * 2 * 7 / 8 < data.reduce < 4 * params * 2 * 7 / 8
    assert (data.gather, data.tensor, data.across) == (0.0, 0.0, 0.0)
    assert split.reduce == pytest.approx(data.reduce)
    assert 0 < split.gather <= split.reduce
    # Four of 16 images' tokens a layer and step, between two: rows, tokens, width.
    assert tensor.tensor == 3 * 4 * (16 * 4 * 16 * 2)
    twice = job_of("mesh.data=1", "mesh.fsdp=8", "train.accumulate=2").config
    assert predict.traffic(program, twice, 8).gather == 2 * split.gather


def test_only_gradients_cross_slices():
    job = job_of("mesh.slices=2", "mesh.data=1", "mesh.fsdp=4", topology="2*v5e-4")
    sent = predict.traffic(shapes.Program(job), job.config, 8)
    assert 0 < sent.across < sent.reduce / 2


def test_job_without_examples_has_no_length():
    config = load_tiny("data.name='nowhere_to_be_found'", "model.num_classes=10")
    job = prepare(config, parse("v5e-8"))
    assert isinstance(job, Job)
    assert job.total is None
