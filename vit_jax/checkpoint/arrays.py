"""The arrays of a step, read from storage by tensorstore.

Orbax writes them as zarr arrays in an OCDBT store. Read here without its own restore,
because that believes several metadata files that carry no checksum; names, shapes and
dtypes come from the step's signed meta instead, and the values are digested.
"""

import concurrent.futures
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from etils import epath

from vit_jax import digest
from vit_jax.checkpoint.errors import (
    CheckpointError,
    DamageError,
    first_line,
    judge,
)

_READERS = 8  # leaves read at once


@dataclasses.dataclass(frozen=True)
class LeafMeta:
    """What is known of an array without reading it."""

    dtype: str
    shape: tuple[int, ...]
    digest: str


class StepArrays:
    """The arrays in the ``state`` folder of a step.

    Args:
      folder: the ``state`` folder.
      leaves: what has to be in there.
      alive: called after each array, for whoever watches for progress.
    """

    def __init__(
        self,
        folder: epath.Path,
        leaves: Mapping[str, LeafMeta],
        *,
        alive: Callable[[], None] | None = None,
    ):
        self._leaves = leaves
        self._alive = alive or (lambda: None)
        # Nothing that was read before may answer for what is there now.
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
        path = f"{folder}/"
        base = path if "://" in path else {"driver": "file", "path": path}
        self._store = {"driver": "ocdbt", "base": base}

    def _open(self, name: str) -> Any:
        store = self._store | {"path": f"{name}/"}
        try:
            array = ts.open(
                {"driver": "zarr", "kvstore": store}, context=self._context, read=True
            ).result()
        except Exception as error:
            raise judge(error, name) from None
        leaf = self._leaves[name]
        found = (array.dtype.name, tuple(array.shape))
        if found != (_stored(leaf.dtype), leaf.shape):
            raise DamageError(
                f"{name} is {found[0]}{list(found[1])}, was saved as "
                f"{leaf.dtype}{list(leaf.shape)}"
            )
        return array

    def _read(self, array: Any, name: str, index: tuple[slice, ...]) -> np.ndarray:
        try:
            return np.asarray(array[index].read().result())
        except Exception as error:
            raise _judge_memory(error, name, self._leaves[name]) from None

    def check(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Compares every array with its digest, chunk after chunk.

        At most one chunk, a device's part of an array, is held at a time.

        Returns:
          False if it was ``stopped`` before the end.

        Raises:
          DamageError: something is not what was saved.
          CheckpointError: storage cannot be reached.
        """
        for name in self._leaves:
            if not self.check_leaf(name, stopped):
                return False
            self._alive()
        return True

    def check_leaf(
        self, name: str, stopped: Callable[[], bool] = lambda: False
    ) -> bool:
        """As ``check``, of one array."""
        leaf, array = self._leaves[name], self._open(name)
        found = digest.HostDigest(leaf.dtype, leaf.shape)
        chunk = array.chunk_layout.read_chunk.shape or leaf.shape
        for index in _chunks(leaf.shape, chunk):
            if stopped():
                return False
            block = self._read(array, name, index)
            found.add(block, [s.start for s in index])
        if found.text() != leaf.digest:
            raise differs(name)
        return True

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """One slice per axis of an array."""
        return self._read(self._open(name), name, index)

    def restore(self, abstract: Any) -> Any:
        """The tree of arrays, sharded as ``abstract``; digests are not compared."""
        names, (specs, structure) = digest.names(abstract), jax.tree.flatten(abstract)
        with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
            leaves = list(pool.map(self._restore_leaf, names, specs))
        return jax.tree.unflatten(structure, leaves)

    def _restore_leaf(self, name: str, spec: Any) -> jax.Array:
        array = self._open(name)
        places = spec.sharding.addressable_devices_indices_map(spec.shape)
        blocks: dict[Any, np.ndarray] = {}
        parts = []
        for device, index in places.items():
            key = tuple((s.start, s.stop) for s in index)
            if key not in blocks:
                blocks[key] = self._read(array, name, index)
            try:
                # A block on several devices must not be shared: the step donates.
                parts.append(jax.device_put(blocks[key], device, may_alias=False))
            except Exception as error:
                raise CheckpointError(
                    f"{name} does not fit on {device}: {first_line(error)}"
                ) from None
        self._alive()
        return jax.make_array_from_single_device_arrays(
            spec.shape, spec.sharding, parts
        )


def differs(name: str) -> DamageError:
    """The error for an array whose bytes are not those that were saved."""
    return DamageError(f"the digest of {name} differs")


def _stored(dtype: str) -> str:
    return ts.dtype(np.dtype(dtype) if dtype != "bfloat16" else ts.bfloat16).name


def _judge_memory(error: Exception, name: str, leaf: LeafMeta) -> Exception:
    """Tells want of memory from a damaged header that asks for absurdly much."""
    memory = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
    if memory:
        try:
            np.zeros(leaf.shape, np.uint8).fill(1)
        except MemoryError:
            return CheckpointError(f"not enough memory to read {name}")
    return judge(error, name)


def _chunks(shape: Sequence[int], chunk: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Index ranges of the chunks of a grid over ``shape``."""
    axes = [
        [slice(start, min(start + size, length)) for start in range(0, length, size)]
        for length, size in zip(shape, chunk, strict=True)
    ]
    return itertools.product(*axes)
