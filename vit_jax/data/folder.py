"""Images in folders, a folder a class: ``folder:PATH``. No TensorFlow, no index file.

PATH holds a folder per class, or a folder per split (``train``, ``val``, ...) that
does; `list_folder` says which. Without splits all is ``train``. Classes are numbered
by name, over all splits together; a folder without an image is no class.

The order of a split's examples is that of their names, then shuffled once with a fixed
seed: ``train[:90%]`` and ``train[90%:]`` are disjoint and hold every class alike, today
and on every machine. Adding or removing a file changes the order, so a folder must not
change under a run that will resume.
"""

import dataclasses
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath

from vit_jax.data.array_record import first_line
from vit_jax.data.errors import BadExampleError, DataError
from vit_jax.data.facts import DatasetFacts, split_ranges
from vit_jax.data.retry import LASTING
from vit_jax.data.split import NAME
from vit_jax.data.tfds import check_reachable

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2"),
)
SPLITS = ("train", "training", "val", "valid", "validation", "test")
ORDER_SEED = 0
LIST_THREADS = 16
# How the files of the formats above begin.
MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF",
    b"BM",
    b"GIF8",
    b"II*\0",
    b"MM\0*",
    *(b"P%d" % kind for kind in range(1, 7)),
    b"\0\0\0\x0cjP  ",
    b"\xff\x4f\xff\x51",
)


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of one split in the order of their names, kept in little memory."""

    root: str
    names: bytes  # the paths below root, one after the other
    ends: np.ndarray  # int64 [N], where each path ends in names
    labels: np.ndarray  # int32 [N]

    def __len__(self) -> int:
        return len(self.ends)

    def path(self, row: int) -> str:
        """The whole path of a file."""
        start = int(self.ends[row - 1]) if row else 0
        return os.path.join(
            self.root, os.fsdecode(self.names[start : int(self.ends[row])])
        )


@dataclasses.dataclass(frozen=True)
class Folder:
    """What a folder holds: its classes, and a listing per split."""

    class_names: tuple[str, ...]
    splits: dict[str, Listing]


# The folders seen last, with the times of change of their class folders.
_SEEN: dict[str, tuple[Any, Folder]] = {}


def list_folder(path: str) -> Folder:
    """Lists a folder, once a process as long as its class folders stay the same.

    The folders in it are splits where one with a name of ``SPLITS`` holds folders
    itself, and classes otherwise.

    Raises:
      DataError: it does not exist, holds no image, or a split has an impossible name.
    """
    path = _resolve(path)
    children = _folders(path)

    def inside(names: Iterable[str]) -> dict[str, list[str]]:
        found = {name: _folders(os.path.join(path, name)) for name in names}
        return {name: folders for name, folders in found.items() if folders}

    # Only folders with such a name are looked into twice.
    by_split = bool(inside(name for name in children if name in SPLITS))
    splits = inside(children) if by_split else {"train": children}
    roots = {name: os.path.join(path, name) if by_split else path for name in splits}
    # Splits that people say first come first.
    order = sorted(splits, key=lambda name: (*SPLITS, name).index(name))
    stamp = {name: _stamp(roots[name], splits[name]) for name in order}
    if path in _SEEN and _SEEN[path][0] == stamp and "://" not in path:
        return _SEEN[path][1]
    found = {name: _list_split(roots[name], splits[name]) for name in order}
    for name, files in found.items():
        if any(files.values()) and not re.fullmatch(NAME, name):
            raise DataError(
                f"folder {path}: {name!r} cannot be the name of a split, which is of "
                "letters, digits, '.', '_' and '-'; rename that folder, or move it away"
            )
    used = {name for files in found.values() for name, names in files.items() if names}
    if not used:
        raise DataError(
            f"folder {path} holds no image: it needs a folder per class with files of "
            f"{', '.join(SUFFIXES[:5])}, ... in it"
        )
    class_names = tuple(sorted(used))
    numbers = {name: number for number, name in enumerate(class_names)}
    folder = Folder(
        class_names,
        {name: _pack(roots[name], found[name], numbers) for name in order},
    )
    _SEEN.clear()
    _SEEN[path] = (stamp, folder)
    return folder


def _resolve(path: str) -> str:
    if not path:
        raise DataError(
            "data.name 'folder:' lacks a path: write folder:/path/to/images"
        )
    root = epath.Path(path).expanduser()
    check_reachable(root)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"folder {os.fspath(root)} {what} (data.name)")
    return os.fspath(root)


def _folders(path: str) -> list[str]:
    """Names of the folders in a folder; those that begin with a dot are left out."""
    if "://" in path:
        every = epath.Path(path).iterdir()
        children = [child for child in every if not _is_image(child.name)]
        with ThreadPoolExecutor(LIST_THREADS) as pool:
            kinds = pool.map(lambda child: child.is_dir(), children)
        names = [
            child.name for child, kind in zip(children, kinds, strict=True) if kind
        ]
    else:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    return sorted(name for name in names if not name.startswith("."))


def _stamp(root: str, classes: Iterable[str]) -> Any:
    if "://" in root:
        return None
    return tuple(
        (name, os.stat(os.path.join(root, name)).st_mtime_ns) for name in classes
    )


def _list_split(root: str, classes: list[str]) -> dict[str, list[str]]:
    """Class name to the paths below ``root``, sorted."""
    files = _remote_files if "://" in root else _local_files
    with ThreadPoolExecutor(LIST_THREADS) as pool:
        return dict(
            zip(classes, pool.map(lambda name: files(root, name), classes), strict=True)
        )


def _is_image(name: str) -> bool:
    return name[name.rfind(".") :].lower() in SUFFIXES and name[0] != "."


def _local_files(root: str, folder: str) -> list[str]:
    found: list[str] = []
    waiting = [folder]
    while waiting:
        inside = waiting.pop()
        with os.scandir(os.path.join(root, inside)) as entries:
            for entry in entries:
                # A link to a folder may lead back here; one to a file cannot.
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{inside}/{entry.name}")
                elif _is_image(entry.name):
                    found.append(f"{inside}/{entry.name}")
    return sorted(found)


def _remote_files(root: str, folder: str) -> list[str]:
    # Nothing is asked about a single object: that would be a request each.
    children = (epath.Path(root) / folder).iterdir()
    return sorted(
        f"{folder}/{child.name}" for child in children if _is_image(child.name)
    )


def _pack(root: str, files: dict[str, list[str]], numbers: dict[str, int]) -> Listing:
    encoded = [os.fsencode(name) for names in files.values() for name in names]
    sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
    counts = [len(names) for names in files.values()]
    labels = np.asarray([numbers.get(name, -1) for name in files], np.int32)
    return Listing(root, b"".join(encoded), np.cumsum(sizes), np.repeat(labels, counts))


def shuffled(size: int) -> np.ndarray:
    """The fixed order in which the files of a split are numbered."""
    order = np.random.Generator(np.random.Philox(ORDER_SEED)).permutation(size)
    return order.astype(np.int32)


def describe(path: str) -> DatasetFacts:
    """Splits and classes of a folder.

    Raises:
      DataError: as `list_folder`.
    """
    folder = list_folder(path)
    return DatasetFacts(
        name=f"folder:{path}",
        path=path,
        version="",
        file_format="folder",
        splits={name: len(listing) for name, listing in folder.splits.items()},
        shards={},
        num_classes=len(folder.class_names),
        class_names=folder.class_names,
        features=("image", "label"),
        fingerprint=_fingerprint(folder.splits),
    )


def _fingerprint(splits: Mapping[str, Listing]) -> str:
    """Changes when a file is added, removed or renamed."""
    total = 0
    for name in sorted(splits):
        total = zlib.crc32(splits[name].names, zlib.crc32(name.encode(), total))
    return f"{total:08x}"


def _read_bytes(path: str) -> bytes:
    if "://" not in path:
        with open(path, "rb") as file:
            return file.read()
    try:
        return epath.Path(path).read_bytes()
    except OSError:
        raise
    except Exception as error:  # of the library that speaks with the bucket
        raise OSError(f"{path}: {first_line(error)}") from error


class FolderSource:
    """Random access to one split of a folder; safe to use from threads.

    A pickled one carries its listing, some 30 bytes an image, so that every process
    has the same order without listing the folder again.

    Args:
      path: the folder.
      split: a split expression.

    Raises:
      DataError: as `describe`, or there is no such split.
    """

    def __init__(self, path: str, split: str):
        facts = describe(path)
        self.num_classes, self.class_names = facts.num_classes, facts.class_names
        listings = list_folder(path).splits
        # Per range: the listing, and the rows of it that the range holds.
        self._parts = [
            (listings[name], shuffled(len(listings[name]))[start:stop])
            for name, start, stop in split_ranges(facts, split)
        ]

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self._parts)

    def _locate(self, index: int) -> tuple[Listing, int]:
        offset = index
        for listing, rows in self._parts:
            if 0 <= offset < len(rows):
                return listing, int(rows[offset])
            offset -= len(rows)
        raise IndexError(f"index {index} is outside 0..{len(self) - 1}")

    def where(self, index: int) -> str:
        """The file of an example, for messages."""
        listing, row = self._locate(index)
        return listing.path(row)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``{"image": encoded bytes, "label": int}``.

        Raises:
          BadExampleError: the file is not there, is empty, or is no image.
          OSError: storage fails.
        """
        listing, row = self._locate(index)
        path = listing.path(row)
        try:
            image = _read_bytes(path)
        except LASTING as error:
            reason = error.strerror or str(error)
            raise BadExampleError(f"{path}: cannot be read ({reason})") from error
        if not image:
            raise BadExampleError(f"{path}: is empty")
        if not image.startswith(MAGIC):
            raise BadExampleError(
                f"{path}: is no image of a known format (begins with {image[:8]!r})"
            )
        return {"image": image, "label": int(listing.labels[row])}
