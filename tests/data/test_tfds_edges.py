"""Damaged, unusual or unreachable data directories, and TFDS's own reading of splits."""

import io
import json
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import retry
from vit_jax.data.errors import DataError
from vit_jax.data.facts import split_size
from vit_jax.data.prepare import prepare
from vit_jax.data.tfds import TfdsSource, describe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(digits_dir, tmp_path):
    """Makes another copy of digits in ``copy.dir``, to be damaged."""

    def make(folder="mine", **changes):
        target = tmp_path / folder / "1.0.0"
        shutil.copytree(Path(digits_dir) / "digits" / "1.0.0", target)
        info = json.loads((target / "dataset_info.json").read_text())
        (target / "dataset_info.json").write_text(json.dumps(info | changes))
        return target

    make.dir = str(tmp_path)
    return make


def message(error):
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture(scope="module")
def builder(digits_dir):
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(str(Path(digits_dir) / "digits" / "1.0.0"))


EXPRESSIONS = [
    "all",
    "train[:99%]",
    "train[99%:]",
    "train[:99.5%]",
    "train[33%:67%]",
    "train[:-10%]",
    "train[-10%:]",
    "train[100:200]",
    "train[-50:-20]",
    "train[:1437]",
    "train + test",
    "train[90%:]+test[:50]",
    "test[:7]+train[:3]+test[7:9]",
]


@pytest.mark.parametrize("split", EXPRESSIONS)
def test_split_holds_the_examples_it_has_in_tfds(split, digits_dir, builder):
    theirs = builder.as_data_source(split)
    ours = TfdsSource(name="digits", split=split, dir=digits_dir)
    assert split_size(ours.facts, split) == len(ours) == len(theirs)
    for index in (0, len(ours) // 2, len(ours) - 1):
        pixels = np.asarray(Image.open(io.BytesIO(ours[index]["image"])))
        np.testing.assert_array_equal(pixels, theirs[index]["image"][..., 0])
        assert ours[index]["label"] == theirs[index]["label"]


@pytest.mark.parametrize(
    "split", ["train[3]", "train[", "", "train[1.5:]", "train[:101%]", "train[:2000]"]
)
def test_expressions_that_tfds_refuses(split, digits_dir, builder):
    with pytest.raises(DataError) as error:
        split_size(describe("digits", dir=digits_dir), split)
    message(error)
    with pytest.raises(ValueError):
        len(builder.as_data_source(split))


def test_array_record_beside_another_format(copy):
    copy(fileFormat="tfrecord", alternativeFileFormats=["array_record"])
    assert len(TfdsSource(name="mine", split="test", dir=copy.dir)) == 360


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_damaged_description(copy, file):
    (copy() / file).write_text("{")
    with pytest.raises(DataError) as error:
        describe("mine", dir=copy.dir)
    assert file in message(error)


def test_shard_cut_short(copy):
    shard = copy() / "digits-test.array_record-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(DataError) as error:
        TfdsSource(name="mine", split="test", dir=copy.dir)
    assert "cannot be opened" in message(error)


def test_shard_with_another_number_of_examples(copy):
    folder = copy()
    train, test = (
        folder / f"digits-{split}.array_record-00000-of-00001"
        for split in ("train", "test")
    )
    shutil.copy(train, test)
    with pytest.raises(DataError, match="1,437 examples where"):
        TfdsSource(name="mine", split="test", dir=copy.dir)


@pytest.mark.parametrize(
    "keys", [{"image_key": "label"}, {"label_key": "image"}], ids=str
)
def test_features_of_the_wrong_kind(digits_dir, keys):
    with pytest.raises(DataError) as error:
        TfdsSource(name="digits", split="test", dir=digits_dir, **keys)
    assert "data.image_key" in message(error) and "image, label" in message(error)


def test_bucket_that_cannot_be_reached(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route")

    for variable in ("https_proxy", "HTTPS_PROXY", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(retry.socket, "create_connection", refuse)
    with pytest.raises(DataError) as error:
        describe("digits", dir="gs://bucket/data")
    assert "cannot be reached" in message(error)


def test_a_caller_may_change_its_example(digits_dir):
    examples = TfdsSource(name="digits", split="test[:5]", dir=digits_dir)
    label = examples[0]["label"]
    examples[0]["label"] = -1
    assert examples[0]["label"] == label


def test_pickles(digits_dir):
    examples = TfdsSource(name="digits", split="test", dir=digits_dir)
    assert pickle.loads(pickle.dumps(examples))[5] == examples[5]


def test_preparing_what_only_the_user_can_build(copy):
    lines = []
    copy()
    assert prepare("mine", dir=copy.dir, log=lines.append).splits["test"] == 360
    assert "already prepared" in lines[0]
    for file_format, words in (
        ("tfrecord", f"vit-jax prepare yours --data_dir={copy.dir} --convert"),
        ("riegeli", "download_and_prepare(file_format='array_record')"),
    ):
        target = copy("yours", fileFormat=file_format)
        with pytest.raises(DataError) as error:
            prepare("yours", dir=copy.dir, log=lines.append)
        assert words in message(error)
        assert target.exists()
        shutil.rmtree(target)


SCRIPT = """
import sys
from importlib.machinery import PathFinder

class Without:  # as where it is not installed; None in sys.modules would look loaded
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] != "tensorflow":
            return PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Without if found is PathFinder else found for found in sys.meta_path]
from vit_jax.data.errors import DataError
from vit_jax.data.tfds import TfdsSource, describe
source = TfdsSource(name="digits", split="train[:10]+test", dir=sys.argv[1])
assert len(source) == 370 and source[0]["image"].startswith(b"\\x89PNG")
for name in ("digitz", "cifar10", "cifar11"):
    try:
        describe(name, dir=sys.argv[1])
    except DataError as error:
        print(error)
"""


def test_where_tensorflow_is_not_installed_and_within_five_seconds(digits_dir):
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, digits_dir],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert "digits" in result.stdout
    assert "vit-jax prepare cifar10" in result.stdout
    assert "cifar100" in result.stdout  # nearest to cifar11
    assert time.perf_counter() - started < 5
