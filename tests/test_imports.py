"""The compute path imports without TensorFlow, clu and ml_collections."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKED = ("clu", "ml_collections", "tensorboard", "tensorflow", "tensorflow_datasets")
PACKAGES = ("models", "objectives", "plan")
MODULES = (
    "vit_jax",
    "vit_jax.metrics",
    "vit_jax.optim",
    "vit_jax.schedules",
    "vit_jax.sharding",
    "vit_jax.train_state",
    "vit_jax.train_step",
)

SCRIPT = """
import importlib, sys

blocked = set(sys.argv[1].split(","))

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def run(*modules):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, ",".join(BLOCKED), *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def modules_of(package):
    folder = ROOT / "vit_jax" / package
    files = sorted(folder.glob("*.py"))
    assert files, f"no modules in {folder}"
    stems = [file.stem for file in files if file.stem != "__init__"]
    return [f"vit_jax.{package}", *(f"vit_jax.{package}.{stem}" for stem in stems)]


def test_compute_path_needs_no_tensorflow():
    modules = [
        *MODULES,
        *(name for package in PACKAGES for name in modules_of(package)),
    ]
    result = run(*modules)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", BLOCKED)
def test_blocker_blocks(module):
    result = run(module)
    assert result.returncode != 0
    assert f"{module} is blocked" in result.stderr
