"""The `plan` verb and what it makes of the compiler's answers; nothing is compiled."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from vit_jax.cli import main
from vit_jax.config import load
from vit_jax.plan import compile as compiling
from vit_jax.plan import plan as planning
from vit_jax.plan import shapes
from vit_jax.plan.program import prepare
from vit_jax.plan.topology import parse
from vit_jax.plan.worker import spread

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "vit_s16_i1k.py")
TINY = (
    "--config.model.width=16",
    "--config.model.depth=2",
    "--config.model.num_heads=2",
    "--config.model.image_size=(32,32)",
    "--config.train.batch_size=64",
)
FIELDS = {
    "memory_gib", "limit_gib", "fits", "flops_per_image", "step_flops",
    "collective_gb", "compile_seconds", "overrides", "parameters", "chips", "hosts",
    "cores", "mode",
}  # fmt: skip


def call(*arguments):
    return main(["plan", f"--config={CONFIG}", *TINY, *arguments])


def test_json(capsys):
    assert call("--topology=v5p-8,h100:2x8", "--no_compile", "--json") == 0
    tpu, gpu = json.loads(capsys.readouterr().out)
    for found in (tpu, gpu):
        assert set(found) >= FIELDS
        assert found["mode"] == "shapes"
        assert found["fits"] is True
        assert found["compile_seconds"] is None
        assert found["step_flops"] == 64 * found["flops_per_image"]
        assert found["memory_gib"] == pytest.approx(sum(found["memory_parts"].values()))
        assert found["step_seconds"][0] < found["step_seconds"][1]
    assert (tpu["topology"], tpu["chips"], tpu["hosts"], tpu["cores"]) == (
        "v5p:2x2x1",
        4,
        1,
        8,
    )
    assert (gpu["topology"], gpu["chips"], gpu["hosts"]) == ("h100:2x8", 16, 2)
    assert gpu["limit_gib"] == pytest.approx(0.75 * 79.6)


def test_text_says_what_is_predicted(capsys):
    assert call("--topology=v5e-4", "--no_compile") == 0
    text = capsys.readouterr().out
    assert "v5e:2x2 (v5e-4): 4 chips, 1 host, 4 cores" in text
    assert "by shapes, an estimate to 15%" in text
    assert "predicted step" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--topology=v5e:3x3"], "v5e:2x2 (v5e-4)"),
        (["--topology=v5e-4", "--slices=0"], "at least 1"),
        (["--topology=v5e-4", "--config.train.batch_size=6"], "not divisible"),
        (["--topology=v5e-4", "--config.mesh.fsdp=3"], "does not divide"),
        (["--topology=2*v5e-4"], "--config.mesh.slices=2"),
        (["--topology=v5e-4", "--config.model.attention=cudnn"], "NVIDIA"),
        (
            [
                "--topology=v5e-4",
                "--config.data.name=not_here",
                "--config.model.num_classes=0",
            ],
            "num_classes",
        ),
        (["--topology=v5e-4", "--config.model.variant=source"], "model.variant"),
        (["--topology=v5e-4", "--search", "--config.train.batch_size=7"], "divide"),
    ],
)
def test_mistakes_end_in_code_2_and_a_line(arguments, says, capsys):
    assert call(*arguments, "--no_compile") == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert "Traceback" not in captured.err


def test_search_ranks_what_fits_and_its_flags_make_it_so(capsys):
    assert call("--topology=v5e-8", "--search", "--no_compile", "--json") == 0
    (best,) = json.loads(capsys.readouterr().out)
    ranks = [one["step_seconds"] for one in best["tried"] if one["fits"]]
    times = [(low * high) ** 0.5 for low, high in ranks]
    assert len(best["tried"]) > 20
    # In order but for differences that say nothing.
    for index, time in enumerate(times):
        assert time <= (1 + planning.ALIKE) * min(times[index:])
    assert best["fits"]
    capsys.readouterr()
    assert call("--topology=v5e-8", "--no_compile", "--json", *best["overrides"]) == 0
    (again,) = json.loads(capsys.readouterr().out)
    for name in ("memory_gib", "mesh", "collective_gb", "step_seconds"):
        assert again[name] == best[name]


def test_search_that_finds_nothing_says_the_least(monkeypatch):
    tiny = dataclasses.replace(parse("v5e-4").chip, usable_gib=1e-6)
    place = dataclasses.replace(parse("v5e-4"), chip=tiny)
    best = planning.search(load(CONFIG, TINY), place, compile=False)
    assert not best.fits
    assert best.memory_gib == min(one.memory_gib for one in best.tried)


def answer(**changes):
    return compiling.Compiled(
        **{
            "memory_gib": 3.0,
            "limit_gib": None,
            "fits": True,
            "rematerialized": 0,
            "collectives": (),
            "flops": 10**12,
            "kernels": (),
            "compile_seconds": 40.0,
        }
        | changes
    )


def compiled(monkeypatch, topology, found):
    monkeypatch.setattr(compiling, "available", lambda topology: "")

    def compile_step(config, topology):
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(compiling, "compile_step", compile_step)
    return planning.plan(load(CONFIG, TINY), parse(topology))


def test_compiled_memory_replaces_that_of_shapes(monkeypatch):
    sent = {"kind": "all-reduce", "group": 4, "crosses": True, "count": 2, "sent": 5e9}
    found = compiled(monkeypatch, "v5e-4", answer(collectives=(sent,)))
    assert (found.mode, found.memory_gib, found.fits) == ("compiled", 3.0, True)
    assert found.collectives == {"all-reduce between slices": 5.0}
    assert found.compile_seconds == 40.0


def test_the_bracket_of_time_is_not_the_compilers(monkeypatch):
    """The compiler's own estimates leave out collectives, or are of another kind."""
    by_shapes = planning.plan(load(CONFIG, TINY), parse("v5e-4"), compile=False)
    found = compiled(monkeypatch, "v5e-4", answer())
    assert found.step_seconds == by_shapes.step_seconds


def test_remat_by_the_compiler_is_no_fit(monkeypatch):
    found = compiled(monkeypatch, "v5e-4", answer(fits=False, rematerialized=7))
    assert not found.fits
    assert any("7 instructions again" in note for note in found.notes)


@pytest.mark.parametrize(("kind", "chip"), [("v4-8", 6.0), ("tpu7x-8", 6.0)])
def test_memory_of_two_devices_is_a_chips(monkeypatch, kind, chip):
    assert compiled(monkeypatch, kind, answer()).memory_gib == chip


def test_v4_described_as_two_devices_a_chip():
    place = parse("v4-8")
    job = prepare(load(CONFIG, TINY), place)
    assert job.config.mesh.data == -1
    mesh = spread(job, place, 8).config.mesh
    assert (mesh.data, mesh.fsdp) == (8, 1)  # of the four of a run
    place = parse("tpu7x-8")
    assert spread(job, place, 8) is job  # a run has two devices a chip as well


@pytest.mark.parametrize(
    ("message", "needed", "limit"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
            "for HLO temporaries (712.50G) exceeds available HBM (15.75G).",
            712.5,
            15.75,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
            "memory space hbm. Used 19.90G of 15.75G hbm. Exceeded hbm capacity by "
            "4.15G.",
            19.9,
            15.75,
        ),
        ("RESOURCE_EXHAUSTED: Used 512.0M of 1.00G hbm", 0.5, 1.0),
    ],
)
def test_out_of_memory_is_read(message, needed, limit):
    assert compiling.out_of_memory(message) == (needed, limit)


def test_other_errors_are_not_out_of_memory():
    assert compiling.out_of_memory("INVALID_ARGUMENT: mesh") is None


def test_out_of_memory_does_not_fit(monkeypatch):
    found = compiled(
        monkeypatch,
        "v5e-4",
        answer(memory_gib=19.9, limit_gib=15.75, fits=False, message="Used 19.90G"),
    )
    assert not found.fits
    assert found.memory_gib == 19.9
    assert "out of memory: Used 19.90G" in found.notes


def test_a_compiler_that_fails_leaves_the_shapes(monkeypatch):
    error = compiling.CompileError("no such topology")
    found = compiled(monkeypatch, "v5e-4", error)
    assert found.mode == "shapes"
    assert "not compiled: no such topology" in found.notes


def test_several_slices_need_a_newer_jax(monkeypatch):
    monkeypatch.setattr(compiling.jax, "__version_info__", (0, 10, 2))
    monkeypatch.setattr(
        compiling.importlib.util, "find_spec", lambda name: jax.__spec__
    )
    assert "JAX 0.11" in compiling.available(parse("2*v5e-4"))
    assert compiling.available(parse("v5e-4")) == ""
    monkeypatch.setattr(compiling.jax, "__version_info__", (0, 12, 0))
    assert compiling.available(parse("2*v5e-4")) == ""


def test_parameters_that_stay_whole_are_said():
    config = load(CONFIG, ["--config.mesh.data=1", "--config.mesh.fsdp=-1"])
    place = parse("v5e-256")
    config.unlock()
    config.train.batch_size = 4096
    found = planning.plan(config.lock(), place, compile=False)
    assert any("width of 384" in note and "128 does" in note for note in found.notes)


def test_meshes_that_jax_does_not_lay_out(capsys):
    flags = ["--config.mesh.data=8", "--config.mesh.fsdp=2", "--no_compile"]
    assert call("--topology=v6e-16", *flags) == 2
    assert "its size is one of 1, 4, 16" in capsys.readouterr().err
    assert call("--topology=v5e-16", *flags) == 0  # in parts of sides, too


@pytest.mark.parametrize(
    ("topology", "attention"),
    [("v5e-4", "splash"), ("h100:1x4", "cudnn"), ("v5e-4", "auto"), ("h100-4", "auto")],
)
def test_kernels_of_other_hardware_are_planned_by_shapes(topology, attention):
    """They keep no weights, 1,024 x 1,024 of each head and layer."""
    changes = (f"--config.model.attention={attention}", "--config.model.depth=2",
               "--config.model.image_size=(512,512)", "--config.model.remat=none")  # fmt: skip
    plain = (*changes, "--config.model.attention=xla")
    found, other = (
        planning.plan(load(CONFIG, flags), parse(topology), compile=False)
        for flags in (changes, plain)
    )
    weights = 2 * 256 * 6 * 1024**2 * 6 / shapes.GIB  # in float32 and bfloat16
    kept = found.memory_parts["activations"]
    assert kept == pytest.approx(other.memory_parts["activations"] - weights, rel=0.2)


def test_share_of_memory_that_is_left():
    place = parse("v5e-4")
    job = prepare(load(CONFIG, TINY), place)
    needed = shapes.memory(shapes.Program(job), job.config, 4).total
    for share, fits in ((0.95, False), (0.85, True)):
        chip = dataclasses.replace(place.chip, usable_gib=needed / share)
        place = dataclasses.replace(place, chip=chip)
        assert planning.plan(load(CONFIG, TINY), place, compile=False).fits is fits


def test_nothing_of_tensorflow_is_imported():
    script = (
        "import sys; from vit_jax.cli import main; main(sys.argv[1:]); "
        "found = {name.partition('.')[0] for name in sys.modules}; "
        "print(found & {'tensorflow', 'tensorflow_datasets', 'clu', 'tensorboard'})"
    )
    arguments = [
        "plan", f"--config={CONFIG}", *TINY, "--topology=v5e-4", "--no_compile"
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "set()"
