import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import benchmark
from benchmark_steps import clock, linen_peer, measure, ours, parts, report, timm_peer
from benchmark_steps.cells import Cell, grid
from tests.models import tiny
from tests.test_imports import BLOCKED, ROOT, SCRIPT
from vit_jax.models import variants
from vit_jax.objectives.base import merge

TINY = ("--image_size=8", "--batch=4", "--classes=5", "--devices=1", "--repeats=2")


@pytest.fixture
def small(monkeypatch):
    """A size of two layers, no two axes alike."""
    size = variants.Size(width=24, depth=2, mlp_dim=40, num_heads=3)
    monkeypatch.setitem(variants.VARIANTS, "tiny", size)
    return Cell(model="tiny/4", batch=2, dtype="float32", image_size=12, num_classes=7)


@pytest.fixture
def quick(monkeypatch, small):
    """Small products in the place of those that are fast on a large machine."""
    whole = clock.matmul
    monkeypatch.setattr(
        clock, "matmul", lambda dtype, device, size: whole(dtype, device, size=16)
    )


def counted(name, log):
    return clock.Contender(name, lambda: log.append(name), lambda: None)


def test_contenders_take_turns():
    log = []
    samples = clock.take_turns(
        [counted("a", log), counted("b", log)], repeats=3, seconds=0.0
    )
    assert log == ["a", "b"] + ["a", "b"] * 3
    assert [len(times) for times in samples.values()] == [3, 3]


def test_least_steps_of_a_sample():
    log = []
    contender = clock.Contender("a", lambda: log.append(1), lambda: None, least=4)
    clock.take_turns([contender], repeats=2, seconds=0.0)
    assert len(log) == 1 + 2 * 4


def test_ratios_are_of_the_same_round():
    # The machine is twice as slow in the second round, for both.
    samples = {"ours": [1.0, 2.0, 1.0], "peer": [2.0, 4.0, 3.0]}
    assert clock.ratios(samples, "ours", "peer") == clock.Spread(2.0, 2.0, 3.0)
    assert clock.ratios(samples, "peer", "ours").median == 0.5


@pytest.mark.parametrize(
    ("kind", "dtype", "mfu"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 0.2),
        ("NVIDIA H100 80GB HBM3", "float32", None),
        ("cpu", "bfloat16", None),
    ],
)
def test_rates_from_known_times(kind, dtype, mfu):
    samples = {"ours": [1.0, 2.0, 4.0], "matmul": [1.0, 1.0, 2.0]}
    rates = clock.rate(
        samples,
        "ours",
        batch=100,
        flops_per_image=989e12 * 2 * 2 * 0.2 / 100,  # two devices, two seconds
        matmul_name="matmul",
        matmul_flops=989e12 * 0.4,
        num_devices=2,
        device_kind=kind,
        dtype=dtype,
    )
    assert rates.step_seconds == clock.Spread(2.0, 1.0, 4.0)
    assert rates.images_per_second == 50.0
    assert rates.tflops == pytest.approx(989 * 0.2)
    assert rates.mfu == (None if mfu is None else pytest.approx(mfu))
    # Rounds: 0.4 a second of model against 0.4, 0.2 against 0.4, 0.1 against 0.2.
    assert rates.mfu_matmul == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("rates", "best", "tried"),
    [
        ({8: 10, 16: 19, 32: 30, 64: None}, 32, [8, 16, 32, 64]),
        ({8: 10, 16: 12, 32: 11.9, 64: 8}, 16, [8, 16, 32, 64]),
        ({8: None, 4: None, 2: 3.0}, 2, [8, 4, 2]),
        ({8: None, 4: None, 2: None, 1: None}, None, [8, 4, 2, 1]),
    ],
)
def test_best_batch(rates, best, tried):
    found, seen = measure.best_batch(rates.__getitem__)
    assert found == best
    assert list(seen) == tried


def test_best_batch_prefers_the_smaller_of_equals():
    assert measure.best_batch(lambda size: 5.0, most=64)[0] == 8


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating"), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "out of memory"),
        (MemoryError(), "out of memory"),
        (ValueError("cudnn\nrefuses"), "failed"),
    ],
)
def test_reason(error, status):
    found, message = measure.reason(error)
    assert found == status
    assert message and "\n" not in message


@pytest.mark.parametrize("pool", ["gap", "cls"])
def test_linen_peer_is_the_same_function(small, pool):
    params, images, expected = _ours(small, pool)
    cell = _with_pool(small, pool)
    model = linen_peer.build_model(cell)
    theirs = linen_peer.from_ours(params["encoder"], depth=2)
    names = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert jax.tree.structure(theirs) == jax.tree.structure(names)
    actual = tiny.jit(lambda params: model.apply({"params": params}, images))(theirs)
    # Float32, some tens of sums of tens of terms: far below 1e-5 of the scale.
    assert tiny.error(actual, expected) < 1e-5


@pytest.mark.parametrize("pool", ["gap", "cls"])
def test_timm_peer_is_the_same_function(small, pool):
    if why := timm_peer.available():
        pytest.skip(why)
    import torch

    params, images, expected = _ours(small, pool)
    model = timm_peer.build_model(_with_pool(small, pool), params["encoder"]).eval()
    inputs = torch.from_numpy(np.moveaxis(np.array(images), -1, 1).copy())
    with torch.no_grad():
        actual = model(inputs).numpy()
    assert tiny.error(actual, expected) < 1e-5


def _with_pool(cell, pool):
    return Cell(
        model=cell.model,
        batch=cell.batch,
        dtype=cell.dtype,
        image_size=cell.image_size,
        num_classes=cell.num_classes,
        pool=pool,
    )


def _ours(cell, pool):
    """Parameters of which none is zero, images, and our logits of them."""
    graphdef, params = ours.init_objective(_with_pool(cell, pool), jax.random.key(0))
    params = jax.tree.map(jnp.asarray, tiny.fill(params))
    images = jnp.asarray(
        np.random.default_rng(1).normal(size=(2, 12, 12, 3)), jnp.float32
    )
    run = tiny.jit(lambda params: merge(graphdef, params, {}).encoder(images))
    return params, images, run(params)


def test_parts_have_the_operations_of_the_step(small):
    objective = nnx.eval_shape(lambda: ours.build_objective(small, jax.random.key(0)))
    found = sum(part.count * part.flops for part in parts.build_parts(small))
    patches, kernel = small.batch * 9, 4 * 4 * 3 * 24
    # The images have no gradient; the count of the literature gives them one.
    assert found == small.batch * objective.train_flops() - 2 * patches * kernel


def test_table_from_known_times():
    dense, norm = (
        parts.Part(counted(name, []), count, flops)
        for name, count, flops in [("dense", 2, 10.0), ("norm", 3, 0.0)]
    )
    samples = {
        "dense": [3.0],
        "norm": [0.5],
        "forward": [4.0],
        "forward and backward": [8.5],
        "ours": [9.0],
    }
    table = parts.tabulate(
        samples, [dense, norm], whole="ours", step_flops=30.0, peak=5.0
    )
    assert [(line.seconds, line.floor, line.above) for line in table.parts] == [
        (6.0, 4.0, 2.0),
        (1.5, 0.0, 1.5),
    ]
    assert (table.whole.seconds, table.whole.floor) == (9.0, 6.0)
    assert (table.rest.seconds, table.rest.floor) == (1.5, 2.0)
    assert [line.seconds for line in table.phases] == [4.0, 4.5, 0.5]
    # All that is above the floor is somewhere in the table.
    above = sum(line.above for line in [*table.parts, table.rest])
    assert above == pytest.approx(table.whole.above)


def test_grid_is_a_product_and_knows_what_is_unknown(small):
    axes = dict(
        models=["tiny/4"],
        dtypes=["float32", "bfloat16"],
        attentions=["xla"],
        unrolls=[1, 0],
        image_size=12,
        num_classes=7,
        pool="gap",
    )
    cells = list(grid(batches=[2, 4], remats=["none", "full"], **axes))
    assert len(cells) == 16 == len({cell.label for cell in cells})
    assert {cell.settings["unroll"] for cell in cells} == {1, 2}
    with pytest.raises(ValueError, match=r"remat 'some' is unknown; known: none"):
        list(grid(batches=[2], remats=["some"], **axes))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=Q/16"], "SIZE/PATCH"),
        (["--batch=0"], "an image at least"),
        (["--unroll=x"], "no list"),
        (["--peer=torch"], "known: linen, timm, unrolled"),
        (["--peer=linen"], "--devices=1"),
        (["--devices=99"], "there are 8"),
        (["--data=imagenet2012"], "folder:"),
        (["--data=folder:/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_are_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(flags)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_cell_beside_its_peer(tmp_path, quick, capsys):
    place, figure = tmp_path / "out" / "all.json", tmp_path / "out" / "all.png"
    flags = ["--model=tiny/4", "--peer=linen", "--attention=xla,cudnn", *TINY]
    flags += ["--profile", f"--json={place}", f"--figure={figure}"]
    assert benchmark.main(flags) == 0
    content = json.loads(place.read_text())
    assert content["environment"]["device_kind"] == "cpu"
    assert content["environment"]["versions"]["jax"] == jax.__version__
    measured, refused = content["cells"]
    assert measured["status"] == "ok"
    ours_row, linen_row = measured["contenders"]
    assert [ours_row["name"], linen_row["name"]] == ["ours", "linen"]
    for row in (ours_row, linen_row):
        assert row["mfu"] is None  # a CPU has no peak of a data sheet
        for key in ("images_per_second", "tflops", "mfu_matmul", "dispatch_seconds"):
            assert row[key] > 0
        assert row["step_seconds"]["low"] <= row["step_seconds"]["median"]
        assert row["compile_seconds"] < row["first_step_seconds"]
    # Both made as many updates of the same weights: float32, and Adam's quotients.
    assert linen_row["loss"] == pytest.approx(ours_row["loss"], rel=1e-4)
    assert measured["ratios"].keys() == {"linen"} == measured["cpu_ratios"].keys()
    assert measured["peak_gib"] > 0 and measured["peak_of"] == "process"
    profile = measured["profile"]
    times = [line["seconds"] for line in [*profile["parts"], profile["rest"]]]
    assert sum(times) == pytest.approx(profile["whole"]["seconds"])
    assert refused["status"] == "failed" and "\n" not in refused["message"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "ours / linen" in printed and "LayerNorm" in printed
    assert "cudnn" in printed and "FAILED" in printed


def test_out_of_memory_is_a_row(quick, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(ours, "memory_limit", lambda device: 1000)
    place, figure = tmp_path / "a.json", tmp_path / "a.png"
    flags = [f"--json={place}", f"--figure={figure}", "--model=tiny/4", *TINY]
    assert benchmark.main(flags) == 1
    (row,) = json.loads(place.read_text())["cells"]
    assert row["status"] == "out of memory"
    assert "GiB a device" in row["message"]
    assert "OUT OF MEMORY" in capsys.readouterr().out
    assert not figure.exists()


def test_best_batch_on_the_way_to_a_cell(quick, monkeypatch):
    plan = measure.Plan(jax.devices()[:1], [], False, 1, 0.0, False)
    cell = Cell(model="tiny/4", batch=1, dtype="float32", image_size=8, num_classes=5)
    rates = {8: 1.0, 16: 2.0, 32: None}
    monkeypatch.setattr(measure, "quick_rate", lambda cell, plan: rates[cell.batch])
    said = []
    assert benchmark.find_batch(cell, plan, said.append).batch == 16
    assert said[-1].endswith("batch 32: does not fit")


def test_runs_without_what_it_must_not_need():
    program = f"{SCRIPT}\nimport benchmark\nsys.exit(benchmark.main(sys.argv[3:]))"
    program = program.replace("sys.argv[2:]", "sys.argv[2:3]")
    # Also without torch and timm, and with the real loader.
    blocked = ",".join([*BLOCKED, "torch", "timm", "torchvision"])
    flags = ["--model=mu/16", "--image_size=32", "--batch=2", "--repeats=1"]
    flags += ["--data=synthetic:32"]
    result = subprocess.run(
        [sys.executable, "-c", program, blocked, "vit_jax", *flags],
        cwd=ROOT,
        env={**_environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert "ours, loaded" in result.stdout
    assert "waits for data" in result.stdout


def _environment():
    return {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}


def test_summary_has_every_cell():
    rows = [{"label": "S/16 x8", "status": "out of memory", "message": "so"}]
    assert "S/16 x8  out of memory" in report.summary_text(rows)
