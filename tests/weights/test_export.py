import dataclasses
import importlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tests.weights import exports
from vit_jax.weights import WeightsError, foreign, load, onnx
from vit_jax.weights.export import SINGLE_FILE, TARGETS, compare, export

TOLERANCE = 1e-5
CLS, SQUARE = exports.CLS, {"image_size": (12, 12), "patch_size": (4, 4)}
DISTILLED = {**CLS, "distillation": "head"}
NO_HEAD = {"num_classes": 0}

# What each format has a way of its own for.
MODELS = [
    ("npz", CLS),
    ("npz", {**CLS, **NO_HEAD, "pre_logits": 5}),
    ("big_vision", {"position": "sincos2d"}),
    ("big_vision", {"pool": "map", **NO_HEAD}),
    ("timm", {"activation": "gelu"}),
    ("timm", {"pool": "map", **NO_HEAD}),
    ("timm", DISTILLED),
    ("huggingface", CLS),
    ("huggingface", {**CLS, **NO_HEAD}),
    ("huggingface", {**CLS, **NO_HEAD, "pre_logits": 5}),
    ("huggingface", DISTILLED),
    ("huggingface", {**CLS, **NO_HEAD, "distillation": "token"}),
    ("huggingface", {**CLS, **SQUARE, "pool": "cls_gap", "layer_scale": 0.1}),
    ("huggingface", {"pool": "map"}),
    ("huggingface", {"pool": "gap", **NO_HEAD}),
    ("stablehlo", {}),
]
SIZES = {"mlp_dim": 48}  # DINOv2's is a multiple of the width


def need(to):
    """Skips where a target's library is not installed."""
    if to in ("timm", "huggingface"):
        importlib.import_module("tests.foreign")


def place_for(folder, to):
    """A path that the target accepts."""
    return folder / f"output{TARGETS[to].suffix}"


@pytest.mark.parametrize(("to", "changes"), MODELS)
def test_the_other_side_computes_the_same(to, changes, tmp_path):
    need(to)
    model = exports.build(**SIZES, **changes)
    path = place_for(tmp_path, to)
    TARGETS[to].write(path, model, exports.card(model))
    difference, allowed, library = compare(TARGETS[to], path, model)
    assert difference <= TOLERANCE < allowed
    assert library.split()[0] in ("vit_jax,", "timm", "transformers", "JAX")


def corrupt(path):
    """Changes one number of a written safetensors file by a little."""
    file = next(path.glob("*.safetensors"))
    arrays = load_file(file)
    name = next(name for name in arrays if name.endswith(("head.bias", "head/bias")))
    bias = arrays[name].copy()
    bias[3] += 0.001
    save_file(arrays | {name: bias}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("to", ["timm", "huggingface", "stablehlo"])
def test_one_changed_number_is_noticed(to, tmp_path):
    need(to)
    model = exports.build()
    path = place_for(tmp_path, to)
    TARGETS[to].write(path, model, exports.card(model))
    assert compare(TARGETS[to], path, model)[0] <= TOLERANCE
    corrupt(path)
    difference, allowed, _ = compare(TARGETS[to], path, model)
    assert allowed < 5e-4 < difference


def test_a_changed_npz_is_noticed(tmp_path):
    model = exports.build()
    target, path = TARGETS["npz"], tmp_path / "output.npz"
    target.write(path, model, exports.card(model))
    with np.load(path) as file:
        arrays = dict(file)
    arrays["head/bias"] = arrays["head/bias"] + np.float32(0.001)
    np.savez(path, **arrays)
    difference, allowed, _ = compare(target, path, model)
    assert allowed < 5e-4 < difference


def test_large_outputs_may_round_more():
    model = exports.build()
    model.head.bias[...] = model.head.bias[...] + 1000.0

    def run(path, images):
        return exports.expected(model, images) + 0.05, "a library"

    target = dataclasses.replace(TARGETS["timm"], run=run)
    difference, allowed, _ = compare(target, pathlib.Path("x"), model)
    assert difference == pytest.approx(0.05, rel=0.01)
    assert allowed == pytest.approx(0.1, rel=0.02)


def test_the_report_says_what_was_done(tmp_path):
    source, _ = exports.write_source(tmp_path / "source", **NO_HEAD)
    output, lines = tmp_path / "output", []
    difference = export(
        source,
        str(output),
        to="stablehlo",
        num_classes=3,
        image_size=(16, 20),
        licence="mit",
        say=lines.append,
    )
    assert 0.0 <= difference <= TOLERANCE
    missing, changed, wrote, inputs, outputs, verdict = lines
    assert missing == "not in the source, at initial values: head/bias, head/kernel"
    assert changed.startswith("changed: position_embedding (learned on 3x4 patches")
    for file in output.iterdir():
        assert file.name in wrote
    assert wrote.startswith(f"wrote {output}: ")
    assert "float32 [batch, 16, 20, 3]" in inputs
    assert "divided by (0.2, 0.3, 0.4)" in inputs
    assert outputs == "output: logits, float32 [batch, 3]"
    assert f"largest logit difference {difference:.1e} over 4 images" in verdict
    assert verdict.startswith("checked with JAX ")
    description = json.loads((output / "model.json").read_text())
    assert description["licence"] == "mit"
    assert description["preprocessing"]["image_size"] == [16, 20]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output", "source"]


def test_unused_arrays_and_class_names_are_said(tmp_path):
    source, _ = exports.write_source(tmp_path / "source")
    file = tmp_path / "source" / "model.safetensors"
    extra = {"some.other\x1b[31m": np.ones(2, np.float32)}
    save_file(load_file(file) | extra, file)
    lines = []
    export(source, str(tmp_path / "a.npz"), to="npz", say=lines.append)
    assert lines[0] == "not used: some.other\\x1b[31m"
    assert "a.npz" in lines[1]
    assert lines[3].endswith("classes: class 0, class 1, class 2, class 3, class 4, "
                             "class 5 and 1 more")  # fmt: skip


def test_what_was_exported_can_be_exported_again(tmp_path):
    source, model = exports.write_source(tmp_path / "source", **CLS)
    export(source, str(tmp_path / "a.npz"), to="npz", say=len, image_size=(12, 20))
    again = load(str(tmp_path / "a.npz"), image_size=(12, 20)).model
    images = exports.images(model)
    gap = exports.expected(model, images) - exports.expected(again, images)
    assert np.abs(gap).max() == 0.0


def test_single_file(tmp_path):
    source, model = exports.write_source(tmp_path / "source", **NO_HEAD)
    output, lines = tmp_path / "vit.stablehlo", []
    export(source, str(output), to="stablehlo", single_file=True, say=lines.append)
    assert output.is_file()
    assert "output: features, float32 [batch, 24]" in lines
    assert "largest feature difference" in lines[-1]
    difference, *_ = compare(SINGLE_FILE["stablehlo"], output, model)
    assert difference <= TOLERANCE


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("a", {"to": "tensorrt"}, r"--to=tensorrt is unknown; known: npz, .*litert"),
        ("a", {"to": "timm", "single_file": True}, "single_file is for --to=stablehlo"),
        ("source", {"to": "timm"}, "exists and is not overwritten"),
        ("link", {"to": "timm"}, "exists and is not overwritten"),
        ("a.zip", {"to": "npz"}, r"must end in \.npz"),
        ("a.npz", {"to": "onnx"}, r"must end in \.onnx"),
        ("a", {"to": "stablehlo", "single_file": True}, r"must end in \.stablehlo"),
        ("a", {"to": "huggingface"}, "parallel_blocks=True"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(output, options, message, tmp_path):
    changes = {"parallel_blocks": True} if "parallel" in message else {}
    source = tmp_path / "source"
    source.mkdir()
    model = exports.build(**changes)
    save_file({"x": np.ones(1)}, source / "model.safetensors")
    (tmp_path / "link").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    path = str(tmp_path / output)
    with pytest.raises(WeightsError, match=message):
        if changes:
            TARGETS[options["to"]].write(tmp_path / output, model, exports.card(model))
        else:
            export(str(source), path, say=len, **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bucket_is_no_place(tmp_path):
    with pytest.raises(WeightsError, match="name a local path"):
        export(str(tmp_path), "gs://bucket/vit", to="timm")


@pytest.mark.parametrize("wrong", [0.001, float("nan")])
def test_a_wrong_export_is_not_kept(wrong, tmp_path, monkeypatch):
    source, _ = exports.write_source(tmp_path / "source")
    right = TARGETS["stablehlo"]

    def run(path, images):
        outputs, library = right.run(path, images)
        return outputs + np.float32(wrong), library

    monkeypatch.setitem(TARGETS, "stablehlo", dataclasses.replace(right, run=run))
    number = "nan" if np.isnan(wrong) else r"1\.0e-03"
    with pytest.raises(WeightsError, match=rf"not kept.* difference {number} over"):
        export(source, str(tmp_path / "output"), to="stablehlo", say=len)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_other_shapes_are_not_kept(tmp_path, monkeypatch):
    source, _ = exports.write_source(tmp_path / "source")
    right = TARGETS["stablehlo"]
    wrong = dataclasses.replace(
        right, run=lambda path, images: (np.zeros((4, 9), np.float32), "a library")
    )
    monkeypatch.setitem(TARGETS, "stablehlo", wrong)
    with pytest.raises(WeightsError, match=r"a library computes \(4, 9\)"):
        export(source, str(tmp_path / "output"), to="stablehlo", say=len)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error")]
)
def test_a_full_disk_is_one_line_and_leaves_nothing(error, tmp_path, monkeypatch):
    def write(path, model, card):
        path.write_bytes(b"a part")
        raise error

    full = dataclasses.replace(TARGETS["big_vision"], write=write)
    monkeypatch.setitem(TARGETS, "big_vision", full)
    source, _ = exports.write_source(tmp_path / "source")
    with pytest.raises(WeightsError, match=r"out.npz cannot be written: .*(space|I/O)"):
        export(source, str(tmp_path / "out.npz"), to="big_vision", say=len)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_second_file_overwrites_nothing(tmp_path, monkeypatch):
    source, _ = exports.write_source(tmp_path / "source")
    right = SINGLE_FILE["stablehlo"]

    def write(path, model, card):
        right.write(path, model, card)
        path.with_name("a.stablehlo.data").write_text("new")

    monkeypatch.setitem(
        SINGLE_FILE, "stablehlo", dataclasses.replace(right, write=write)
    )
    first, second = (tmp_path / name for name in ("a.stablehlo", "a.stablehlo.data"))
    second.write_text("old")
    asked = {"to": "stablehlo", "single_file": True, "say": len}
    with pytest.raises(WeightsError, match=r"a\.stablehlo\.data exists"):
        export(source, str(first), **asked)
    assert second.read_text() == "old"
    second.unlink()
    export(source, str(first), **asked)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.stablehlo", "a.stablehlo.data", "source"]


@pytest.mark.parametrize("to", ["timm", "huggingface"])
def test_without_its_library_it_is_written_and_not_checked(to, tmp_path, monkeypatch):
    source, _ = exports.write_source(tmp_path / "source")
    monkeypatch.setitem(sys.modules, "torch", None)
    lines = []
    assert export(source, str(tmp_path / "output"), to=to, say=lines.append) is None
    assert (
        lines[-1] == "not checked, because torch is not installed (pip install torch)"
    )
    assert (tmp_path / "output" / "model.safetensors").is_file()


def test_a_library_that_does_not_work_is_said(tmp_path, monkeypatch):
    (tmp_path / "broken_one.py").write_text("raise RuntimeError('\\nno operator nms')")
    (tmp_path / "broken_two.py").write_text("import absent_module")
    monkeypatch.syspath_prepend(tmp_path)
    for name, reason in (
        ("broken_one", "cannot be imported: no operator nms"),
        ("broken_two", "cannot be imported: No module named 'absent_module'"),
        ("broken_three", r"not installed \(pip install broken_three\)"),
    ):
        with pytest.raises(foreign.NotChecked, match=f"^{name} (is )?{reason}"):
            foreign.import_library(name)


def test_onnx_says_how_where_jax2onnx_is_absent(tmp_path, monkeypatch):
    source, _ = exports.write_source(tmp_path / "a source")
    monkeypatch.setattr(onnx, "is_available", lambda: False)
    output, lines = str(tmp_path / "vit.onnx"), []
    with pytest.raises(WeightsError, match=r"needs jax2onnx.*commands above"):
        export(source, output, to="onnx", say=lines.append, num_classes=2,
               image_size=(16, 20))  # fmt: skip
    title, venv, packages, this, command = lines
    assert "environment of its own" in title
    assert venv == f"  {sys.executable} -m venv onnx-env"
    for name in ("jax2onnx", "onnxruntime", "jax==", "flax=="):
        assert name in packages
    assert this == f"  onnx-env/bin/pip install --no-deps {exports.ROOT}"
    assert command == (
        f"  onnx-env/bin/vit-jax convert '{source}' {output} --to=onnx "
        "--image_size=16x20 --num_classes=2"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a source"]


@pytest.mark.slow
def test_onnx_the_way_it_says(tmp_path):
    source, model = exports.write_source(tmp_path / "source", **CLS)
    command = ["-m", "vit_jax.cli", "convert", source, "vit.onnx", "--to=onnx"]
    environment = os.environ | {"PYTHONPATH": str(exports.ROOT), "XLA_FLAGS": ""}
    asked = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert asked.returncode == 2, asked.stderr
    commands = [line for line in asked.stdout.splitlines() if line.startswith("  ")]
    del environment["PYTHONPATH"]
    done = subprocess.run(
        ["bash", "-ec", "\n".join(commands)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = done.stdout.splitlines()[-1]
    assert verdict.startswith("checked with ONNX Runtime ")
    assert float(verdict.split("difference ")[1].split()[0]) <= 1e-4
    images = exports.images(model, 3)
    np.savez(
        tmp_path / "data.npz", images=images, wanted=exports.expected(model, images)
    )
    code = """
import numpy as np, onnxruntime
data = np.load("data.npz")
session = onnxruntime.InferenceSession("vit.onnx")
for batch in (1, 3):
    (logits,) = session.run(["logits"], {"images": data["images"][:batch]})
    assert np.abs(logits - data["wanted"][:batch]).max() <= 1e-5
"""
    subprocess.run(["onnx-env/bin/python", "-c", code], cwd=tmp_path, check=True)
