"""Opening safetensors and npz files: every array a view of the mapped file.

Nothing is read but headers, nothing in a file is run (npz without pickle), and every
size is checked before it is believed: what a file makes a reader allocate is bounded
by the file's own length.
"""

import contextlib
import dataclasses
import functools
import io
import json
import math
import mmap
import pathlib
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

MAX_ARRAYS = 20_000
MAX_HEADER = 2 << 20  # bytes of names, types and shapes; a thousand arrays have 0.1 MiB
MAX_JSON = 8 << 20  # bytes of a config.json with the names of 20,000 classes
MAX_BYTES = 1 << 40  # of all arrays together: larger than any ViT, smaller than a bomb
# Trained weights hardly compress. Some that are mostly zeros do, and small files may.
MAX_UNPACKING, ALWAYS_FINE = 16, 64 << 20

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

_SAFETENSORS_TYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": BFLOAT16,
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_MAX_MESSAGE = 1000
_CHUNK = 1 << 20


class WeightsError(ValueError):
    """A weights file that cannot be used; the message is a line that says what to do.

    Names in a file may hold anything, so what does not print is escaped.
    """

    def __init__(self, message: str):
        line = "".join(
            letter if letter.isprintable() else ascii(letter)[1:-1]
            for letter in message[:_MAX_MESSAGE]
        )
        super().__init__(line + " ..." * (len(message) > _MAX_MESSAGE))


@dataclasses.dataclass(frozen=True)
class Packed:
    """A compressed array: its shape is known, its numbers are unpacked when wanted."""

    shape: tuple[int, ...]
    dtype: np.dtype
    unpack: Callable[[], np.ndarray]


Opened = tuple[dict[str, np.ndarray | Packed], tuple[mmap.mmap, ...]]


@contextlib.contextmanager
def parsing(file: pathlib.Path, kind: str) -> Iterator[None]:
    """Says that a file is damaged, whatever its parser raises.

    Parsers of damaged files raise nearly anything (decompressors, struct, ast and the
    memory allocator among them), so that a list of exceptions would miss some.
    """
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{file}: not a whole {kind} file: {reason}") from None


def map_file(file: pathlib.Path) -> mmap.mmap:
    """The file as memory, without reading it."""
    with file.open("rb") as handle:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)


def read_json(text: bytes | str, name: pathlib.Path) -> dict[str, Any]:
    """A JSON object with finite numbers, in which no key is twice.

    Raises:
      WeightsError: it is none.
    """
    with parsing(name, "JSON"):
        content = json.loads(
            text,
            object_pairs_hook=_once,
            parse_float=_finite,
            parse_int=_integer,
            parse_constant=_finite,
        )
    if not isinstance(content, dict):
        raise WeightsError(f"{name}: not a JSON object")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is in it twice")
    return found


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"{number[:20]} is not a finite number")
    return float(number)


def _integer(number: str) -> int | float:
    return int(number) if len(number) < 20 else _finite(number)


def check_total(file: pathlib.Path, arrays: int, size: int) -> None:
    """Refuses a file that says it holds more than a file of its length does."""
    if arrays > MAX_ARRAYS:
        raise WeightsError(f"{file}: {arrays:,} arrays; at most {MAX_ARRAYS:,}")
    length = file.stat().st_size
    if size > min(MAX_BYTES, ALWAYS_FINE + MAX_UNPACKING * length):
        raise WeightsError(
            f"{file}: {length:,} bytes that would unpack to {size:,}; no trained "
            "weights do, so it is not opened"
        )


def check_array(where: str, shape: tuple[Any, ...], size: int, room: int) -> None:
    """Refuses an array whose numbers, of ``size`` bytes each, do not fill its room."""
    if size < 1 or any(type(length) is not int or length < 0 for length in shape):
        raise WeightsError(f"{where} has no valid shape")
    declared = math.prod(shape) * size
    if declared != room:
        raise WeightsError(
            f"{where} is {shape}, which needs {declared:,} bytes, and the file has "
            f"{room:,} for it; it is damaged"
        )


def open_safetensors(file: pathlib.Path) -> Opened:
    """Maps a safetensors file.

    Raises:
      WeightsError: the file is damaged, or has numbers of an unknown type.
    """
    arrays: dict[str, np.ndarray | Packed] = {}
    with parsing(file, "safetensors"):
        mapped = map_file(file)
        (length,) = struct.unpack("<Q", mapped[:8])
        if length > min(MAX_HEADER, len(mapped) - 8):
            raise ValueError(f"a header of {length:,} bytes in {len(mapped):,}")
        start = 8 + length
        header = read_json(mapped[8:start], file)
        header.pop("__metadata__", None)
        check_total(file, len(header), len(mapped) - start)
        filled = 0
        for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
            kind, (begin, end) = header[name]["dtype"], header[name]["data_offsets"]
            where = f"{file}: {name!r}"
            if kind not in _SAFETENSORS_TYPES:
                known = ", ".join(_SAFETENSORS_TYPES)
                raise WeightsError(f"{where} has type {kind}; known: {known}")
            if type(begin) is not int or type(end) is not int:
                raise WeightsError(f"{where} has offsets that are not whole numbers")
            if begin != filled:
                raise WeightsError(f"{where} does not begin where another one ends")
            shape, dtype = tuple(header[name]["shape"]), _SAFETENSORS_TYPES[kind]
            check_array(where, shape, dtype.itemsize, end - begin)
            arrays[name] = np.ndarray(shape, dtype, mapped, offset=start + begin)
            filled = end
        if start + filled != len(mapped):
            raise ValueError(f"arrays of {filled:,} bytes in {len(mapped) - start:,}")
    return {name: arrays[name] for name in header}, (mapped,)


class _Reader(io.FileIO):
    """A file that is read in pieces: no number in it makes one read allocate much."""

    def read(self, size: int | None = -1) -> bytes:
        some = MAX_HEADER + 1 if size is None or size < 0 else min(size, MAX_HEADER + 1)
        piece = super().read(some) or b""
        if len(piece) > MAX_HEADER:
            raise ValueError("a part of its directory is too large")
        return piece


@contextlib.contextmanager
def open_zip(file: pathlib.Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive of members with different names, together of a fair size.

    Raises:
      WeightsError: they are not, or are encrypted or compressed in unusual ways.
    """
    with _Reader(str(file)) as reader, zipfile.ZipFile(reader) as archive:
        members = archive.infolist()
        check_total(file, len(members), sum(member.file_size for member in members))
        names = set()
        for member in members:
            where = f"{file}: {member.filename!r}"
            stored = member.compress_type == zipfile.ZIP_STORED
            if member.filename in names:
                raise WeightsError(f"{where} is in it twice")
            if member.flag_bits & 1:
                raise WeightsError(f"{where} is encrypted")
            # The others' decoders have no bound on what a few bytes may become.
            if not stored and member.compress_type != zipfile.ZIP_DEFLATED:
                raise WeightsError(f"{where} is compressed in a way that is not read")
            if stored and member.compress_size != member.file_size:
                raise WeightsError(f"{where} has two lengths; it is damaged")
            names.add(member.filename)
        yield archive


def stored_at(member: zipfile.ZipInfo, mapped: mmap.mmap) -> int:
    """Where the bytes of an uncompressed member are in its file."""
    local = member.header_offset
    names = struct.unpack("<HH", mapped[local + 26 : local + 30])
    first = local + 30 + sum(names)
    if not 0 <= first <= len(mapped) - member.file_size:
        raise ValueError(f"{member.filename!r} ends behind it")
    return first


def open_npz(file: pathlib.Path) -> Opened:
    """Maps an npz file; compressed members are unpacked when they are wanted.

    Raises:
      WeightsError: the file is damaged, or has pickled objects.
    """
    arrays: dict[str, np.ndarray | Packed] = {}
    with parsing(file, "npz"), open_zip(file) as archive:
        mapped = map_file(file)
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise WeightsError(f"{file}: {name!r} is in it twice")
            arrays[name] = _open_npy(file, archive, member, mapped)
    return arrays, (mapped,)


def _open_npy(
    file: pathlib.Path,
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    mapped: mmap.mmap,
) -> np.ndarray | Packed:
    """One array of an npz file: a view where it is stored as it is."""
    where = f"{file}: {member.filename!r}"
    with archive.open(member) as handle:
        # Longer than any header that numpy accepts, once it has read all of it.
        head = io.BytesIO(handle.read(1 << 15))
    shape, fortran, dtype = _read_header(where, head)
    if dtype.hasobject:
        raise WeightsError(
            f"{where} holds pickled Python objects, which would run code; it is not "
            "opened. Save the arrays as numbers"
        )
    if dtype == np.dtype("V2"):  # numpy writes bfloat16 without its name
        dtype = BFLOAT16
    if dtype.fields or dtype.subdtype or (dtype.kind == "V" and dtype != BFLOAT16):
        raise WeightsError(f"{where} has type {dtype}; known: numbers")
    start, order = head.tell(), "F" if fortran else "C"
    check_array(where, shape, dtype.itemsize, member.file_size - start)
    if member.compress_type == zipfile.ZIP_STORED:
        offset = stored_at(member, mapped) + start
        return np.ndarray(shape, dtype, mapped, offset=offset, order=order)
    find = functools.partial(np.ndarray, shape, dtype, offset=start, order=order)
    return Packed(shape, dtype, functools.partial(_unpack, file, member, find))


def _unpack(
    file: pathlib.Path, member: zipfile.ZipInfo, find: Callable[..., np.ndarray]
) -> np.ndarray:
    """The array of a compressed member; its checksum is compared."""
    content = mmap.mmap(-1, member.file_size)  # is given back to the system at once
    with (
        parsing(file, "npz"),
        open_zip(file) as archive,
        archive.open(member) as packed,
    ):
        for first in range(0, len(content), _CHUNK):
            piece = memoryview(content)[first : first + _CHUNK]
            if packed.readinto(piece) != len(piece):  # pyright: ignore
                raise ValueError(f"{member.filename!r} is cut short")
    return find(buffer=content)


def _read_header(where: str, head: io.BytesIO) -> tuple[tuple, bool, np.dtype]:
    """Shape, whether in Fortran's order, and type of an npy file."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        version = np.lib.format.read_magic(head)
        with warnings.catch_warnings():  # of how Python 2 wrote it, for one
            warnings.simplefilter("ignore")
            return readers[version](head)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(f"{where} is not an array: {reason}") from None
