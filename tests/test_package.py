"""The wheel carries the configs and trains from an empty directory."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import training

ROOT = Path(__file__).resolve().parents[1]
STEPS = 4
PREFIX = "vit_jax/_configs/"


def run(*command, cwd, env=None):
    result = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def pip(*args, cwd):
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps")
    return run(sys.executable, "-m", "pip", *args, *quiet, cwd=cwd)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", str(ROOT), "--no-build-isolation", "-w", str(folder), cwd=folder)
    (path,) = folder.glob("vit_jax-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    pip("install", str(wheel), "--no-index", "--target", str(target), cwd=target)
    return target


@pytest.fixture
def env(installed):
    """The installed wheel before anything else, and one device."""
    return training.environment() | {"PYTHONPATH": str(installed)}


def test_wheel_has_package_and_configs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "vit_jax").rglob("*.py")
    }
    configs = {
        PREFIX + path.relative_to(ROOT).as_posix()
        for path in (ROOT / "configs").glob("*.py")
    }
    assert package <= names
    assert configs <= names
    assert f"{PREFIX}configs/digits.py" in configs
    others = {name for name in names if name.partition("/")[0] != "vit_jax"}
    assert all(".dist-info/" in name for name in others), others


TRAIN = """
import sys
import vit_jax
from vit_jax.cli import main

print(vit_jax.__file__)
sys.exit(main(sys.argv[1:]))
"""


def test_wheel_trains_in_an_empty_directory(installed, env, tmp_path):
    empty, workdir = (tmp_path / name for name in ("empty", "run"))
    empty.mkdir()
    said = run(
        *(sys.executable, "-c", TRAIN, "train"),
        "--config=configs/digits.py",
        f"--workdir={workdir}",
        "--config.data.name=arrays:digits",  # needs no preparation
        f"--config.train.duration.steps={STEPS}",
        "--config.schedule.warmup.steps=0",
        "--config.log.every.steps=1",
        cwd=empty,
        env=env,
    )
    assert Path(said.splitlines()[0]).is_relative_to(installed)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert max(row["step"] for row in rows) == STEPS
    assert any("train/loss" in row for row in rows)
    assert (workdir / "config.json").is_file()
    assert (workdir / "checkpoints" / str(STEPS)).is_dir()
    assert not list(empty.iterdir())


def test_wheel_explains_its_recipes(installed, env, tmp_path):
    said = run(sys.executable, "-c", TRAIN, "recipes", "mae_i1k", cwd=tmp_path, env=env)
    assert Path(said.splitlines()[0]).is_relative_to(installed)
    assert "arXiv 2111.06377" in said and "GiB a chip" in said
