"""Preparing data sets: what is said, and what stays untouched."""

import json
from pathlib import Path

import pytest

from vit_jax.data import prepare, tfds


def write_prepared(folder, name):
    """The description of a prepared set of four examples, without its records."""
    folder.mkdir(parents=True)
    info = {
        "name": name,
        "version": folder.name,
        "fileFormat": "array_record",
        "splits": [{"name": "train", "shardLengths": ["4"], "numBytes": "9"}],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text("{}")


def quiet(text):
    pass


def tree(root):
    """Every file below a folder with its bytes."""
    files = (path for path in sorted(Path(root).rglob("*")) if path.is_file())
    return {str(path): path.read_bytes() for path in files}


def refused(name, root, **settings):
    with pytest.raises(tfds.DataError) as caught:
        prepare.prepare(name, dir=str(root), log=quiet, **settings)
    return str(caught.value)


def test_prepare_says_what_was_done(tmp_path):
    said = []
    facts = prepare.prepare("digits", dir=str(tmp_path), log=said.append)
    folder = tmp_path / "digits" / "1.0.0"
    assert Path(facts.path) == folder
    assert facts.splits == {"train": 1437, "test": 360}
    assert facts.file_format == "array_record"
    assert said[0] == f"preparing digits in {folder} (ArrayRecord)"
    assert said[1].startswith(
        f"prepared digits in {folder}: train 1,437, test 360 examples, 10 classes, "
    )
    assert len(said) == 2


@pytest.mark.parametrize("name", ["digits", "digits:1.0.0"])
def test_prepare_again_does_nothing_and_says_so(digits_dir, name):
    before = tree(digits_dir)
    said = []
    facts = prepare.prepare(name, dir=digits_dir, log=said.append)
    folder = Path(digits_dir) / "digits" / "1.0.0"
    assert Path(facts.path) == folder
    assert said == [
        f"{name} is already prepared in {folder}: "
        "train 1,437, test 360 examples, 10 classes"
    ]
    assert tree(digits_dir) == before


def test_prepare_in_the_default_directory(digits_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", digits_dir)
    said = []
    prepare.prepare("digits", log=said.append)
    assert "already prepared" in said[0]


def test_missing_archives(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    text = refused("imagenet2012", tmp_path)
    assert f"put into {manual}: " in text
    assert "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar" in text
    assert text.endswith(f"vit-jax prepare imagenet2012 --data_dir={tmp_path}")
    # With one of them there, the other is asked for.
    manual.mkdir(parents=True)
    (manual / "ILSVRC2012_img_val.tar").touch()
    text = refused("imagenet2012", tmp_path)
    assert "ILSVRC2012_img_train.tar" in text
    assert "ILSVRC2012_img_val.tar" not in text
    assert not (tmp_path / "imagenet2012").exists()


def test_other_manual_data_sets_say_what_tfds_says(tmp_path):
    text = refused("resisc45", tmp_path)
    assert "must be downloaded by hand" in text
    assert "can be downloaded from OneDrive" in text
    assert "\n" not in text


def test_archives_are_not_asked_for_once_prepared(tmp_path, monkeypatch):
    import tensorflow_datasets

    cls = tensorflow_datasets.builder_cls("imagenet2012")
    folder = tmp_path / "imagenet2012" / str(cls.VERSION)
    write_prepared(folder, "imagenet2012")
    said = []
    prepare.prepare("imagenet2012", dir=str(tmp_path), log=said.append)
    assert said == [
        f"imagenet2012 is already prepared in {folder}: train 4 examples, None classes"
    ]


def test_unknown_names(tmp_path):
    assert "unknown data set 'cifar1O'; did you mean cifar10" in (
        refused("cifar1O", tmp_path)
    )
    assert "ImageNet-21k is not in TFDS" in refused("imagenet21k", tmp_path)
    assert "only: 1.0.0" in refused("digits:9.9.9", tmp_path)
    assert "BuilderConfig foo not found" in refused("digits/foo", tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_format_is_explained_and_kept(tmp_path):
    import tensorflow_datasets

    builder = prepare._builder("digits", str(tmp_path))
    builder.download_and_prepare(
        file_format="tfrecord",
        download_config=tensorflow_datasets.download.DownloadConfig(
            try_download_gcs=False
        ),
    )
    before = tree(tmp_path)
    folder = tmp_path / "digits" / "1.0.0"
    assert any("tfrecord" in path for path in before)
    for name in ("digits", "digits:1.0.0"):
        text = refused(name, tmp_path)
        assert text == (
            f"{folder} holds {name} in tfrecord format; convert it: "
            f"vit-jax prepare {name} --data_dir={tmp_path} --convert"
        )
    assert tree(tmp_path) == before
    # One that is not converted.
    path = folder / "dataset_info.json"
    path.write_text(path.read_text().replace('"tfrecord"', '"riegeli"'))
    text = refused("digits", tmp_path)
    assert text.startswith(f"{folder} holds digits in another format; move it away")
    assert "vit-jax prepare digits --data_dir=/another/dir" in text
    text = refused("digits", tmp_path, convert=True)
    assert "is in riegeli format; only tfrecord is converted" in text


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("disk full\nmore"), tfds.DataError),
        (RuntimeError("broken"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failed_preparation_leaves_nothing_visible(
    tmp_path, monkeypatch, error, expected
):
    from vit_jax.data.builders import digits

    original = digits.Digits._generate_examples

    def failing(self, held_out):
        for number, example in enumerate(original(self, held_out)):
            if held_out and number == 7:  # train is written whole by then
                raise error
            yield example

    monkeypatch.setattr(digits.Digits, "_generate_examples", failing)
    with pytest.raises(expected) as caught:
        prepare.prepare("digits", dir=str(tmp_path), log=quiet)
    if expected is tfds.DataError:
        assert str(caught.value) == "'digits' could not be prepared: disk full"
    assert not (tmp_path / "digits" / "1.0.0").exists()
    with pytest.raises(tfds.DataError, match="is not prepared"):
        tfds.describe("digits", dir=str(tmp_path))
    monkeypatch.undo()
    facts = prepare.prepare("digits", dir=str(tmp_path), log=quiet)
    assert facts.splits == {"train": 1437, "test": 360}


def test_no_network_is_said(tmp_path, monkeypatch):
    import requests
    import tensorflow_datasets

    def offline(self, **settings):
        raise requests.exceptions.ConnectionError("no route")

    builder = tensorflow_datasets.core.DatasetBuilder
    monkeypatch.setattr(builder, "download_and_prepare", offline)
    text = refused("cifar10", tmp_path)
    assert text.startswith("'cifar10' could not be")
    assert "no route" in text


def test_the_default_config_is_found_after_preparation(tmp_path, monkeypatch):
    """TFDS puts it into a folder of its own, which the name does not hold."""
    builder = prepare._builder("mnist_corrupted", str(tmp_path))
    folder = Path(builder.data_dir)
    assert folder.parent.parent == tmp_path / "mnist_corrupted"

    def fake(builder, name, dir):
        write_prepared(folder, "mnist_corrupted")

    monkeypatch.setattr(prepare, "_download", fake)
    facts = prepare.prepare("mnist_corrupted", dir=str(tmp_path), log=quiet)
    assert Path(facts.path) == folder
    said = []
    prepare.prepare("mnist_corrupted", dir=str(tmp_path), log=said.append)
    assert "already prepared" in said[0]
