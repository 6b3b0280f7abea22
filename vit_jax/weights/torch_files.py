"""Opening torch files: every array a view of the mapped file, nothing read or run.

A file's pickle is looked through before torch sees it, and torch then rebuilds tensors
without their numbers (``weights_only=True``, on its meta device) and says where in the
file these are. Files of torch before 1.6 are read whole.
"""

import io
import mmap
import pathlib
import pickletools
import re
import warnings
from typing import Any

import numpy as np

from vit_jax.weights.files import (
    BFLOAT16,
    MAX_HEADER,
    Opened,
    WeightsError,
    check_total,
    map_file,
    open_zip,
    parsing,
    stored_at,
)

# Which of a checkpoint's dictionaries is the model: the first that is there.
PARTS = ("model_ema", "model", "state_dict", "teacher")

# All that a pickle of tensors, numbers and names refers to. Torch allows more, such as
# what makes a large object of a small file.
_HARMLESS = re.compile(
    r"collections OrderedDict|torch(\.storage)? \w+Storage|torch (Size|device)"
    r"|torch._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)"
    r"|torch\.nn\.parameter Parameter|torch (bfloat16|bool|(float|u?int)\d+)"
)
_OTHER_REFERENCES = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}

# Before zip files: a magic number, two descriptions, the content, keys of the storages,
# each a pickle, and then the numbers.
_OLD_FILE, _OLD_PICKLES = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", 5


def open_torch(file: pathlib.Path) -> Opened:
    """Maps a torch file: its state dict, or one of ``PARTS`` of a larger one.

    Raises:
      WeightsError: it is damaged, or refers to more than tensors, numbers and names.
    """
    try:
        import torch
    except ImportError:
        raise WeightsError(
            f"{file}: torch is needed to read it: pip install torch; or save it as "
            "safetensors"
        ) from None
    with parsing(file, "torch"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own storages, for one
        mapped = map_file(file)
        old = mapped[: len(_OLD_FILE)] == _OLD_FILE
        if old:
            records = {}
            _check_pickles(file, mapped[:MAX_HEADER], _OLD_PICKLES)
        else:
            records = _records(file, mapped)
        tensors = _tensors(torch, file, map_location="meta")
        if all(_offset(tensor) is not None for tensor in tensors.values()):
            arrays: dict[str, Any] = {
                n: _view(tensor, mapped, records) for n, tensor in tensors.items()
            }
        else:  # an old file, or a torch that does not say where numbers are
            tensors = _tensors(torch, file, map_location="cpu", mmap=not old)
            arrays = {name: _numpy(torch, tensor) for name, tensor in tensors.items()}
    return arrays, (mapped,)


def _records(file: pathlib.Path, mapped: mmap.mmap) -> dict[int, int]:
    """Where storages are in a file, and how long; its pickle is looked through."""
    with open_zip(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        (pickled,) = (name for name in members if name.endswith("/data.pkl"))
        folder = pickled.removesuffix("data.pkl")
        if f"{folder}constants.pkl" in members:
            raise WeightsError(
                f"{file}: holds a TorchScript program, which is not run; save the "
                "state dict alone, or as safetensors"
            )
        records = {}
        for name, member in members.items():
            if member.compress_size != member.file_size:
                raise ValueError(f"{name!r} is compressed")
            if name.startswith(f"{folder}data/"):
                records[stored_at(member, mapped)] = member.file_size
        order = f"{folder}byteorder"
        if order in members and archive.read(order) != b"little":
            raise ValueError("its byte order is not little-endian")
        _check_pickles(file, archive.read(pickled), 1)
    return records


def _check_pickles(file: pathlib.Path, content: bytes, count: int) -> None:
    """Refuses pickles that refer to more than arrays are made of."""
    stream = io.BytesIO(content)
    for _ in range(count):
        for code, argument, _ in pickletools.genops(stream):
            if code.name in _OTHER_REFERENCES or (
                code.name == "GLOBAL" and not _HARMLESS.fullmatch(str(argument))
            ):
                raise WeightsError(
                    f"{file}: refers to {argument or code.name}, which is no part of "
                    "an array and might run code; it is not opened. Save the state "
                    "dict alone, or as safetensors"
                )


def _tensors(torch: Any, file: pathlib.Path, **arguments: Any) -> dict[str, Any]:
    content = torch.load(file, weights_only=True, **arguments)
    for part in PARTS:
        if isinstance(content, dict) and isinstance(content.get(part), dict):
            content = content[part]
            break
    if not isinstance(content, dict):
        raise WeightsError(f"{file}: not a dictionary of arrays")
    tensors = {  # beside an epoch, and the arguments of the run
        name: tensor.detach()
        for name, tensor in content.items()
        if isinstance(name, str) and isinstance(tensor, torch.Tensor)
    }
    check_total(file, len(tensors), sum(tensor.nbytes for tensor in tensors.values()))
    return tensors


def _offset(tensor: Any) -> int | None:
    return getattr(tensor.untyped_storage(), "_checkpoint_offset", None)


def _dtype(tensor: Any) -> np.dtype:
    name = str(tensor.dtype).removeprefix("torch.")
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def _view(tensor: Any, mapped: mmap.mmap, records: dict[int, int]) -> np.ndarray:
    """The numbers of a tensor without any, from where they are in the file."""
    dtype, first = _dtype(tensor), _offset(tensor)
    if first is None or records.get(first) != tensor.untyped_storage().nbytes():
        raise ValueError("an array is not where it should be")
    return np.ndarray(
        tuple(tensor.shape),
        dtype,
        memoryview(mapped)[first : first + records[first]],
        offset=tensor.storage_offset() * dtype.itemsize,
        strides=tuple(step * dtype.itemsize for step in tensor.stride()),
    )


def _numpy(torch: Any, tensor: Any) -> np.ndarray:
    """The numbers of a tensor in memory."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy()
