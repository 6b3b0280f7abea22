"""TFRecord as a stream: order, resuming, damage."""

import itertools
import json
import pickle

import pytest

from tests.data import images
from vit_jax.data import convert_images, sources
from vit_jax.data.errors import BadExampleError, DataError
from vit_jax.data.prepare import prepare
from vit_jax.data.sources import DataSpec
from vit_jax.data.tfds import TfdsSource
from vit_jax.data.tfrecord import TfrecordSource

SIZE = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("records")
    images.write_folder(root / "photos", {"a": 35, "b": 25})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_images, "SHARD_BYTES", 1500)
        prepare(
            f"folder:{root / 'photos'}",
            new_name="few",
            dir=str(root / "arrays"),
            log=lambda text: None,
        )
    images.to_tfrecord(
        root / "arrays" / "few" / "1.0.0", root / "records" / "few" / "1.0.0"
    )
    return root


@pytest.fixture
def own(made, tmp_path):
    """A copy that a test may damage: (root, shards)."""
    import shutil

    shutil.copytree(made / "records", tmp_path / "records")
    folder = tmp_path / "records" / "few" / "1.0.0"
    return tmp_path / "records", sorted(folder.glob("*tfrecord*"))


def source_of(root, split="train", **settings):
    said = []
    settings = dict(buffer=16, say=said.append) | settings
    source = TfrecordSource(name="few", split=split, dir=str(root), **settings)
    return source, said


def take(source, start, count, seed=0, shuffle=True):
    return list(
        itertools.islice(source.stream(start, seed=seed, shuffle=shuffle), count)
    )


def ids(pairs):
    return [number for number, _ in pairs]


def test_an_epoch_holds_every_example_once(made):
    source, said = source_of(made / "records")
    arrays = TfdsSource(name="few", split="train", dir=str(made / "arrays"))
    assert len(source) == SIZE and source.num_classes == 2
    pairs = take(source, 0, 3 * SIZE)
    for epoch in range(3):
        assert sorted(ids(pairs[epoch * SIZE : (epoch + 1) * SIZE])) == list(
            range(SIZE)
        )
    first, second = ids(pairs[:SIZE]), ids(pairs[SIZE : 2 * SIZE])
    assert first != second and first != sorted(first)
    for number, example in pairs[:SIZE]:
        assert example == arrays[number]
    assert not said


def test_a_function_of_seed_and_position(made):
    whole = take(source_of(made / "records")[0], 0, 3 * SIZE)
    for start in (1, SIZE - 1, SIZE, SIZE + 7, 2 * SIZE + 59):
        source, said = source_of(made / "records")
        source = pickle.loads(pickle.dumps(source)) if start == 1 else source
        assert take(source, start, 3 * SIZE - start) == whole[start:], start
        # Only within its epoch is anything read over, and it is told.
        if start == SIZE:
            assert not said
        elif start > 1:
            assert f"reading over {start % SIZE}" in said[0] and len(said) == 2
    assert ids(take(source, 0, SIZE, seed=1)) != ids(whole[:SIZE])


def test_in_order(made):
    source, _ = source_of(made / "records")
    pairs = take(source, 0, SIZE + 5, shuffle=False)
    assert ids(pairs) == [*range(SIZE), *range(5)]
    assert ids(take(source, 7, 3, shuffle=False)) == [7, 8, 9]


@pytest.mark.parametrize(
    "split", ["train[10:33]", "train[50%:]", "train[40:]+train[:3]"]
)
def test_slices_are_those_of_array_record(made, split):
    source, _ = source_of(made / "records", split)
    arrays = TfdsSource(name="few", split=split, dir=str(made / "arrays"))
    assert len(source) == len(arrays)
    pairs = take(source, 0, len(source))
    assert sorted(ids(pairs)) == list(range(len(source)))
    for number, example in pairs:
        assert example == arrays[number]
        assert source.where(number).replace("tfrecord", "array_record") == (
            arrays.where(number).replace("/arrays/", "/records/")
        )


def failing(source):
    with pytest.raises(DataError) as error:
        take(source, 0, SIZE + 1)
    return images.one_line(error)


def test_damage_names_file_and_record(own):
    root, shards = own
    data = bytearray(shards[2].read_bytes())
    first = 16 + int.from_bytes(data[:8], "little")
    data[first + 30] ^= 1
    shards[2].write_bytes(data)
    source, _ = source_of(root)
    assert f"{shards[2]}, record 1: is damaged (corrupted record" in failing(source)
    shards[2].write_bytes(data[:-3])
    data[first + 30] ^= 1
    shards[2].write_bytes(data[:-3])
    assert "is damaged (truncated record" in failing(source)
    # Cut between two records: TFRecord itself cannot tell.
    shards[2].write_bytes(data[:first])
    text = failing(source)
    assert f"{shards[2]}, record 1: is not there" in text


def test_a_label_of_no_class_names_file_and_record(own):
    root, _ = own
    path = root / "few" / "1.0.0" / "features.json"
    features = json.loads(path.read_text())
    features["featuresDict"]["features"]["label"]["classLabel"]["numClasses"] = "1"
    path.write_text(json.dumps(features))
    source, _ = source_of(root)
    with pytest.raises(BadExampleError) as error:
        take(source, 0, 60, shuffle=False)
    text = images.one_line(error)
    assert text.endswith(" (number of classes of the data set: 1)")
    assert ": its label is 1, not in 0..0" in text
    assert text.startswith(str(root)) and ", record " in text


def test_missing_and_empty_files(own):
    root, shards = own
    for words in ("is empty", "is missing"):
        if words == "is empty":
            shards[1].write_bytes(b"")
        else:
            shards[1].unlink()
        with pytest.raises(DataError) as error:
            source_of(root)
        text = images.one_line(error)
        assert text.startswith(f"{shards[1]} {words}")


def test_skip_mode_is_refused(made):
    with pytest.raises(DataError) as error:
        source_of(made / "records", tolerant=True)
    text = images.one_line(error)
    assert "--convert" in text and "data.name=few" in text


def test_by_name(made):
    spec = DataSpec("tfrecord:few", dir=str(made / "records"))
    assert sources.describe(spec).splits == {"train": SIZE}
    assert sources.describe(spec).name == "tfrecord:few"
    assert len(sources.open_source(spec, "train[:10]")) == 10
    with pytest.raises(DataError, match="it has: train"):
        sources.open_source(spec, "test")
    arrays = DataSpec("tfrecord:few", dir=str(made / "arrays"))
    with pytest.raises(DataError, match=r"--config\.data\.name=few"):
        sources.describe(arrays)
    with pytest.raises(DataError, match="no feature 'species'"):
        source_of(made / "records", label_key="species")


def test_tensorflow_sees_no_accelerator(made):
    take(source_of(made / "records")[0], 0, 1)
    import tensorflow as tf

    assert {device.device_type for device in tf.config.get_visible_devices()} == {"CPU"}
