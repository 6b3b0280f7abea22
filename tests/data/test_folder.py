"""Image folders: classes, splits, order, and what is wrong with files."""

import builtins
import collections
import os
import pickle

import numpy as np
import pytest
from etils import epath

from tests.data import images
from vit_jax.data import folder
from vit_jax.data.errors import BadExampleError, DataError
from vit_jax.data.folder import FolderSource


@pytest.fixture
def flowers(tmp_path):
    written = images.write_folder(
        tmp_path, {"rose": 30, "daisy": 20, "tulip/indoors": 4, "tulip": 6}
    )
    return tmp_path, written


def everything(source):
    return [(source.where(i), source[i]) for i in range(len(source))]


def test_classes_are_folders_by_name(flowers):
    root, written = flowers
    facts = folder.describe(str(root))
    assert facts.splits == {"train": 60}
    assert facts.class_names == ("daisy", "rose", "tulip")
    assert facts.num_classes == 3
    source = FolderSource(str(root), "train")
    assert source.class_names == facts.class_names
    seen = everything(source)
    assert {path: example["image"] for path, example in seen} == written
    for path, example in seen:
        name = os.path.relpath(path, root).split(os.sep)[0]
        assert facts.class_names[example["label"]] == name


def test_slices_are_disjoint_and_hold_every_class(flowers):
    root, written = flowers
    most, rest = (FolderSource(str(root), s) for s in ("train[:80%]", "train[80%:]"))
    paths = [path for source in (most, rest) for path, _ in everything(source)]
    assert len(most) == 48 and len(rest) == 12
    assert sorted(paths) == sorted(written)
    labels = collections.Counter(example["label"] for _, example in everything(rest))
    assert len(labels) == 3
    # The order is the same each time, and not that of the names.
    again = [path for path, _ in everything(FolderSource(str(root), "train"))]
    assert again == paths != sorted(paths)


def test_folders_of_splits(tmp_path):
    images.write_folder(
        tmp_path,
        {"train/b": 3, "train/a": 2, "val/b": 1, "val/c": 2, "extra/a": 1, ".git/x": 1},
    )
    (tmp_path / "devkit").mkdir()
    facts = folder.describe(str(tmp_path))
    assert facts.splits == {"train": 5, "val": 3, "extra": 1}
    assert facts.class_names == ("a", "b", "c")  # over all splits
    labels = {
        example["label"]
        for _, example in everything(FolderSource(str(tmp_path), "val"))
    }
    assert labels == {1, 2}
    assert len(FolderSource(str(tmp_path), "all")) == 9
    assert len(FolderSource(str(tmp_path), "train[:2]+val")) == 5


def test_a_class_may_be_called_train(tmp_path):
    images.write_folder(tmp_path, {"train": 3, "bus": 2})
    facts = folder.describe(str(tmp_path))
    assert facts.class_names == ("bus", "train")
    assert facts.splits == {"train": 5}


def test_other_files_and_links(tmp_path):
    images.write_folder(tmp_path, {"a": 2, "b": 1})
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / ".hidden.png").write_bytes(images.png(0))
    (tmp_path / "readme.png").write_bytes(images.png(0))
    (tmp_path / "empty").mkdir()
    (tmp_path / "c").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    facts = folder.describe(str(tmp_path))
    assert facts.splits == {"train": 4}
    assert facts.class_names == ("a", "b", "c")


def test_a_change_is_seen(tmp_path):
    images.write_folder(tmp_path, {"a": 2, "b": 1})
    assert folder.describe(str(tmp_path)).splits == {"train": 3}
    (tmp_path / "b" / "new.png").write_bytes(images.png(9))
    assert folder.describe(str(tmp_path)).splits == {"train": 4}


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"hello world", "no image"), (None, "cannot be read")],
)
def test_bad_files(tmp_path, content, words):
    images.write_folder(tmp_path, {"a": 2, "b": 2})
    path = tmp_path / "a" / "1.png"
    if content is not None:
        path.write_bytes(content)
    source = FolderSource(str(tmp_path), "train")
    if content is None:
        path.unlink()
    bad = []
    for index in range(len(source)):
        try:
            source[index]
        except BadExampleError as error:
            bad.append(str(error))
    assert len(bad) == 1
    assert bad[0].startswith(f"{path}: ") and words in bad[0]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), TimeoutError()])
def test_storage_that_fails_is_no_damage(flowers, monkeypatch, error):
    source = FolderSource(str(flowers[0]), "train")
    expected = source[0]

    def fails(*arguments):
        raise error

    with monkeypatch.context() as broken:
        broken.setattr("builtins.open", fails)
        with pytest.raises(type(error)) as raised:
            source[0]
    assert raised.value is error
    assert source[0] == expected


def test_what_a_bucket_raises_is_storage(monkeypatch):
    class Unavailable(Exception):  # TensorFlow's and gcsfs's are no OSErrors either
        pass

    def fails(self):
        raise Unavailable("503\ntry later")

    monkeypatch.setattr(type(epath.Path("gs://bucket")), "read_bytes", fails)
    with pytest.raises(OSError, match=r"^gs://bucket/a.png: 503$"):
        folder._read_bytes("gs://bucket/a.png")


@pytest.mark.parametrize(
    ("error", "words"),
    [(PermissionError(13, "Permission denied"), "denied"), (None, "Is a directory")],
)
def test_a_file_that_is_not_for_us(flowers, monkeypatch, error, words):
    source = FolderSource(str(flowers[0]), "train")
    path = source.where(0)

    def fails(*arguments):
        raise error

    if error is None:
        os.unlink(path)
        os.mkdir(path)
    else:
        monkeypatch.setattr("builtins.open", fails)
    with pytest.raises(BadExampleError, match=f"cannot be read .*{words}"):
        source[0]


def test_pickled_it_needs_no_listing(flowers, monkeypatch):
    root, _ = flowers
    source = FolderSource(str(root), "train[:50%]")
    sent = pickle.dumps(source)
    before = everything(source)
    (root / "daisy" / "new.png").write_bytes(images.png(1))  # changes any new listing
    monkeypatch.setattr(folder, "list_folder", None)
    assert everything(pickle.loads(sent)) == before


@pytest.mark.parametrize("index", [-1, 60])
def test_outside(flowers, index):
    with pytest.raises(IndexError):
        FolderSource(str(flowers[0]), "train")[index]


def test_what_is_wrong_with_a_folder(tmp_path):
    def refused(path, split="train"):
        with pytest.raises(DataError) as error:
            FolderSource(str(path), split)
        return images.one_line(error)

    assert "does not exist" in refused(tmp_path / "none")
    assert "lacks a path" in refused("")
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused(tmp_path / "file")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no image" in refused(empty)
    (empty / "class").mkdir()
    assert "holds no image" in refused(empty)
    images.write_folder(tmp_path / "good", {"a": 2})
    assert "it has: train" in refused(tmp_path / "good", "validation")
    assert "malformed" in refused(tmp_path / "good", "train[")


def test_splits_that_no_expression_can_name(tmp_path):
    images.write_folder(tmp_path, {"train/a": 2, "val (old)/a": 1})
    with pytest.raises(DataError) as error:
        folder.describe(str(tmp_path))
    text = images.one_line(error)
    assert "'val (old)' cannot be the name of a split" in text and "rename" in text
    (tmp_path / "val (old)").rename(tmp_path / "val-old.1")
    facts = folder.describe(str(tmp_path))
    assert len(FolderSource(str(tmp_path), "val-old.1")) == facts.splits["val-old.1"]


def test_a_remote_folder_asks_nothing_about_single_files(flowers, monkeypatch):
    """As of a bucket, where each question is a request."""
    root, _ = flowers
    asked = []
    path_type = type(epath.Path(root))

    def ask(self):
        asked.append(self)
        return os.path.isdir(self)

    for question in ("is_dir", "is_file", "exists", "stat"):
        monkeypatch.setattr(path_type, question, ask)
    names = folder._remote_files(str(root), "daisy")
    assert names == folder._local_files(str(root), "daisy")
    assert len(names) == 20
    assert not asked


def test_a_folder_in_a_bucket(tmp_path, monkeypatch):
    """Through epath alone; the bucket is a folder called gs: that epath is led to."""
    written = images.write_folder(
        tmp_path / "gs:" / "bucket" / "x", {"train/a": 3, "train/b": 2, "val/a": 1}
    )
    remote = type(epath.Path("gs://bucket"))
    monkeypatch.setattr(remote, "_backend", epath.backend.os_backend)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "none")
    monkeypatch.chdir(tmp_path)
    facts = folder.describe("gs://bucket/x")
    assert facts.splits == {"train": 5, "val": 1}
    source = pickle.loads(pickle.dumps(FolderSource("gs://bucket/x", "train+val")))
    seen = everything(source)
    assert all(path.startswith("gs://bucket/x/") for path, _ in seen)
    assert sorted(example["image"] for _, example in seen) == sorted(written.values())
    bad = tmp_path / source.where(0).replace("gs://", "gs:/")
    bad.unlink()
    with pytest.raises(BadExampleError, match="cannot be read"):
        source[0]


def test_many_files_cost_a_line_of_a_listing_each(tmp_path, monkeypatch):
    """Nothing is asked about a single file, which a network disk would make slow."""
    for name in range(20):
        (tmp_path / f"c{name:02}").mkdir()
        for n in range(500):
            os.close(os.open(tmp_path / f"c{name:02}" / f"{n}.JPEG", os.O_CREAT))
    asked = collections.Counter()

    def counted(name, real):
        def call(*arguments, **options):
            asked[name] += 1
            return real(*arguments, **options)

        return call

    for name in ("stat", "lstat", "open", "scandir", "listdir"):
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
    monkeypatch.setattr(builtins, "open", counted("open", open))
    facts = folder.describe(str(tmp_path))
    monkeypatch.undo()
    assert facts.splits == {"train": 10_000}
    assert asked["scandir"] == 21 and asked["stat"] <= 25
    assert set(asked) == {"scandir", "stat"}
    size = len(pickle.dumps(FolderSource(str(tmp_path), "train")))
    assert size < 10_000 * 40
    assert np.array_equal(folder.shuffled(10), folder.shuffled(10))
