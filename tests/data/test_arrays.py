"""Arrays in memory, from .npz files and from scikit-learn."""

import pickle

import numpy as np
import pytest

from tests.data import images
from vit_jax.data import arrays, mixture
from vit_jax.data.arrays import ArraySource, NamedArraySource
from vit_jax.data.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 5, 4, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2, 3])


def test_in_memory():
    source = ArraySource(IMAGES, LABELS)
    assert len(source) == 7 and source.num_classes == 4
    for index in range(7):
        example = source[index]
        np.testing.assert_array_equal(example["image"], IMAGES[index])
        assert example["label"] == LABELS[index]
        assert type(example["label"]) is int
    assert ArraySource(IMAGES[..., 0], LABELS)[0]["image"].shape == (5, 4, 1)
    for index in (-1, 7):
        with pytest.raises(IndexError):
            source[index]
    assert "record 3" in source.where(3)


def save(path, **content):
    np.savez(path, **content)
    return str(path)


def test_npz_with_splits(tmp_path):
    path = save(
        tmp_path / "a.npz",
        train_image=IMAGES,
        train_label=LABELS,
        val_image=IMAGES[:2],
        val_label=LABELS[:2],
        class_names=np.array(["a", "b", "c", "d", "e"]),
    )
    facts = arrays.describe(path)
    assert facts.splits == {"train": 7, "val": 2}
    assert facts.class_names == ("a", "b", "c", "d", "e") and facts.num_classes == 5
    source = NamedArraySource(path, "val+train[5:]")
    assert [source[i]["label"] for i in range(len(source))] == [0, 1, 2, 3]
    np.testing.assert_array_equal(source[2]["image"], IMAGES[5])
    assert path in source.where(0)
    sent = pickle.dumps(source)
    assert len(sent) < 500
    np.testing.assert_array_equal(pickle.loads(sent)[3]["image"], source[3]["image"])


def test_npz_without_splits(tmp_path):
    path = save(tmp_path / "a.npz", image=IMAGES, label=LABELS)
    assert arrays.describe(path).splits == {"train": 7}
    assert arrays.describe(path).num_classes == 4
    assert len(NamedArraySource(path, "train[:3]")) == 3


def test_digits_are_those_of_the_builder(digits_dir):
    import io

    from PIL import Image

    from vit_jax.data.tfds import TfdsSource

    assert arrays.describe("digits").splits == {"train": 1437, "test": 360}
    for split in ("train", "test"):
        ours = NamedArraySource("digits", split)
        theirs = TfdsSource(name="digits", split=split, dir=digits_dir)
        assert len(ours) == len(theirs)
        for index in range(0, len(ours), 50):
            pixels = np.asarray(Image.open(io.BytesIO(theirs[index]["image"])))
            np.testing.assert_array_equal(ours[index]["image"][..., 0], pixels)
            assert ours[index]["label"] == theirs[index]["label"]


SEVERAL = np.array([[0, 3], [2, -1], [-1, -1], [1, 0], [3, -1], [0, -1], [2, 1]])


def test_several_labels_an_image():
    source = arrays.ArraySource(IMAGES, SEVERAL)
    assert (source.num_classes, source.label_shape) == (4, (2,))
    np.testing.assert_array_equal(source[1]["label"], [2, -1])
    np.testing.assert_array_equal(source[0]["label"], [3, 0])
    assert source[0]["label"].dtype == np.int32
    with pytest.raises(DataError, match="has several labels; in a mix an image has"):
        mixture.Relabelled(source, 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (dict(image=IMAGES / 255, label=LABELS), "images are float64 [7, 5, 4, 3]"),
        (dict(image=IMAGES[0, 0], label=LABELS), "images are uint8 [4, 3]"),
        (dict(image=IMAGES, label=LABELS[:3]), "7 images with 3 labels"),
        (dict(image=IMAGES, label=LABELS + 0.5), "labels are float64 [7]"),
        (dict(image=IMAGES, label=np.eye(7, 3, dtype=int)), "labels are int64 [7, 3]"),
        (dict(image=IMAGES, label=LABELS - 1), "label of record 0 is -1"),
        (dict(image=IMAGES, label=SEVERAL - 1), "label of record 1 is -2"),
        (
            dict(image=IMAGES, label=LABELS, class_names=np.array(["a", "b"])),
            "must be in 0..1",
        ),
        (dict(image=IMAGES, label=LABELS, class_names=np.arange(4)), "class_names"),
        (dict(image=IMAGES), "holds image but not label"),
        (dict(x_train=IMAGES, y_train=LABELS), "holds x_train, y_train; it needs"),
        (dict(image=IMAGES[:0], label=LABELS[:0]), "0 images with 0 labels"),
        (dict(image=IMAGES[:, :0], label=LABELS), "no pixels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_an_npz(tmp_path, content, words):
    path = save(tmp_path / "a.npz", **content)
    with pytest.raises(DataError) as error:
        arrays.describe(path)
    text = images.one_line(error)
    assert words in text and path in text


def test_the_fingerprint_is_of_the_content(tmp_path):
    def fingerprint(name, **changes):
        content = {
            "image": np.zeros((3, 2, 2), np.uint8),
            "label": np.arange(3),
        }
        np.savez(tmp_path / name, **(content | changes))
        return arrays.describe(str(tmp_path / name)).fingerprint

    first = fingerprint("a.npz")
    assert first and fingerprint("b.npz") == first
    image = np.zeros((3, 2, 2), np.uint8)
    image[2, 1, 1] = 1
    assert fingerprint("a.npz", image=image) != first
    assert fingerprint("a.npz", label=np.array([0, 2, 1])) != first
    assert arrays.describe("digits").fingerprint == ""


def test_splits_of_different_shapes_are_not_added(tmp_path):
    path = save(
        tmp_path / "a.npz",
        train_image=IMAGES,
        train_label=LABELS,
        test_image=IMAGES[:, 1:],
        test_label=LABELS,
    )
    assert len(NamedArraySource(path, "test")) == 7
    with pytest.raises(DataError, match="different shapes"):
        NamedArraySource(path, "train+test")


def test_damaged_and_missing_files(tmp_path):
    def refused(text):
        with pytest.raises(DataError) as error:
            NamedArraySource(text, "train")
        return images.one_line(error)

    assert "does not exist" in refused(str(tmp_path / "none.npz"))
    assert "arrays:digits" in refused("digit")
    path = tmp_path / "a.npz"
    save(path, image=IMAGES, label=LABELS)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[:-30], whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert f"{path} cannot be read" in refused(str(path))
    flipped = bytearray(whole)
    flipped[400] ^= 1  # a pixel: the archive has checksums
    path.write_bytes(flipped)
    assert f"{path} cannot be read" in refused(str(path))
    with path.open("wb") as file:
        np.save(file, IMAGES)
    assert "single array" in refused(str(path))
    with pytest.raises(DataError, match="it has: train"):
        save(path, image=IMAGES, label=LABELS)
        NamedArraySource(str(path), "test")
