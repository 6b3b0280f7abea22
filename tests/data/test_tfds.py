"""Reading prepared data sets without TensorFlow."""

import io
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_digits

from vit_jax.data import tfds
from vit_jax.data.errors import BadExampleError


@pytest.fixture
def own(digits_dir, tmp_path):
    """A copy of the prepared digits that a test may damage: (root, version folder)."""
    shutil.copytree(Path(digits_dir) / "digits", tmp_path / "digits")
    return tmp_path, tmp_path / "digits" / "1.0.0"


def edit(path, **changes):
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | changes))


def decode(image):
    return np.asarray(PIL.Image.open(io.BytesIO(image)))


def read(source):
    examples = [source[index] for index in range(len(source))]
    images = np.stack([decode(example["image"]) for example in examples])
    return images, np.asarray([example["label"] for example in examples])


def test_describe(digits_dir):
    facts = tfds.describe("digits", dir=digits_dir)
    assert facts.name == "digits"
    assert facts.version == "1.0.0"
    assert facts.file_format == "array_record"
    assert facts.splits == {"train": 1437, "test": 360}
    assert facts.num_classes == 10
    assert facts.class_names == tuple("0123456789")
    assert facts.features == ("image", "label")
    assert Path(facts.path) == Path(digits_dir) / "digits" / "1.0.0"
    assert set(facts.shards) == {"train", "test"}
    for shards in facts.shards.values():
        assert shards
        assert all((Path(facts.path) / shard).exists() for shard in shards)
    pinned = tfds.describe("digits:1.0.0", dir=digits_dir)
    assert pinned.path == facts.path


def test_the_directory_may_come_from_the_environment(digits_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", digits_dir)
    assert tfds.describe("digits").splits["test"] == 360
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert tfds.data_root() == Path.home() / "tensorflow_datasets"
    assert tfds.data_root("/some/where") == Path("/some/where")


def test_the_newest_version_is_taken(own):
    root, folder = own
    for version in ("1.2.0", "1.10.0"):
        shutil.copytree(folder, root / "digits" / version)
        edit(root / "digits" / version / "dataset_info.json", version=version)
    assert tfds.describe("digits", dir=str(root)).version == "1.10.0"
    assert tfds.describe("digits:1.2.0", dir=str(root)).version == "1.2.0"


def test_other_feature_names_and_no_classes(own):
    root, folder = own
    structure = json.loads((folder / "features.json").read_text())
    features = structure["featuresDict"]["features"]
    features["fine"] = features.pop("label")
    (folder / "features.json").write_text(json.dumps(structure))
    facts = tfds.describe("digits", dir=str(root), label_key="fine")
    assert facts.num_classes == 10
    assert facts.class_names is None  # fine.labels.txt is not there
    assert tfds.describe("digits", dir=str(root)).num_classes is None


def test_several_shards(own):
    _, folder = own
    info = {"name": "digits", "fileFormat": "array_record"}
    split = {"name": "train", "shardLengths": ["3", "2"]}
    assert tfds.shard_names("digits", info, split) == (
        "digits-train.array_record-00000-of-00002",
        "digits-train.array_record-00001-of-00002",
    )
    template = "{DATASET}_{SPLIT}_{SHARD_X_OF_Y}.{FILEFORMAT}"
    assert tfds.shard_names("digits", info, split | {"filepathTemplate": template})[
        1
    ] == ("digits_train_00001-of-00002.array_record")
    assert folder.exists()


def message(name, root, **settings):
    with pytest.raises(tfds.DataError) as caught:
        tfds.TfdsSource(name=name, split="train", dir=str(root), **settings)
    return str(caught.value)


def test_not_prepared(tmp_path):
    expected = (
        f"data set 'cifar10' is not prepared in {tmp_path}; "
        f"run: vit-jax prepare cifar10 --data_dir={tmp_path}"
    )
    assert message("cifar10", tmp_path) == expected


def test_not_prepared_in_the_default_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(tfds.DataError, match=r"run: vit-jax prepare cifar10:3\.0\.2$"):
        tfds.describe("cifar10:3.0.2")


def test_unknown_names(tmp_path):
    text = message("cifar1O", tmp_path)
    assert "unknown data set 'cifar1O'; did you mean cifar10" in text
    assert str(tmp_path) in text
    assert "did you mean digits" in message("digit", tmp_path)
    assert "did you mean" not in message("qqqqqqqq", tmp_path)


@pytest.mark.parametrize("name", ["imagenet21k", "imagenet-21k", "imagenet_22k:1.0.0"])
def test_imagenet21k(tmp_path, name):
    text = message(name, tmp_path)
    assert "ImageNet-21k is not in TFDS; write a TFDS builder" in text
    assert "array_record" in text


def test_a_data_set_of_the_users_own(own):
    root, _ = own
    (root / "digits").rename(root / "mine")
    assert tfds.describe("mine", dir=str(root)).splits["train"] == 1437


def test_the_fingerprint_is_of_the_version_and_the_shards(own):
    root, folder = own
    first = tfds.describe("digits", dir=str(root)).fingerprint
    assert first
    info = json.loads((folder / "dataset_info.json").read_text())
    edit(folder / "dataset_info.json", description="other words")
    assert tfds.describe("digits", dir=str(root)).fingerprint == first
    edit(folder / "dataset_info.json", version="1.0.1")
    assert tfds.describe("digits", dir=str(root)).fingerprint != first
    split = info["splits"][0]
    length = int(split["shardLengths"][0])
    # As many examples, divided otherwise, are others with the same number.
    split["shardLengths"] = [str(length - 5), "5"]
    edit(folder / "dataset_info.json", version="1.0.0", splits=info["splits"])
    facts = tfds.describe("digits", dir=str(root))
    assert facts.fingerprint != first


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_label_of_no_class(own, cache_bytes):
    root, folder = own
    features = json.loads((folder / "features.json").read_text())
    label = features["featuresDict"]["features"]["label"]
    assert label["classLabel"]["numClasses"] == "10"
    label["classLabel"]["numClasses"] = "9"
    (folder / "features.json").write_text(json.dumps(features))
    (folder / "label.labels.txt").unlink()
    source = tfds.TfdsSource(
        name="digits", split="train[:40]", dir=str(root), cache_bytes=cache_bytes
    )
    found = []
    for index in [*range(40), *range(40)]:  # again, from the cache
        try:
            label = source[index]["label"]
        except BadExampleError as error:
            found.append(f"{error}".removeprefix(source.where(index)))
        else:
            assert label < 9
    assert len(found) > 2 and len(found) % 2 == 0
    assert set(found) == {
        ": its label is 9, not in 0..8 (number of classes of the data set: 9)"
    }


def test_tfrecord(tmp_path):
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    info = {"name": "cifar10", "version": "3.0.2", "fileFormat": "tfrecord"}
    (folder / "dataset_info.json").write_text(json.dumps(info | {"splits": []}))
    text = message("cifar10", tmp_path)
    assert f"in {folder} is in tfrecord format" in text
    assert f"vit-jax prepare cifar10 --data_dir={tmp_path} --convert" in text
    assert "data.name=tfrecord:cifar10" in text
    # Older files do not name their format: it was TFRecord.
    info.pop("fileFormat")
    (folder / "dataset_info.json").write_text(json.dumps(info | {"splits": []}))
    assert "is in tfrecord format" in message("cifar10", tmp_path)


def test_several_configs(own):
    root, _ = own
    for config in ("b", "a"):
        shutil.copytree(root / "digits" / "1.0.0", root / "many" / config / "1.0.0")
    assert message("many", root) == (
        "'many' has several configs; name one: many/a, many/b"
    )
    assert tfds.describe("many/b", dir=str(root)).splits["train"] == 1437
    assert tfds.describe("many/b:1.0.0", dir=str(root)).version == "1.0.0"


def test_missing_version(digits_dir):
    text = message("digits:2.0.0", digits_dir)
    assert text == f"'digits:2.0.0': prepared versions in {digits_dir}: 1.0.0"


def test_a_half_written_version_is_not_there(own):
    root, folder = own
    (folder / "dataset_info.json").unlink()
    assert "is not prepared" in message("digits", root)


@pytest.mark.parametrize("key", ["image_key", "label_key"])
def test_missing_feature(digits_dir, key):
    text = message("digits", digits_dir, **{key: "species"})
    assert "has no feature 'species'; it has: image, label" in text
    assert f"data.{key}" in text


def test_missing_shard(own):
    root, folder = own
    shard = folder / tfds.describe("digits", dir=str(root)).shards["train"][0]
    shard.unlink()
    assert message("digits", root) == (
        f"{shard} is missing; move {folder} away and prepare again, "
        "or go on without its examples: --config.data.bad=skip"
    )
    # The other split is whole.
    assert len(tfds.TfdsSource(name="digits", split="test", dir=str(root))) == 360


def test_values_are_those_of_scikit_learn(digits_dir):
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    held_out = np.arange(len(images)) % 5 == 0
    for split, rows in (("train", ~held_out), ("test", held_out)):
        source = tfds.TfdsSource(name="digits", split=split, dir=digits_dir)
        assert source.num_classes == 10
        assert source.class_names == tuple("0123456789")
        read_images, read_labels = read(source)
        np.testing.assert_array_equal(read_images, images[rows])
        np.testing.assert_array_equal(read_labels, digits.target[rows])


def test_train_and_test_are_disjoint(digits_dir):
    train, test = (
        {source[index]["image"] for index in range(len(source))}
        for source in (
            tfds.TfdsSource(name="digits", split=split, dir=digits_dir)
            for split in ("train", "test")
        )
    )
    assert len(train) == 1437
    assert len(test) == 360
    assert not train & test


def test_sums_and_slices(digits_dir):
    def images(split):
        source = tfds.TfdsSource(name="digits", split=split, dir=digits_dir)
        return [source[index]["image"] for index in range(len(source))]

    train, test = images("train"), images("test")
    assert images("test[-3:]+train[:2]+train[5:6]") == [
        *test[-3:],
        *train[:2],
        train[5],
    ]
    assert images("train[:50%]") + images("train[50%:]") == train


@pytest.mark.parametrize("cache_bytes", [0, 1 << 28])
def test_outside_the_split(digits_dir, cache_bytes):
    source = tfds.TfdsSource(
        name="digits", split="test[:5]", dir=digits_dir, cache_bytes=cache_bytes
    )
    for index in (-1, 5):
        with pytest.raises(IndexError, match=r"outside 0\.\.4"):
            source[index]


def test_the_cache_changes_nothing_but_the_reads(digits_dir, monkeypatch):
    reads = []
    original = tfds.TfdsSource._read

    def counting(self, index):
        reads.append(index)
        return original(self, index)

    monkeypatch.setattr(tfds.TfdsSource, "_read", counting)
    seen = {}
    for cache_bytes in (0, 1 << 28):
        source = tfds.TfdsSource(
            name="digits", split="test", dir=digits_dir, cache_bytes=cache_bytes
        )
        reads.clear()
        first, second = ([source[i] for i in range(360)] for _ in range(2))
        assert first == second
        seen[cache_bytes] = (first, len(reads))
    assert seen[0][0] == seen[1 << 28][0]
    assert seen[0][1] == 720
    assert seen[1 << 28][1] == 360


@pytest.mark.parametrize("cache_bytes", [0, 1 << 28])
def test_threads(digits_dir, cache_bytes):
    source = tfds.TfdsSource(
        name="digits", split="train", dir=digits_dir, cache_bytes=cache_bytes
    )
    order = np.random.default_rng(0).integers(0, 1437, 3000).tolist()
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(source.__getitem__, order))
    alone = tfds.TfdsSource(name="digits", split="train", dir=digits_dir)
    assert threaded == [alone[index] for index in order]


BLOCKED = """
import importlib.machinery
import sys

class Block:  # it may be looked for (etils does), but not imported
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorboard"):
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        raise ModuleNotFoundError(f"{spec.name} is blocked")

    def exec_module(self, module):
        raise AssertionError

sys.meta_path.insert(0, Block())
from vit_jax.data import tfds

source = tfds.TfdsSource(name="digits", split="train", dir=sys.argv[1])
print(len(source), source[3]["label"], len(tfds.known_names()) > 100)
try:
    import tensorflow
except ModuleNotFoundError:
    print("blocked")
"""


def test_reading_needs_no_tensorflow(digits_dir):
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED, digits_dir],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["1437", "4", "True", "blocked"]
