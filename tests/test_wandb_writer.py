"""Weights & Biases, offline: what it keeps, resuming, and that it stops no run."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests import training
from vit_jax import metrics, wandb_writer
from vit_jax.progress import Progress
from vit_jax.writers import Writer


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def test_it_has_every_method_of_our_writers():
    methods = {name for name in vars(Writer) if name.startswith("write_")}
    assert len(methods) == 8
    assert methods | {"close"} <= vars(wandb_writer.WandbWriter).keys()


@pytest.mark.slow  # clu imports TensorFlow
def test_it_has_every_method_of_clus_writers():
    metric_writers = pytest.importorskip("clu.metric_writers")
    methods = metric_writers.MetricWriter.__abstractmethods__
    assert len(methods) >= 9
    assert not methods - set(dir(wandb_writer.WandbWriter))
    own = {name for name in methods if name in vars(wandb_writer.WandbWriter)}
    assert own >= methods - {"flush"}  # W&B sends what it has by itself


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "no key; set WANDB_API_KEY"),
        ({"WANDB_API_KEY": "x" * 40}, ""),
        ({"WANDB_MODE": "offline"}, ""),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "no key"),
    ],
)
def test_nobody_is_asked_for_a_key(tmp_path, monkeypatch, variables, reason):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(wandb_writer.importlib.util, "find_spec", lambda name: True)
    found = wandb_writer.unavailable()
    assert reason in found and bool(reason) == bool(found)
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    assert bool(wandb_writer.unavailable()) == ("WANDB_BASE_URL" in variables)


def test_without_the_package_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(wandb_writer.importlib.util, "find_spec", lambda name: None)
    with Progress(10, 1) as progress:
        writer = metrics.create_writer(
            tmp_path, tensorboard=False, progress=progress, wandb="project"
        )
        writer.write_scalars(1, {"train/loss": 1.0})
        writer.close()
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == (
        "W&B is off: wandb is not installed; run: pip install 'vit-jax[wandb]'"
    )
    assert len(rest) == 1 and "loss 1.000" in rest[0]
    assert not (tmp_path / "wandb.json").exists()


def test_the_id_stays_with_the_work_directory(tmp_path):
    first = wandb_writer.run_id(str(tmp_path), "digits")
    assert wandb_writer.run_id(str(tmp_path), "digits") == first
    other = wandb_writer.run_id(str(tmp_path), "another project")
    assert other != first
    (tmp_path / "wandb.json").write_text('{"project": "digits", "id": "../x"}')
    assert wandb_writer.run_id(str(tmp_path), "digits").isalnum()


def records(file):
    """What a .wandb file holds: W&B's messages in the log format of LevelDB."""
    from wandb.proto import wandb_internal_pb2 as messages

    content, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        size = int.from_bytes(content[place + 4 : place + 6], "little")
        kind = content[place + 6]
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # full, or the last part
            record = messages.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def history(file):
    """Rows as dicts."""
    rows = []
    for record in records(file):
        if record.WhichOneof("record_type") == "history":
            row = {}
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                row[name] = json.loads(item.value_json)
            rows.append(row)
    return rows


def write(folder, *lives):
    """Writes some rows as a run does that is resumed, in a process of its own."""
    script = """
import sys, time, numpy as np
from vit_jax import metrics
from vit_jax.progress import Progress
folder, *lives = sys.argv[1:]
for life, steps in enumerate(lives):
    with Progress(100, 1) as progress:
        writer = metrics.create_writer(
            folder, tensorboard=False, progress=progress, wandb="digits",
            config={"optim": {"learning_rate": 0.5 + life}},
        )
        for step in map(int, steps.split()):
            row = {"train/loss": step / 2, "train/x": float("nan")}
            writer.write_scalars(step, row)
        writer.write_images(step, {"figures/a": np.zeros((1, 4, 4, 3), np.uint8)})
        writer.write_texts(step, {"note": "hello"})
        writer.write_histograms(step, {"weights": np.arange(9.0)}, {"weights": 4})
        writer.write_hparams({"seed": 3})
        writer.flush()
        writer.close()
    time.sleep(1.1)  # W&B names a folder by the second
"""
    result = subprocess.run(
        [sys.executable, "-c", script, folder, *lives],
        env=training.environment() | {"WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_run_offline_and_resumed(tmp_path):
    pytest.importorskip("wandb")
    said = write(str(tmp_path), "10 20", "15 30")  # from a checkpoint of step 10
    assert said.count("W&B: wandb sync") == 2 and "warning" not in said
    first, second = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert first.name == second.name  # the id
    assert json.loads((tmp_path / "wandb.json").read_text())["id"] in first.name
    rows = [row for row in history(first) if "train/loss" in row]
    assert [(row["step"], row["train/loss"]) for row in rows] == [(10, 5), (20, 10)]
    assert all("train/x" not in row for row in rows)
    rows = [row for row in history(second) if "train/loss" in row]
    assert [row["step"] for row in rows] == [15, 30]
    names = {name.partition("/")[0] for row in history(first) for name in row}
    assert {"figures", "note", "weights"} <= names
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/figures/*.png"))


def test_a_failure_is_one_line_and_the_rows_are_kept(
    tmp_path, monkeypatch, offline, capsys
):
    def broken(*_):
        raise RuntimeError("service unreachable\nmore")

    monkeypatch.setattr(wandb_writer, "WandbWriter", broken)
    monkeypatch.setattr(wandb_writer.importlib.util, "find_spec", lambda name: True)
    with Progress(10, 1) as progress:
        writer = metrics.create_writer(
            tmp_path, tensorboard=False, progress=progress, wandb="digits"
        )
        for step in range(3):
            writer.write_scalars(step, {"train/loss": np.float32(1.0)})
        writer.close()
    said = capsys.readouterr().out
    assert said.count("W&B is off: RuntimeError: service unreachable") == 1
    assert [row["step"] for row in metrics.read_rows(tmp_path)] == [0, 1, 2]


def test_training_with_it(tmp_path, monkeypatch, offline):
    pytest.importorskip("wandb")
    from vit_jax.train import train

    changes = (training.AVERAGED, "log.wandb=digits")
    said = []
    train(training.tiny_config(*changes), str(tmp_path / "run"), say=said.append)
    (file,) = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")
    steps = [row["step"] for row in history(file) if "train/loss" in row]
    assert steps == list(range(1, 9))
    assert any("val/accuracy" in row for row in history(file))
    # Turned off, or to another project, it is the same run.
    train(
        training.tiny_config(training.AVERAGED), str(tmp_path / "run"), say=said.append
    )
    assert any("log.wandb: 'digits' -> ''" in str(line) for line in said)
