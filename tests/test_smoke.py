"""`train --smoke`: the small form of every recipe learns, and resumes exactly."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from tests import training
from tests.test_recipes import SPECS, load
from vit_jax import metrics, smoke
from vit_jax.config_json import to_json

SMALL = ["transfer", *SPECS]
FAST = ("mae_i1k:B/16,probe", "deit3_i1k")


def load_small(spec):
    return smoke.smoke(load(spec))[0]


def flat(config):
    """Dotted keys and values."""

    def walk(tree, prefix):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(walk(to_json(config), ""))


def start(spec, folder):
    """The command of a user, in a process of its own."""
    name, _, arg = spec.partition(":")
    call = training.command(
        *("train", f"--config={name}:{arg}" if arg else f"--config={name}"),
        *("--smoke", f"--workdir={folder}"),
        *("--config.log.tensorboard=False", "--config.log.every.steps=1"),
    )
    result = subprocess.run(
        call, env=training.environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def losses(folder):
    rows = metrics.read_rows(folder / "metrics.jsonl")
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}


def digests(folder, step):
    """Of every array of the saved state, and what was measured with it."""
    (meta,) = (folder / "checkpoints" / str(step) / "meta").iterdir()
    return json.loads(meta.read_text())


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, marks=[] if spec in FAST else pytest.mark.slow)
        for spec in SMALL
    ],
)
def test_learns_and_resumes_exactly(spec, tmp_path):
    folder = tmp_path / "run"
    start(spec, folder)
    logged, total = losses(folder), smoke.STEPS
    assert list(logged) == list(range(1, total + 1))
    quarter = total // 4
    values = np.array(list(logged.values()))
    first, last = values[:quarter], values[-quarter:]
    # Means of 16 steps whose losses differ by chance alone lie within two of their
    # standard errors 19 times out of 20.
    error = np.sqrt((first.var() + last.var()) / quarter)
    print(f"{spec}: {first.mean():.4f} -> {last.mean():.4f}, error {error:.4f}")
    assert first.mean() - last.mean() > 2 * error
    whole = digests(folder, total)
    shutil.rmtree(folder / "checkpoints" / str(total))  # killed in the second half
    assert f"resuming from step {total // 2}" in start(spec, folder)
    assert losses(folder) == logged
    assert digests(folder, total) == whole
