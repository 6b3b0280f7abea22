"""Conversion: TFRecord, folders and idx files to ArrayRecord, whole or not at all."""

import gzip
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data import images
from vit_jax import cli
from vit_jax.data import convert, convert_images, tfds
from vit_jax.data.errors import DataError
from vit_jax.data.folder import FolderSource
from vit_jax.data.prepare import prepare
from vit_jax.data.tfds import TfdsSource
from vit_jax.data.tfrecord import TfrecordSource

ROOT = Path(__file__).resolve().parents[2]


def quiet(text):
    pass


def refused(*arguments, **settings):
    with pytest.raises(DataError) as error:
        prepare(*arguments, log=quiet, **settings)
    return images.one_line(error)


def examples(source):
    return [source[index] for index in range(len(source))]


def leftovers(root):
    return [
        path for path in Path(root).rglob("*") if path.name.startswith(convert.ASIDE)
    ]


@pytest.fixture
def records(tmp_path, monkeypatch):
    """A TFRecord set of several shards, and the same in ArrayRecord: (root, other)."""
    images.write_folder(tmp_path / "photos", {"a": 12, "b": 8})
    monkeypatch.setattr(convert_images, "SHARD_BYTES", 900)
    root, other = str(tmp_path / "records"), str(tmp_path / "arrays")
    prepare(f"folder:{tmp_path / 'photos'}", new_name="few", dir=other, log=quiet)
    images.to_tfrecord(Path(other) / "few" / "1.0.0", Path(root) / "few" / "1.0.0")
    return root, other


def test_a_split_without_an_image_is_left_out(tmp_path):
    images.write_folder(tmp_path / "x", {"train/a": 3, "train/b": 2, "val-2/a": 1})
    (tmp_path / "x" / "test" / "a").mkdir(parents=True)
    said = []
    facts = prepare(
        f"folder:{tmp_path / 'x'}", new_name="few", dir=str(tmp_path), log=said.append
    )
    assert facts.splits == {"train": 5, "val-2": 1}
    assert any(text.endswith("left out, as without an image: test") for text in said)
    assert len(TfdsSource(name="few", split="val-2", dir=str(tmp_path))) == 1


def test_a_split_that_tfds_cannot_name(tmp_path):
    images.write_folder(tmp_path / "x", {"train/a": 3, "val.v2/a": 1})
    text = refused(f"folder:{tmp_path / 'x'}", new_name="few", dir=str(tmp_path))
    assert "'val.v2'; rename that folder" in text
    assert not (tmp_path / "few").exists()


def test_shards(records):
    facts = tfds.describe("few", dir=records[1])
    assert len(facts.shards["train"]) > 3
    assert sum(facts.shard_lengths["train"]) == 20


def test_beside_the_records(records):
    root, other = records
    said = []
    facts = prepare("few", dir=root, convert=True, log=said.append)
    assert "20 examples" in said[-1]
    folder = Path(root) / "few" / "1.0.0"
    assert Path(facts.path) == folder and facts.file_format == "array_record"
    ours = TfdsSource(name="few", split="train", dir=root)
    assert examples(ours) == examples(TfdsSource(name="few", split="train", dir=other))
    # The records are still read as they were, and ids agree.
    stream = TfrecordSource(name="few", split="train", dir=root).stream(
        0, seed=0, shuffle=True
    )
    for number, example in (next(stream) for _ in range(20)):
        assert ours[number] == example
    assert not leftovers(root)
    # TFDS takes the format that has random access.
    import tensorflow_datasets

    builder = tensorflow_datasets.builder_from_directory(str(folder))
    assert len(builder.as_data_source("train")) == 20
    prepare("tfrecord:few", dir=root, log=said.append)
    assert "already" in said[-1]


def test_in_another_directory(records, tmp_path):
    root, other = records
    before = images.tree(root)
    target = str(tmp_path / "new")
    facts = prepare("few", dir=root, convert=True, output=target, log=quiet)
    assert Path(facts.path) == Path(target) / "few" / "1.0.0"
    ours = TfdsSource(name="few", split="train", dir=target)
    assert examples(ours) == examples(TfdsSource(name="few", split="train", dir=other))
    assert images.tree(root) == before
    import tensorflow_datasets

    builder = tensorflow_datasets.builder_from_directory(facts.path)
    assert builder.info.splits["train"].num_examples == 20
    assert len(builder.as_data_source("train")) == 20
    assert not leftovers(target)


def shard(root, number=1):
    return sorted((Path(root) / "few" / "1.0.0").glob("*tfrecord*"))[number]


@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize("damage", ["flip", "cut", "drop", "empty", "missing"])
def test_damaged_records_stop_it_and_change_nothing(records, tmp_path, damage, output):
    root, _ = records
    path = shard(root)
    data = bytearray(path.read_bytes())
    first = 16 + int.from_bytes(data[:8], "little")  # bytes of the first record
    if damage == "flip":
        data[first + 40] ^= 16
    content = {
        "flip": data,
        "cut": data[:-5],
        "drop": data[:first],
        "empty": b"",
        "missing": b"",
    }[damage]
    path.write_bytes(content)
    if damage == "missing":
        path.unlink()
    before = images.tree(root)
    target = tmp_path / "new"
    text = refused(
        "few", dir=root, convert=True, output=str(target) if output else None
    )
    assert str(path) in text
    words = {
        "flip": "record 1: is damaged (corrupted record",
        "cut": "is damaged (truncated record",
        "drop": "holds 1 examples where",
        "empty": "holds 0 examples where",
        "missing": "is missing",
    }[damage]
    assert words in text
    assert images.tree(root) == before
    assert not target.exists()


def test_no_room(records, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(
        convert.shutil, "disk_usage", lambda path: usage._replace(free=100)
    )
    assert "are needed; free some" in refused("few", dir=records[0], convert=True)
    assert not leftovers(records[0])


def test_messages_name_the_command(records):
    root, _ = records
    with pytest.raises(DataError) as error:
        TfdsSource(name="few", split="train", dir=root)
    command = f"vit-jax prepare few --data_dir={root} --convert"
    assert command in images.one_line(error)
    assert command in refused("few", dir=root)


def test_interrupted_it_leaves_nothing_that_counts(records):
    """A killed conversion: readers see the records alone, and the next one cleans up."""
    root, _ = records
    script = (
        "import time\n"
        "from vit_jax.data import convert\n"
        "check = convert.check_written\n"
        "def wait(*arguments):\n"
        "    check(*arguments)\n"
        "    print('written', flush=True)\n"
        "    time.sleep(60)\n"
        "convert.check_written = wait\n"
        f"convert.convert_tfrecord('few', dir={root!r}, log=lambda text: None)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert leftovers(root)
    assert tfds.describe_any("few", dir=root).file_format == "tfrecord"
    prepare("few", dir=root, convert=True, log=quiet)
    assert len(TfdsSource(name="few", split="train", dir=root)) == 20
    assert not leftovers(root)


def test_a_failure_at_the_last_moment(records, tmp_path, monkeypatch):
    root, _ = records
    before = images.tree(root)

    def fail(*arguments):
        raise OSError("no more")

    monkeypatch.setattr(convert, "write_durably", fail)
    target = tmp_path / "new"
    text = refused("few", dir=root, convert=True, output=str(target))
    assert "no more" in text and not target.exists()
    assert images.tree(root) == before


def test_folder_to_tfds(tmp_path):
    images.write_folder(tmp_path / "photos", {"train/b": 5, "train/a": 4, "val/a": 2})
    root = str(tmp_path / "sets")
    path = str(tmp_path / "photos")
    said = []
    facts = prepare(f"folder:{path}", new_name="photos", dir=root, log=said.append)
    assert facts.splits == {"train": 9, "val": 2}
    assert facts.class_names == ("a", "b")
    assert "train 9, val 2 examples, 2 classes" in said[-1]
    for split in ("train", "val"):  # the same ids, too
        assert examples(TfdsSource(name="photos", split=split, dir=root)) == examples(
            FolderSource(path, split)
        )
    import tensorflow_datasets

    builder = tensorflow_datasets.builder_from_directory(facts.path)
    assert builder.info.features["label"].names == ["a", "b"]
    assert builder.info.splits["train"].num_examples == 9
    theirs = builder.as_data_source("val")
    ours = examples(TfdsSource(name="photos", split="val", dir=root))
    for one, other in zip(theirs, ours, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(other["image"])))
        np.testing.assert_array_equal(one["image"], pixels)
        assert one["label"] == other["label"]
    assert "exists already" in refused(f"folder:{path}", new_name="photos", dir=root)


def test_a_bad_image_stops_it(tmp_path):
    images.write_folder(tmp_path / "photos", {"a": 3, "b": 2})
    bad = tmp_path / "photos" / "a" / "1.png"
    bad.write_bytes(b"")
    root = tmp_path / "sets"
    text = refused(f"folder:{tmp_path / 'photos'}", new_name="photos", dir=str(root))
    assert text == f"{bad}: is empty"
    assert not root.exists()


def write_idx(folder, compressed, shape=(6, 5, 4)):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for split, size in (("train", shape[0]), ("t10k", 3)):
        pixels = rng.integers(0, 256, (size, *shape[1:]), np.uint8)
        labels = np.arange(size, dtype=np.uint8) % 4
        arrays[split] = pixels, labels
        for kind, array in (("images", pixels), ("labels", labels)):
            rank = 1 if kind == "labels" else 3
            content = images.idx(array)
            name = f"{split}-{kind}-idx{rank}-ubyte"
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return arrays


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 4, 3)], ids=str)
def test_idx_to_tfds(tmp_path, compressed, shape):
    arrays = write_idx(tmp_path / "idx", compressed, shape)
    root = str(tmp_path / "sets")
    facts = prepare(f"idx:{tmp_path / 'idx'}", new_name="small", dir=root, log=quiet)
    assert facts.splits == {"train": 6, "test": 3}
    assert facts.num_classes == 4
    for split, part in (("train", "train"), ("test", "t10k")):
        source = TfdsSource(name="small", split=split, dir=root)
        pixels, labels = arrays[part]
        for index, example in enumerate(examples(source)):
            decoded = np.asarray(Image.open(io.BytesIO(example["image"])))
            np.testing.assert_array_equal(decoded, pixels[index])
            assert example["label"] == labels[index]
    import tensorflow_datasets

    builder = tensorflow_datasets.builder_from_directory(facts.path)
    theirs = builder.as_data_source("test")[2]["image"]
    np.testing.assert_array_equal(theirs.reshape(pixels[2].shape), pixels[2])


def test_what_is_wrong_with_idx_files(tmp_path):
    folder = tmp_path / "idx"

    def text(name="small"):
        return refused(f"idx:{folder}", new_name=name, dir=str(tmp_path / "sets"))

    assert "is no directory" in text()
    folder.mkdir()
    assert "holds no idx files, such as train-images-idx3-ubyte" in text()
    write_idx(folder, compressed=True)
    labels = folder / "train-labels-idx1-ubyte.gz"
    good = labels.read_bytes()
    labels.write_bytes(good[:-12])
    assert f"{labels} cannot be read" in text()
    labels.write_bytes(gzip.compress(images.idx(np.zeros(6))[:-1]))
    assert f"{labels} holds 5 bytes of data where its header says 6" in text()
    labels.write_bytes(gzip.compress(b"hello, this is text"))
    assert "is no idx file of unsigned bytes" in text()
    labels.write_bytes(gzip.compress(images.idx(np.zeros(5))))
    assert "train: 6 images with 5 labels" in text()
    labels.unlink()
    assert "there are no labels of split 'train'" in text()
    (folder / "emnist-train-labels-idx1-ubyte.gz").write_bytes(good)
    assert "several data sets" in text()
    assert not (tmp_path / "sets").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["folder:x"], "needs --name"),
        (["folder:x", "--name=Flowers"], "small letters"),
        (["folder:x", "--name=../up"], "small letters"),
        (["digits", "--name=x"], "is for folder:PATH and idx:PATH"),
        (["digits", "--output=x"], "--output is for --convert"),
        (["folder:x", "--name=x", "--convert"], "--convert is for TFDS sets"),
        (["arrays:digits"], "needs no preparation"),
        (["qqqq", "--convert"], "unknown data set 'qqqq'"),
        (["cifar10", "--convert", "--data_dir=gs://bucket/x"], "gs://bucket"),
    ],
    ids=str,
)
def test_mistakes_on_the_command_line(tmp_path, monkeypatch, capsys, arguments, words):
    images.write_folder(tmp_path / "x", {"a": 1})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    monkeypatch.setattr(tfds.socket, "create_connection", no_route)
    for variable in ("https_proxy", "HTTPS_PROXY", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(variable, raising=False)
    assert cli.main(["prepare", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vit-jax: ") and error.count("\n") == 1
    assert words in error


def test_interrupted_on_the_command_line(records, monkeypatch, capsys):
    root, _ = records
    before = images.tree(root)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "check_written", interrupt)
    assert cli.main(["prepare", "few", f"--data_dir={root}", "--convert"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert images.tree(root) == before and not leftovers(root)


def no_route(*arguments, **settings):
    raise OSError("no route")


def test_what_another_process_writes_is_left_alone(tmp_path):
    mine = tmp_path / f"{convert.ASIDE}{convert.socket.gethostname()}-{os.getppid()}"
    gone = tmp_path / f"{convert.ASIDE}{convert.socket.gethostname()}-{2**22 + 1}"
    foreign = tmp_path / f"{convert.ASIDE}elsewhere-1"
    for path in (mine, gone, foreign):
        path.mkdir()
    with convert.aside(tmp_path / "new") as temporary:
        (temporary / "x").write_text("x")
        temporary.rename(tmp_path / "new")
    assert mine.exists() and foreign.exists() and not gone.exists()
    assert (tmp_path / "new" / "x").read_text() == "x"
