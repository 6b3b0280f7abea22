"""Every kind of source keeps to one interface, and needs nothing it does not use."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import training
from tests.data import images
from vit_jax import config as configs
from vit_jax import setup
from vit_jax.config import ConfigError
from vit_jax.data import sources
from vit_jax.data.sources import DataSpec

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def specs(tmp_path_factory, digits_dir):
    root = tmp_path_factory.mktemp("sources")
    images.write_folder(root / "photos", {"a": 4, "b": 3})
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 4, 4, 3), np.uint8)
    np.savez(root / "some.npz", image=pixels, label=np.arange(5))
    folder = f"folder:{root / 'photos'}"
    return {
        "tfds": DataSpec("digits", dir=digits_dir),
        "folder": DataSpec(folder),
        "npz": DataSpec(f"arrays:{root / 'some.npz'}"),
        "digits": DataSpec("arrays:digits"),
        "synthetic": DataSpec("synthetic:50", image_shape=(4, 4, 3), num_classes=3),
        "mix": DataSpec(
            "mix",
            mix=((folder, "train", 1), ("arrays:digits", "train", 1)),
            mix_classes="concat",
        ),
    }


@pytest.mark.parametrize(
    "kind", ["tfds", "folder", "npz", "digits", "synthetic", "mix"]
)
def test_one_interface(specs, kind):
    spec = specs[kind]
    facts = sources.describe(spec)
    source = sources.open_source(spec, "train")
    assert len(source) == facts.splits["train"] > 0
    sent = pickle.dumps(source)
    assert len(sent) < 10_000
    again = pickle.loads(sent)
    for index in (0, len(source) // 2, len(source) - 1):
        example = source[index]
        assert set(example) == {"image", "label"}
        image = example["image"]
        assert isinstance(image, bytes) or (image.dtype == np.uint8 and image.ndim == 3)
        assert type(example["label"]) is int
        assert 0 <= example["label"] < facts.num_classes
        assert isinstance(source.where(index), str)
        assert again.where(index) == source.where(index)
        same = again[index]
        assert same["label"] == example["label"]
        assert np.array_equal(same["image"], image) if image is not None else True
    for index in (-1, len(source)):
        with pytest.raises(IndexError):
            source[index]


def test_names_of_tfds_with_versions_are_no_kinds():
    assert DataSpec("cifar10:3.0.2").kind == ""
    assert DataSpec("cifar10:3.0.2").rest == "cifar10:3.0.2"
    assert DataSpec("folder:/a:b").rest == "/a:b"
    assert DataSpec("synthetic").kind == "synthetic"


WITHOUT = """
import sys
from importlib.machinery import PathFinder

BLOCKED = ("tensorflow", "tensorflow_datasets", "clu", "tensorboard", *sys.argv[1].split())

class Without(PathFinder):  # as where they are not installed
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in BLOCKED:
            return PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Without if found is PathFinder else found for found in sys.meta_path]
"""
READ = """
from vit_jax.data import sources
for name in sys.argv[2:]:
    source = sources.open_source(sources.DataSpec(name), "train")
    print(len(source), source[0]["label"] >= 0)
"""
TRAIN = """
from vit_jax.cli import main
sys.exit(main(sys.argv[2:]))
"""


def run(script, *arguments, blocked=""):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + script, blocked, *map(str, arguments)],
        cwd=ROOT,
        env=training.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_reading_imports_no_framework(specs):
    names = [specs[kind].name for kind in ("folder", "npz", "synthetic")]
    result = run(READ, *names, blocked="jax sklearn ml_collections scipy array_record")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["7", "True", "5", "True", "50", "True"]


def test_the_blocker_blocks(specs, digits_dir):
    result = run("import tensorflow")
    assert result.returncode and "No module named 'tensorflow'" in result.stderr


@pytest.mark.parametrize(
    "kind",
    [
        "folder",
        pytest.param("digits", marks=pytest.mark.slow),
        pytest.param("synthetic", marks=pytest.mark.slow),
    ],
)
def test_training_without_tensorflow_tfds_and_clu(specs, kind, tmp_path):
    rgb = kind == "folder"
    split = {"folder": "train", "digits": "test", "synthetic": "validation"}[kind]
    changes = [
        f"data.name={specs[kind].name}",
        f"evals.val.split={split}",
        "data.dir=",
        "train.batch_size=4",
        "train.duration.steps=2",
        "log.tensorboard=True",
        f"model.channels={3 if rgb else 1}",
        f"model.num_classes={2 if rgb else 10}",
    ]
    result = run(TRAIN, *training.train_arguments(tmp_path / "run", *changes))
    assert result.returncode == 0, result.stderr
    assert "val/accuracy" in result.stdout
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def problems(*changes):
    flags = [f"--config.{change}" for change in changes]
    config = configs.load(training.DIGITS, flags)
    with pytest.raises(ConfigError) as error:
        setup.describe_data(config)
    return str(error.value)


def test_mistakes_come_with_those_of_the_config(tmp_path):
    text = problems(f"data.name=folder:{tmp_path / 'none'}", "seed=-1")
    assert "does not exist" in text and "seed" in text
    text = problems("data.name=arrays:digits", "evals.val.split=validation")
    assert "evals.val.split: data set 'arrays:digits': no split 'validation'" in text
    text = problems("data.name=arrays:digits", "model.num_classes=7")
    assert "model.num_classes is 7, but data set 'arrays:digits' has 10" in text
    text = problems("data.name=arrays:digits", "data.bad=ignore")
    assert "data.bad 'ignore' is unknown; known: stop, skip" in text
    text = problems("data.name=tfrecord:x", "data.bad=skip", f"data.dir={tmp_path}")
    assert "vit-jax prepare x --convert" in text
    text = problems(
        "data.name=arrays:digits", "data.mix=(('arrays:digits','train',1),)"
    )
    assert "data.mix is set, but data.name is 'arrays:digits'" in text
