"""The named arrays of a checkpoint, whichever file format they are in."""

import mmap
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from vit_jax.weights.files import (
    MAX_ARRAYS,
    MAX_JSON,
    Opened,
    Packed,
    WeightsError,
    open_npz,
    open_safetensors,
    parsing,
    read_json,
)
from vit_jax.weights.torch_files import open_torch

# By ending, in the order in which a folder is looked through.
OPENERS: dict[str, Callable[[pathlib.Path], Opened]] = {
    ".safetensors": open_safetensors,
    ".npz": open_npz,
    ".pth": open_torch,
    ".pt": open_torch,
    ".bin": open_torch,
}
INDEX = "model.safetensors.index.json"

_HELD = 16 << 20  # bytes of a mapped file that stay in memory after they were read


class MissingArray(WeightsError, KeyError):
    """There is no array of a name that a format needs."""

    __str__ = ValueError.__str__  # a KeyError's message is in quotes


class Arrays(Mapping):  # its types are left out: checking them looks up an array
    """A checkpoint's arrays by name. Looking one up marks it used and reads nothing.

    Values are views of mapped files, so that reshaping, transposing and slicing them
    costs nothing and a copy reads only what it takes; of compressed files they are
    unpacked, and kept until `release`. ``peek`` does not mark.

    Args:
      name: of the file or folder, for messages.
      arrays: by name.
      config: the ``config.json`` beside the file, or {}.
      maps: mapped files, whose pages `release` gives back.
    """

    def __init__(
        self,
        name: str,
        arrays: Mapping[str, np.ndarray | Packed],
        *,
        config: Mapping[str, Any] | None = None,
        maps: tuple[mmap.mmap, ...] = (),
    ):
        self.name = name
        self.config = dict(config or {})
        self.bytes_read = 0
        self._arrays = dict(arrays)
        self._maps = maps
        self._held = 0
        self._used: set[str] = set()
        self._unpacked: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        self._used.add(name)
        return self.peek(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def peek(self, name: str) -> np.ndarray:
        """The array, without counting it as used.

        Raises:
          WeightsError: there is no such array, or it has no numbers, or is damaged.
        """
        array = self._find(name)
        if isinstance(array, np.ndarray):
            return array
        if name not in self._unpacked:
            self._unpacked[name] = array.unpack()
        return self._unpacked[name]

    def outline(self, name: str) -> np.ndarray:
        """An array of the same shape and type in no memory; counts it as used.

        For finding out what becomes of a shape; its numbers are zeros.

        Raises:
          WeightsError: there is no such array, or it has no numbers.
        """
        self._used.add(name)
        array = self._find(name)
        return np.broadcast_to(np.zeros((), array.dtype), array.shape)

    def shape(self, name: str) -> tuple[int, ...]:
        """The array's shape.

        Raises:
          WeightsError: there is no such array, or it has no numbers.
        """
        return self._find(name).shape

    def _find(self, name: str) -> np.ndarray | Packed:
        if name not in self._arrays:
            raise MissingArray(f"{self.name}: no array {name!r}; the file is not whole")
        array = self._arrays[name]
        if 0 in array.shape:  # whose other sizes no file's length bounds
            raise WeightsError(f"{self.name}: {name!r} is {array.shape}: it is empty")
        return array

    @property
    def unused(self) -> tuple[str, ...]:
        """Names that nobody asked for, in order."""
        return tuple(name for name in self._arrays if name not in self._used)

    def count(self, prefix: str) -> int:
        """How many numbers follow ``prefix`` in names such as ``blocks.{i}.``: depth.

        Raises:
          WeightsError: the numbers are not 0, 1, 2 and so on.
        """
        separators = str.maketrans("./", "  ")
        found = set()
        for name in self._arrays:
            if name.startswith(prefix):
                first = name[len(prefix) :].translate(separators).split(" ")[0]
                if first.isascii() and first.isdigit():
                    found.add(first.lstrip("0") or "0")
        if found != {str(layer) for layer in range(len(found))}:
            raise WeightsError(
                f"{self.name}: layers {prefix}* are not numbered from 0 without gaps"
            )
        return len(found)

    def renamed(self, names: Mapping[str, str]) -> "Arrays":
        """The same arrays; those in ``names`` (old to new) under other names."""
        return Arrays(
            self.name,
            {names.get(name, name): array for name, array in self._arrays.items()},
            config=self.config,
            maps=self._maps,
        )

    def took(self, size: int) -> None:
        """Counts bytes that were read; pages are given back every now and then."""
        self.bytes_read += size
        self._held += size
        if self._held > _HELD:
            self._give_back()

    def release(self) -> None:
        """Gives memory back; what is wanted again is read again."""
        self._unpacked.clear()
        self._give_back()

    def _give_back(self) -> None:
        self._held = 0
        for mapped in self._maps:
            mapped.madvise(mmap.MADV_DONTNEED)


def open_arrays(path: str) -> Arrays:
    """Opens an npz, safetensors or torch file, or a folder that holds one.

    A folder is looked through for ``*.safetensors`` (in several parts with an index,
    too), ``*.npz`` and torch files, in this order, and for ``config.json``.

    Raises:
      WeightsError: nothing is there, the file is damaged or would run code, or it
        declares more than it can have.
    """
    with parsing(pathlib.Path(path), "checkpoint"):
        place = pathlib.Path(path).expanduser()
        if not place.exists():
            raise WeightsError(f"{path}: no such file or folder")
        arrays: dict[str, np.ndarray | Packed] = {}
        maps: tuple[mmap.mmap, ...] = ()
        for file in _files(place):
            if file.stat().st_size == 0:
                raise WeightsError(f"{file}: the file is empty")
            found, mapped = OPENERS[file.suffix](file)
            if repeated := arrays.keys() & found.keys():
                raise WeightsError(f"{file}: {min(repeated)!r} is in another file too")
            arrays |= found
            maps += mapped
            if len(arrays) > MAX_ARRAYS:
                raise WeightsError(f"{path}: more than {MAX_ARRAYS:,} arrays")
        if not arrays:
            raise WeightsError(f"{path}: there are no arrays in it")
        return Arrays(path, arrays, config=_config(place), maps=maps)


def _config(place: pathlib.Path) -> dict[str, Any]:
    file = (place if place.is_dir() else place.parent) / "config.json"
    return _read_json(file) if place.suffix != ".npz" and file.is_file() else {}


def _read_json(file: pathlib.Path) -> dict[str, Any]:
    if file.stat().st_size > MAX_JSON:
        raise WeightsError(f"{file}: larger than {MAX_JSON >> 20} MiB")
    return read_json(file.read_bytes(), file)


def _files(place: pathlib.Path) -> list[pathlib.Path]:
    """The files that hold a checkpoint's arrays."""
    if not place.is_dir():
        if place.is_file() and place.suffix in OPENERS:
            return [place]
        known = ", ".join(OPENERS)
        raise WeightsError(f"{place}: not a file that ends in {known}, nor a folder")
    if (place / INDEX).is_file():
        return _parts(place)
    for suffix in OPENERS:
        found = sorted(file for file in place.glob(f"*{suffix}") if file.is_file())
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise WeightsError(f"{place}: several files ({names}); name one of them")
        if found:
            return found
    raise WeightsError(f"{place}: no {', '.join(OPENERS)} file in it")


def _parts(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files that an index names, all of which are beside it."""
    index = folder / INDEX
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise WeightsError(f"{index}: no weight_map in it")
    parts = sorted({str(name) for name in names.values()})
    for name in parts:
        beside = pathlib.PurePath(name).name == name and (folder / name).is_file()
        if not beside or not name.endswith(".safetensors"):
            raise WeightsError(
                f"{index}: names {name!r}, which is no safetensors file beside it"
            )
    return [folder / name for name in parts]
