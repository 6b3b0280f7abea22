"""With libtpu: programs that are really compiled for TPUs, about a minute each."""

import json
import pathlib

import pytest

from vit_jax.cli import main
from vit_jax.plan import compile as compiling
from vit_jax.plan.topology import parse

pytestmark = pytest.mark.slow

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs" / "vit_s16_i1k.py")


def compiled(capsys, topology, *overrides):
    """The plan of a compiled program."""
    if reason := compiling.available(parse(topology)):
        pytest.skip(reason)
    changes = [f"--config.{change}" for change in overrides]
    arguments = [f"--config={CONFIG}", f"--topology={topology}", *changes]
    assert main(["plan", *arguments, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["mode"] == "compiled", found["notes"]
    assert main(["plan", *arguments, "--json", "--no_compile"]) == 0
    (by_shapes,) = json.loads(capsys.readouterr().out)
    assert found["compile_seconds"] > 0
    return found, by_shapes


def test_memory_and_traffic_are_as_planned(capsys):
    found, by_shapes = compiled(
        capsys,
        "v5e-64",
        "model.variant=B/16",
        "train.batch_size=1024",
        "mesh.data=1",
        "mesh.fsdp=-1",
    )
    assert found["fits"]
    assert found["memory_gib"] == pytest.approx(by_shapes["memory_gib"], rel=0.05)
    assert found["collective_gb"] == pytest.approx(by_shapes["collective_gb"], rel=0.05)


def test_splash_is_in_the_program_on_request(capsys):
    """1,025 tokens; plain attention keeps its weights and needs more memory."""
    found, _ = compiled(
        capsys,
        "v5p-8",
        "model.depth=2",
        "model.image_size=(512,512)",
        "model.pool=cls",
        "model.attention=splash",
        "train.batch_size=64",
    )
    kinds = ("fwd", "dq", "dkv")
    assert all(
        any(f"splash_mha_{kind}" in k for k in found["kernels"]) for kind in kinds
    )
    plain, _ = compiled(
        capsys,
        "v5p-8",
        "model.depth=2",
        "model.image_size=(512,512)",
        "model.pool=cls",
        "model.attention=xla",
        "train.batch_size=64",
    )
    assert plain["kernels"] == []
    assert found["memory_gib"] < 0.8 * plain["memory_gib"]


@pytest.mark.parametrize("mixup", [0.0, 0.2])
def test_gradients_alone_cross_slices(capsys, mixup):
    """With mixup, a slice's first row wants the last one of the slice before it."""
    found, by_shapes = compiled(
        capsys,
        "2*v5e-16",
        "train.batch_size=512",
        "mesh.slices=2",
        "mesh.data=1",
        "mesh.fsdp=-1",
        f"data.augment.mixup={mixup}",
    )
    between = {
        kind: sent
        for kind, sent in found["collectives"].items()
        if kind.endswith("between slices")
    }
    rows = between.pop("collective-permute between slices", 0.0)
    assert rows == pytest.approx(by_shapes["collectives"]["mixing"], rel=0.01)
    # Arrays of small parameters are padded to whole tiles of 1,024 elements.
    assert list(between) == ["all-reduce between slices"]
    gradients = by_shapes["collectives"]["across"]
    assert gradients <= sum(between.values()) < 1.1 * gradients
