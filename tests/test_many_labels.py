"""Images with several labels: a run learns them, and resumes bit for bit."""

import shutil

import numpy as np
import pytest

from configs import base
from tests import training
from vit_jax.checkpoint import Checkpoints
from vit_jax.metrics import read_rows
from vit_jax.train import train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Each of four quarters is bright or dark; its number is a label where bright."""
    bright = np.random.default_rng(0).integers(0, 2, (64, 4))
    quarters = 40 + 170 * bright.reshape(64, 2, 2, 1)
    images = quarters.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)
    labels = np.where(bright, np.arange(4), -1)
    path = tmp_path_factory.mktemp("data") / "quarters.npz"
    np.savez(path, image=images, label=labels)
    return path


def config_of(path):
    changes = ("train.duration.steps=48", "checkpoint.every.steps=32")
    mixed = ("data.augment.mixup=0.0", "model.dropout=0.1", "optim.learning_rate=0.01")
    config = training.tiny_config(*changes, *mixed).unlock()
    config.data.name = f"arrays:{path}"
    config.data.split = "train"
    config.model.num_classes = 4
    config.objective = base.supervised(loss="sigmoid")
    config.evals = {}
    config.checkpoint.best = ""
    return config.lock()


def state(config, folder):
    parts = training.build(config)
    checkpoints = Checkpoints(folder / "checkpoints", keep=9, read_only=True)
    restored, _ = checkpoints.restore(checkpoints.latest(), parts.state_shapes)
    checkpoints.close()
    return training.host(restored)


def test_a_run_learns_several_labels_and_resumes_bit_for_bit(data, tmp_path):
    config, folder, said = config_of(data), tmp_path / "run", []
    train(config, str(folder), say=said.append)
    whole = state(config, folder)
    losses = {row["step"]: row["train/loss"] for row in read_rows(folder)}
    assert len(losses) == 48
    values = list(losses.values())
    assert np.mean(values[-8:]) < 0.85 * values[0]
    shutil.rmtree(folder / "checkpoints" / "48")
    train(config, str(folder), say=said.append)
    assert any("resuming from step 32" in str(line) for line in said)
    assert {row["step"]: row["train/loss"] for row in read_rows(folder)} == losses
    assert training.same_bits(state(config, folder), whole)
