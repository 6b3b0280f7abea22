"""Memory that is used again once nothing looks at it.

New memory of this size comes as untouched pages, each a fault at its first writing: a
third of the time of decoding an image. Python counts who holds an array, and a view of
it, a view of a view, and a JAX array that shares or still copies its memory all do.
"""

import math
import sys
from collections.abc import Callable

import numpy as np

_ALIGN = 64  # bytes


class Reusable:
    """Arrays of uint8 from a few blocks; for one thread at a time.

    Args:
      make: ``size -> flat uint8 array``.
      most: blocks kept; where all are in use, a new one takes the oldest's place.
    """

    def __init__(
        self,
        make: Callable[[int], np.ndarray] = lambda size: np.empty(size, np.uint8),
        *,
        most: int = 1,
    ):
        self._make, self._most = make, most
        self._blocks: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array with anything in it, whose memory nothing else looks at."""
        size = math.prod(shape)
        for index in range(len(self._blocks)):
            if _references(self._blocks, index) == _UNUSED:
                if self._blocks[index].size >= size + _ALIGN:
                    return _aligned(self._blocks[index], shape)
                del self._blocks[index]  # smaller than what is wanted now
                break
        if len(self._blocks) == self._most:
            del self._blocks[0]  # left to whoever holds it
        self._blocks.append(self._make(size + _ALIGN))
        return _aligned(self._blocks[-1], shape)


def _aligned(block: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A part of a block that JAX on a CPU can use as it is, without a copy."""
    start = -block.__array_interface__["data"][0] % _ALIGN
    return block[start : start + math.prod(shape)].reshape(shape)


def _references(blocks: list[np.ndarray], index: int) -> int:
    return sys.getrefcount(blocks[index])


_UNUSED = _references([np.empty(1, np.uint8)], 0)  # versions of Python differ
