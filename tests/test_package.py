"""The wheel carries the configs and trains from an empty directory."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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
    kept = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    return kept | {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}


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


def test_wheel_trains_in_an_empty_directory(installed, env, tmp_path):
    empty, data, workdir = (tmp_path / name for name in ("empty", "data", "run"))
    empty.mkdir()
    where = "import vit_jax; print(vit_jax.__file__)"
    found = run(sys.executable, "-c", where, cwd=empty, env=env).strip()
    assert Path(found).is_relative_to(installed)

    vit_jax = (sys.executable, "-m", "vit_jax.cli")
    run(*vit_jax, "prepare", "digits", f"--data_dir={data}", cwd=empty, env=env)
    run(
        *vit_jax,
        "train",
        "--config=configs/digits.py",
        f"--workdir={workdir}",
        f"--config.data.dir={data}",
        f"--config.train.duration.steps={STEPS}",
        "--config.schedule.warmup.steps=0",
        "--config.log.every.steps=1",
        cwd=empty,
        env=env,
    )
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert max(row["step"] for row in rows) == STEPS
    assert any("train/loss" in row for row in rows)
    assert (workdir / "config.json").is_file()
    assert (workdir / "checkpoints" / str(STEPS)).is_dir()
    assert not list(empty.iterdir())
