"""Formats as tables: which of their arrays holds which of our parameters, and how.

A `Row` says both directions, so that reading and writing a format cannot disagree.
Decoding makes views only: nothing is read before a parameter's slice is asked for.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.weights.arrays import Arrays
from vit_jax.weights.files import BFLOAT16, WeightsError

BLOCKS = "blocks/"


@dataclasses.dataclass(frozen=True)
class Codec:
    """How an array of theirs holds parameters of ours.

    ``decode`` takes their array (a view of a file) and returns ours, in the order of
    `Row.ours`, as views; ``encode`` takes ours and returns theirs.
    """

    decode: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    encode: Callable[..., np.ndarray]


@dataclasses.dataclass(frozen=True)
class Row:
    """One array of theirs and what it holds.

    Args:
      theirs: its name; ``{i}`` stands for the layer.
      ours: paths within the ViT, such as ``blocks/attention/query/kernel``; several
        where theirs packs several.
      codec: the two conversions, of one layer where ``theirs`` has ``{i}``.
      stacked: theirs holds all layers on a leading axis; the codec is of one layer.
    """

    theirs: str
    ours: tuple[str, ...]
    codec: Codec
    stacked: bool = False


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter of ours, to be read slice by slice.

    ``read(index)`` returns the float32 numbers of one slice per axis.
    """

    shape: tuple[int, ...]
    read: Callable[[tuple[slice, ...]], np.ndarray]


def whole(leaf: Leaf) -> np.ndarray:
    """All of a leaf's numbers."""
    return leaf.read(tuple(slice(0, size) for size in leaf.shape))


def constant(array: np.ndarray) -> Leaf:
    """A leaf whose numbers are in memory."""
    array = np.asarray(array, np.float32)
    return Leaf(array.shape, lambda index: np.array(array[index]))


def decode(arrays: Arrays, rows: Sequence[Row], depth: int) -> dict[str, Leaf]:
    """Our parameters by path, as ``rows`` find them in ``arrays``.

    Raises:
      WeightsError: arrays are missing (all are named), have another shape, or have no
        floating-point numbers.
    """
    if depth < 1:
        raise WeightsError(f"{arrays.name}: there are no layers in it")
    missing = [
        name for row in rows for name in _names(row, depth) if name not in arrays
    ]
    if missing:
        raise WeightsError(
            f"{arrays.name}: {len(missing)} arrays are missing: {_some(missing)}"
        )
    return {
        path: _leaf(arrays, row, position, _sources(arrays, row, depth))
        for row in rows
        for position, path in enumerate(row.ours)
    }


def _names(row: Row, depth: int) -> list[str]:
    """Names of a row's arrays: one, or one a layer."""
    if "{i}" not in row.theirs:
        return [row.theirs]
    return [row.theirs.replace("{i}", str(layer)) for layer in range(depth)]


def _some(names: Sequence[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


# A name, and which layer of its array it is of, or all of it.
Source = tuple[str, int | None]


def _sources(arrays: Arrays, row: Row, depth: int) -> list[Source]:
    """Where the layers of a row are, or the only array."""
    if not row.stacked:
        return [(name, None) for name in _names(row, depth)]
    shape = arrays.shape(row.theirs)
    if shape[:1] != (depth,):
        raise WeightsError(
            f"{arrays.name}: {row.theirs} is {shape}; its first axis should be the "
            f"{depth} layers"
        )
    return [(row.theirs, layer) for layer in range(depth)]


View = Callable[[Callable[[str], np.ndarray], Source], np.ndarray]


def _leaf(arrays: Arrays, row: Row, position: int, sources: Sequence[Source]) -> Leaf:
    """A leaf over the views of its layers, or over the only view."""
    path = row.ours[position]
    view = functools.partial(_view, row, position)
    shapes = {_shape(arrays, row, source, view) for source in sources}
    if len(shapes) != 1:
        several = " and ".join(map(str, sorted(shapes)))
        raise WeightsError(f"{arrays.name}: {path} has layers of {several}")
    shape = shapes.pop()
    if not path.startswith(BLOCKS):
        return Leaf(shape, functools.partial(_read, arrays, view, sources[0]))
    read = functools.partial(_read_layers, arrays, view, sources)
    return Leaf((len(sources), *shape), read)


def _view(
    row: Row, position: int, find: Callable[[str], np.ndarray], source: Source
) -> np.ndarray:
    """One of our parameters as a view of their array."""
    name, layer = source
    array = find(name) if layer is None else find(name)[layer]
    return row.codec.decode(array)[position]


def _read(
    arrays: Arrays, view: View, source: Source, index: tuple[slice, ...]
) -> np.ndarray:
    """The numbers of a slice."""
    part = view(arrays.peek, source)[index]
    numbers = np.empty(part.shape, np.float32)
    _copy(arrays, part, numbers)
    return numbers


def _read_layers(
    arrays: Arrays, view: View, sources: Sequence[Source], index: tuple[slice, ...]
) -> np.ndarray:
    """The numbers of a slice of a stack, a layer after another."""
    chosen, inside = sources[index[0]], index[1:]
    shape = view(arrays.outline, chosen[0])[inside].shape
    numbers = np.empty((len(chosen), *shape), np.float32)
    for layer, source in enumerate(chosen):
        part = view(arrays.peek, source)[inside]
        _copy(arrays, part, numbers[layer : layer + 1])
    return numbers


def _copy(arrays: Arrays, part: np.ndarray, numbers: np.ndarray) -> None:
    with np.errstate(all="ignore"):  # doubles beyond float32 become infinite
        numbers[...] = part
    arrays.took(part.nbytes)


def _shape(arrays: Arrays, row: Row, source: Source, view: View) -> tuple[int, ...]:
    """Our shape of one array of theirs, found without reading it."""
    name = source[0]
    dtype = arrays.outline(name).dtype
    if dtype.kind != "f" and dtype != BFLOAT16:
        raise WeightsError(
            f"{arrays.name}: {name} has type {dtype}; parameters are floating-point "
            "numbers"
        )
    try:
        return view(arrays.outline, source).shape
    except (ValueError, IndexError):  # a reshape or transpose that does not fit
        raise WeightsError(
            f"{arrays.name}: {name} is {arrays.shape(name)}, which cannot be "
            + " and ".join(row.ours)
        ) from None


def encode(
    params: Mapping[str, Any], rows: Sequence[Row]
) -> Iterator[tuple[str, np.ndarray]]:
    """Their arrays by name from our parameters by path, one at a time.

    Raises:
      WeightsError: parameters that no row writes (all are named).
    """
    written = {path for row in rows for path in row.ours}
    if unwritten := sorted(params.keys() - written):
        raise WeightsError(f"the format has no place for {_some(unwritten)}")
    for row in rows:
        ours = [np.asarray(params[path]) for path in row.ours]
        if not row.ours[0].startswith(BLOCKS):
            yield row.theirs, np.ascontiguousarray(row.codec.encode(*ours))
            continue
        layers = (
            np.ascontiguousarray(row.codec.encode(*layer))
            for layer in zip(*ours, strict=True)
        )
        if row.stacked:
            yield row.theirs, np.stack(list(layers))
        else:
            for layer, array in enumerate(layers):
                yield row.theirs.replace("{i}", str(layer)), array
