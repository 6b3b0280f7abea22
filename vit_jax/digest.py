"""Digests of arrays that do not depend on how the arrays are laid out.

Every element becomes one 32-bit word (two where it has 8 bytes), each word is mixed
with its place in the whole array, and the mixed words are summed modulo 2^32 in two
lanes. A sum does not care who adds what first: any sharding on any number of processes
gives the same total, and a host may add block after block. For a fixed place the mixing
is bijective in the word, so a change of any single word always changes both lanes.
"""

import functools
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

# Odd multipliers and shifts: each line of _mix can be undone, so it is a bijection.
_PLACE = 0x9E3779B9
_FIRST, _SECOND, _THIRD = 0x7FEB352D, 0x846CA68B, 0xC2B2AE35
_TILE = 1 << 16  # words the host mixes at once: its buffers stay in the cache


def names(tree: Any) -> list[str]:
    """Dotted paths of the leaves, in the order of ``jax.tree.leaves``; as orbax's."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in flat]


def start(tree: Any) -> jax.Array:
    """Starts one program that digests every leaf: ``[leaves, 2]`` words, replicated.

    Returns before the devices are done; ``as_texts`` waits.
    """
    leaves = jax.tree.leaves(tree)
    shardings = (getattr(leaf, "sharding", None) for leaf in leaves)
    meshes = [s.mesh for s in shardings if isinstance(s, NamedSharding)]
    # Every process must be able to read the result.
    whole = NamedSharding(meshes[0], PartitionSpec()) if meshes else None
    return _program(whole)(leaves)


def as_texts(digests: jax.Array) -> list[str]:
    """One hexadecimal text for each leaf."""
    return [_text(row) for row in np.asarray(digests)]


def of_tree(tree: Any) -> dict[str, str]:
    """The digest of every leaf by its dotted path."""
    return dict(zip(names(tree), as_texts(start(tree)), strict=True))


@functools.cache
def _program(out: NamedSharding | None) -> Any:
    def digest_leaves(leaves: Sequence[jax.Array]) -> jax.Array:
        rows = [_of_array(leaf) for leaf in leaves]
        return jnp.stack(rows) if rows else jnp.zeros((0, 2), jnp.uint32)

    return jax.jit(digest_leaves, out_shardings=out)


def _of_array(array: jax.Array) -> jax.Array:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    salt = _salt(array.dtype, array.shape)
    words = _device_words(array)
    place = jnp.full(words.shape, salt, jnp.uint32)
    for axis, stride in enumerate(_strides(words.shape)):
        index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        place += index * jnp.uint32(stride * _PLACE % 2**32)
    mixed = words ^ place
    mixed ^= mixed >> 16
    mixed *= jnp.uint32(_FIRST)
    mixed ^= mixed >> 15
    mixed *= jnp.uint32(_SECOND)
    mixed ^= mixed >> 16
    again = (mixed ^ (mixed >> 13)) * jnp.uint32(_THIRD)
    again ^= again >> 16
    zero = jnp.uint32(0)
    # One reduction for both lanes: two of them run 15 times slower on a CPU.
    lanes = jax.lax.reduce(
        (mixed, again),
        (zero, zero),
        lambda left, right: (left[0] + right[0], left[1] + right[1]),
        range(words.ndim),
    )
    return jnp.stack(lanes)


def _device_words(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    _check(array.dtype)
    size = array.dtype.itemsize
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[size]
    # Of 8 bytes this makes a last axis of two words, the low one first.
    return jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)


class HostDigest:
    """The same digest on the host, from blocks of the array in any order.

    Args:
      dtype: of the array; a name such as ``bfloat16`` will do.
      shape: of the whole array.
    """

    def __init__(self, dtype: Any, shape: Sequence[int]):
        self._dtype = jnp.dtype(dtype)
        _check(self._dtype)
        self._shape = tuple(shape)
        self._salt = _salt(self._dtype, self._shape)
        self._lanes = [0, 0]

    def add(self, block: np.ndarray, offset: Sequence[int] | None = None) -> None:
        """Adds a block that begins at ``offset`` of the whole array."""
        if block.dtype != self._dtype:
            raise ValueError(f"a block of {block.dtype} for an array of {self._dtype}")
        if not block.size:
            return
        shape, offset = self._shape, tuple(offset or (0,) * block.ndim)
        words = _host_words(np.ascontiguousarray(block).reshape(block.shape))
        if words.ndim > block.ndim:
            shape, offset = (*shape, 2), (*offset, 0)
        rows, starts = _runs(words, shape, offset)
        width = rows.shape[1]
        for first in range(0, len(rows), max(1, _TILE // width)):
            part = slice(first, first + max(1, _TILE // width))
            for column in range(0, width, _TILE):
                tile = rows[part, column : column + _TILE]
                self._mix(tile, starts[part], column)

    def _mix(self, words: np.ndarray, starts: np.ndarray, column: int) -> None:
        along = np.arange(column, column + words.shape[1], dtype=np.uint32)
        mixed = starts[:, None] + along
        mixed *= np.uint32(_PLACE)
        mixed += np.uint32(self._salt)
        mixed ^= words
        buffer = mixed >> 16
        mixed ^= buffer
        mixed *= np.uint32(_FIRST)
        mixed ^= np.right_shift(mixed, 15, out=buffer)
        mixed *= np.uint32(_SECOND)
        mixed ^= np.right_shift(mixed, 16, out=buffer)
        self._lanes[0] += int(mixed.sum(dtype=np.uint64))
        mixed ^= np.right_shift(mixed, 13, out=buffer)
        mixed *= np.uint32(_THIRD)
        mixed ^= np.right_shift(mixed, 16, out=buffer)
        self._lanes[1] += int(mixed.sum(dtype=np.uint64))

    def text(self) -> str:
        """The digest of what was added so far."""
        return _text([lane % 2**32 for lane in self._lanes])


def _host_words(block: np.ndarray) -> np.ndarray:
    size = block.dtype.itemsize
    unsigned = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}[size]
    if size == 8:
        little = block.view(np.uint64).astype("<u8", copy=False)
        return little.reshape(*block.shape, 1).view(np.uint32)
    return block.view(unsigned) if block.ndim else block.reshape(1).view(unsigned)


def _runs(
    words: np.ndarray, shape: tuple[int, ...], offset: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """A block as rows that lie together in the whole array, and where each begins."""
    if not shape:
        return words.reshape(1, 1), np.zeros(1, np.uint32)
    axis = len(shape) - 1
    while axis > 0 and words.shape[axis] == shape[axis]:
        axis -= 1
    strides = _strides(shape)
    starts = np.zeros((1,) * axis or (1,), np.uint32)
    for outer in range(axis):
        index = np.arange(offset[outer], offset[outer] + words.shape[outer])
        place = (index * strides[outer]).astype(np.uint32)
        starts = starts + place.reshape([-1 if i == outer else 1 for i in range(axis)])
    inner = sum(o * s for o, s in zip(offset[axis:], strides[axis:], strict=True))
    starts = starts.reshape(-1) + np.uint32(inner % 2**32)
    return words.reshape(len(starts), -1), starts


def _strides(shape: Sequence[int]) -> list[int]:
    """Words from one index to the next, for each axis."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _salt(dtype: Any, shape: Sequence[int]) -> int:
    return zlib.crc32(f"{jnp.dtype(dtype).name}{tuple(shape)}".encode())


def _check(dtype: Any) -> None:
    kinds = (jnp.integer, jnp.floating, jnp.bool_)
    if not any(jnp.issubdtype(dtype, kind) for kind in kinds):
        raise TypeError(f"no digest for arrays of {dtype}")


def _text(lanes: Any) -> str:
    return "".join(f"{int(lane):08x}" for lane in lanes)


def sign(content: Mapping[str, Any]) -> str:
    """JSON text of ``content`` that carries a checksum of itself."""
    return json.dumps({"checksum": _checksum(content), "content": dict(content)})


def signed(text: str) -> dict[str, Any]:
    """The content of a text made by ``sign``.

    Raises:
      ValueError: it was changed since, or is no such text.
    """
    try:
        both = json.loads(text)
        content = both["content"]
        right = both["checksum"] == _checksum(content) and len(both) == 2
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("not readable as JSON with a checksum") from None
    if not right:
        raise ValueError("its checksum differs")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    return seal(json.dumps(content, sort_keys=True, separators=(",", ":")))


def seal(text: str) -> str:
    """A short checksum of a text."""
    data = text.encode()
    return f"{zlib.crc32(data):08x}{zlib.adler32(data):08x}"
