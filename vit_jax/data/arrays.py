"""Arrays in memory: ``arrays:PATH.npz``, ``arrays:digits``, or numpy arrays as given.

An .npz holds ``train_image`` and ``train_label``, ``test_image`` and ``test_label``,
and so on for any split, or just ``image`` and ``label``, which are split ``train``;
``class_names`` may be beside them. Images are uint8 ``[N, H, W, C]`` or ``[N, H, W]``,
labels integers ``[N]``, or ``[N, M]`` where an image has up to M of them, padded with
-1; one -1 at least must be there, to tell them from one-hot rows. Nothing is imported
but numpy (and scikit-learn for digits).
"""

import contextlib
import functools
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from vit_jax.data.errors import DataError
from vit_jax.data.facts import DatasetFacts, checksum, split_ranges
from vit_jax.data.retry import check_reachable
from vit_jax.data.rows import each_once

TEST_EVERY = 5  # of digits: the examples 0, 5, 10, ... are held out
ALLOWED = (
    "it needs SPLIT_image and SPLIT_label (or image and label), uint8 [N, H, W, C] or "
    "[N, H, W] and integers [N], or [N, M] padded with -1"
)

Arrays = tuple[np.ndarray, np.ndarray]  # images, labels


def digits_arrays() -> dict[str, Arrays]:
    """scikit-learn's 1,797 scans of digits, uint8 ``[N, 8, 8, 1]``, by split.

    Pixels 0..16 become ``round(value * 255 / 16)``. ``test`` is every fifth image in
    the original order (360), ``train`` the others (1,437). The original order goes
    writer by writer, so both splits see the same writers.
    """
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    held_out = np.arange(len(images)) % TEST_EVERY == 0
    return {
        split: (images[rows], digits.target[rows].astype(np.int32))
        for split, rows in (("train", ~held_out), ("test", held_out))
    }


class ArraySource:
    """Random access to images and labels in memory; safe to use from threads.

    Args:
      image: uint8 ``[N, H, W, C]`` or ``[N, H, W]``.
      label: integers ``[N]``, or ``[N, M]`` padded with -1.
      num_classes: unset, one more than the largest label.
      class_names: of the classes, if known.
      name: for messages.

    Raises:
      DataError: a shape, a dtype or a label is not as it must be.
    """

    def __init__(
        self,
        image: np.ndarray,
        label: np.ndarray,
        *,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "arrays",
    ):
        image, label = np.asarray(image), np.asarray(label)
        check_arrays(name, image.shape, image.dtype, label, num_classes)
        self.num_classes = num_classes or int(label.max()) + 1
        self.class_names = None if class_names is None else tuple(class_names)
        self.name = name
        self._image = image[..., None] if image.ndim == 3 else image
        self._label = label if label.ndim == 1 else each_once(label)
        self.label_shape = label.shape[1:]

    def __len__(self) -> int:
        return len(self._label)

    def where(self, index: int) -> str:
        """The file and the number, for messages."""
        return f"{self.name}, record {index}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``{"image": uint8 [H, W, C], "label": int or int [M]}``."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0..{len(self) - 1}")
        label = self._label[index]
        return {
            "image": self._image[index],
            "label": label if label.ndim else int(label),
        }


class NamedArraySource(ArraySource):
    """A split of named arrays. Pickled it is its name: who unpickles it reads again.

    Args:
      text: ``PATH.npz`` or ``digits``.
      split: a split expression.

    Raises:
      DataError: as `describe`, or there is no such split.
    """

    def __init__(self, text: str, split: str):
        facts = describe(text)
        parts = [
            tuple(array[start:stop] for array in _read(text, name))
            for name, start, stop in split_ranges(facts, split)
        ]
        images, labels = zip(*parts, strict=True)
        shapes = {image.shape[1:] for image in images}
        if len(shapes) > 1:
            raise DataError(
                f"arrays:{text}: the splits of {split!r} have images of different "
                f"shapes: {', '.join(map(str, sorted(shapes)))}"
            )
        super().__init__(
            images[0] if len(parts) == 1 else np.concatenate(images),
            labels[0] if len(parts) == 1 else np.concatenate(labels),
            num_classes=facts.num_classes,
            class_names=facts.class_names,
            name=f"arrays:{text}, split {split}",
        )
        self._arguments = (text, split)

    def __reduce__(self) -> tuple:
        return type(self), self._arguments


def check_arrays(
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    label: np.ndarray,
    num_classes: int | None,
) -> None:
    """Whether images and labels are such as a source can give.

    Raises:
      DataError: they are not; the message says what is there and what is needed.
    """
    if dtype != np.uint8 or len(shape) not in (3, 4):
        raise DataError(f"{name}: images are {dtype} {list(shape)}; {ALLOWED}")
    if 0 in shape[1:]:
        raise DataError(f"{name}: images of shape {list(shape)} have no pixels")
    several = label.ndim == 2 and label.dtype.kind == "i" and bool((label == -1).any())
    if label.dtype.kind not in "iu" or (label.ndim != 1 and not several):
        raise DataError(
            f"{name}: labels are {label.dtype} {list(label.shape)}; {ALLOWED}"
        )
    if len(label) != shape[0] or not len(label):
        raise DataError(
            f"{name}: {shape[0]} images with {len(label)} labels; {ALLOWED}"
        )
    empty = label.size == 0
    low, high = (0, -1) if empty else (int(label.min()), int(label.max()))
    lowest = -1 if several else 0
    if low < lowest or (num_classes is not None and high >= num_classes):
        bad = low if low < lowest else high
        record = int(np.nonzero(label == bad)[0][0])
        raise DataError(
            f"{name}: the label of record {record} is {bad}; labels must be "
            f"{'0 or more' if num_classes is None else f'in 0..{num_classes - 1}'}"
            f"{', or -1 for none' if several else ''}"
        )


def describe(text: str) -> DatasetFacts:
    """Splits and classes of named arrays; of the images only the headers are read.

    Raises:
      DataError: there is no such file, or what it holds does not fit.
    """
    if text == "digits":
        splits = {name: len(label) for name, (_, label) in _digits().items()}
        return _facts(text, splits, 10, tuple(map(str, range(10))))
    path = _path(text)
    with _opened(path) as file:
        headers = _headers(path, file)
        names = file["class_names"] if "class_names" in file.files else None
        labels = {split: file[label] for split, (_, label) in _keys(path, file).items()}
        # Of what is in the arrays the archive keeps checksums.
        members = sorted((each.filename, each.CRC) for each in file.zip.infolist())
    if names is not None and (names.ndim != 1 or names.dtype.kind != "U"):
        raise DataError(f"arrays:{text}: class_names must be one row of strings")
    num_classes = None if names is None else len(names)
    for split, label in labels.items():
        check_arrays(
            f"arrays:{text}, split {split}", *headers[split], label, num_classes
        )
    most = max(int(label.max()) for label in labels.values()) + 1
    return _facts(
        text,
        {split: len(label) for split, label in labels.items()},
        num_classes or most,
        None if names is None else tuple(map(str, names)),
        checksum(members),
    )


def _facts(
    text: str,
    splits: Mapping[str, int],
    classes: int,
    names: Any,
    fingerprint: str = "",
) -> DatasetFacts:
    return DatasetFacts(
        name=f"arrays:{text}",
        path=text,
        version="",
        file_format="arrays",
        splits=splits,
        shards={},
        num_classes=classes,
        class_names=names,
        features=("image", "label"),
        fingerprint=fingerprint,
    )


@functools.cache
def _digits() -> dict[str, Arrays]:
    return digits_arrays()


def _path(text: str) -> epath.Path:
    if not text.endswith(".npz"):
        raise DataError(
            f"data.name 'arrays:{text}' is neither an .npz file nor known: write "
            "arrays:PATH.npz, or arrays:digits"
        )
    path = epath.Path(text).expanduser()
    check_reachable(path)
    if not path.exists():
        raise DataError(f"data.name 'arrays:{text}': {os.fspath(path)} does not exist")
    return path


@contextlib.contextmanager
def _opened(path: epath.Path) -> Iterator[Any]:
    """An .npz that is open, whose errors are ours."""
    try:
        with path.open("rb") as file:
            npz = np.load(file, allow_pickle=False)
            if not isinstance(npz, np.lib.npyio.NpzFile):
                raise ValueError("a single array, not an archive of several")
            yield npz
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{os.fspath(path)} cannot be read as an .npz ({error})"
        ) from error


def _keys(path: epath.Path, file: Any) -> dict[str, tuple[str, str]]:
    """Split to the names of its two arrays."""
    found = {}
    for name in file.files:
        if name != "image" and not name.endswith("_image"):
            continue
        label = name[: -len("image")] + "label"
        if label not in file.files:
            raise DataError(
                f"{os.fspath(path)} holds {name} but not {label}; {ALLOWED}"
            )
        found[name[: -len("_image")] or "train"] = (name, label)
    if not found:
        raise DataError(
            f"{os.fspath(path)} holds {', '.join(file.files) or 'nothing'}; {ALLOWED}"
        )
    if "image" in file.files and "train_image" in file.files:
        raise DataError(
            f"{os.fspath(path)} holds both image and train_image; keep one of them"
        )
    return found


def _headers(path: epath.Path, file: Any) -> dict[str, tuple[tuple, np.dtype]]:
    """Shape and dtype of each split's images, without reading them."""
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    headers = {}
    for split, (image, _) in _keys(path, file).items():
        with file.zip.open(f"{image}.npy") as member:
            version = np.lib.format.read_magic(member)
            shape, _, dtype = read[version](member)
        headers[split] = (shape, dtype)
    return headers


def _read(text: str, split: str) -> Arrays:
    if text == "digits":
        return _digits()[split]
    path = _path(text)
    with _opened(path) as file:
        image, label = _keys(path, file)[split]
        return file[image], file[label]
