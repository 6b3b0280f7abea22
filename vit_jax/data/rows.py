"""Loading rows of a batch: read, decode, augment; what is damaged is reported.

This is what threads and worker processes run; it imports no JAX.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vit_jax.data.errors import BadExampleError, DataError
from vit_jax.data.order import row_rng
from vit_jax.data.retry import patiently

Transform = Callable[[Any, np.random.Generator], np.ndarray]
Label = int | np.ndarray  # a class; or several, as `each_once` makes them


class Row(NamedTuple):
    """An example that is to stand at a position of the run."""

    id: int
    position: int
    example: dict[str, Any] | None = None  # already read, from a stream


class BadExample(NamedTuple):
    """A damaged example and why it is one."""

    id: int
    where: str  # file and record
    reason: str
    position: int = 0  # of the row that met it first

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class Chunk(NamedTuple):
    """What became of some rows: labels, the damaged, and pixels if not written."""

    labels: list[Label]
    bad: list[BadExample | None]
    pixels: list[np.ndarray | None]


class Deferred:
    """A transform made where it is used, so that it can be sent to another process.

    Args:
      make: a function of a module, which makes the transform.
      takes_rng: whether the transform takes one; evaluation's does not.
      takes_sound: whether it takes ``sound=True`` for files that were decoded before.
      settings: keyword arguments of ``make``.
    """

    def __init__(
        self,
        make: Callable[..., Callable],
        *,
        takes_rng: bool = True,
        takes_sound: bool = False,
        **settings: Any,
    ):
        self.takes_sound = takes_sound
        self._make, self._takes_rng, self._settings = make, takes_rng, settings
        self._made  # noqa: B018  # wrong settings are told here

    @functools.cached_property
    def _made(self) -> Callable:
        return self._make(**self._settings)

    def __call__(
        self, image: Any, rng: np.random.Generator, **sound: bool
    ) -> np.ndarray:
        return self._made(image, rng, **sound) if self._takes_rng else self._made(image)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.pop("_made", None)
        return state


class RowLoader:
    """Loads rows of a source; the same anywhere, given (seed, id, position)."""

    def __init__(self, source: Any, load: Transform, seed: int):
        self.source, self.load, self.seed = source, load, seed
        self._sound = self._none_decoded()

    def chunk(self, rows: Sequence[Row], out: np.ndarray | None) -> Chunk:
        """Loads rows into ``out``, or into arrays of their own where it is None.

        All are read before one is decoded: each kind of work leaves its code and data
        in the processor's caches for the next, which is a tenth of the time of all.
        """
        done = Chunk([], [], [])
        for number, (row, read) in enumerate([(row, self._try(row)) for row in rows]):
            pixels, label, bad = self._decode(row, *read)
            if pixels is not None and out is not None:
                store(out, number, pixels)
                pixels = None
            done.labels.append(label)
            done.bad.append(bad)
            done.pixels.append(pixels)
        return done

    def row(self, row: Row) -> tuple[np.ndarray | None, Label, BadExample | None]:
        """Pixels and label, or what is wrong with the example."""
        return self._decode(row, *self._try(row))

    def _try(self, row: Row) -> tuple[Any, np.random.Generator]:
        """The example, or its error, and the row's randomness."""
        try:
            example = self._read(row.id) if row.example is None else row.example
        except BadExampleError as error:
            example = error
        except Exception as error:
            self._say_where(error, row.id)
            raise
        return example, row_rng(self.seed, row.position)

    def _decode(
        self, row: Row, example: Any, rng: np.random.Generator
    ) -> tuple[np.ndarray | None, Label, BadExample | None]:
        try:
            if isinstance(example, BadExampleError):
                raise example
            pixels = self._transform(row.id, example["image"], rng)
            return pixels, _label(example["label"]), None
        except BadExampleError as error:
            where = self.where(row.id)
            reason = str(error).removeprefix(where).removeprefix(": ")
            return None, 0, BadExample(row.id, where, reason, row.position)
        except Exception as error:
            self._say_where(error, row.id)
            raise

    def _say_where(self, error: Exception, id: int) -> None:
        """Tells an error that is no word about the data at which example it came."""
        if not isinstance(error, DataError):
            with contextlib.suppress(Exception):
                error.add_note(f"while loading {self.where(id)}")

    def _transform(self, id: int, image: Any, rng: np.random.Generator) -> np.ndarray:
        if self._sound is None or id >= len(self._sound):
            return self.load(image, rng)
        if self._sound[id]:
            return self.load(image, rng, sound=True)  # type: ignore
        pixels = self.load(image, rng)
        self._sound[id] = 1
        return pixels

    def _none_decoded(self) -> bytearray | None:
        """Which examples this process has decoded whole without a complaint."""
        if getattr(self.load, "takes_sound", False):
            return bytearray(len(self.source))
        return None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sound": None}  # a megabyte for a million examples

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._sound = self._none_decoded()

    def where(self, id: int) -> str:
        """File and record of an example."""
        return self.source.where(id)

    def _read(self, id: int) -> dict[str, Any]:
        """The example; what storage does wrong is not taken for the example's fault."""
        return patiently(lambda: self.source[id], lambda: self.where(id))


def _label(label: Any) -> Label:
    return label if isinstance(label, np.ndarray) and label.ndim else int(label)


def each_once(labels: np.ndarray) -> np.ndarray:
    """Several labels an example, ``[N, M]``, as batches hold them: int32, -1 for none.

    A row has the number of each of its classes once, the largest first, and -1 behind
    them. This is the one form in which sources give several labels.
    """
    falling = -np.sort(-labels.astype(np.int32), axis=1)
    again = np.zeros(falling.shape, bool)
    again[:, 1:] = falling[:, 1:] == falling[:, :-1]
    falling[again] = -1
    return -np.sort(-falling, axis=1)


def stack_labels(labels: Sequence[Label], shape: tuple[int, ...]) -> np.ndarray:
    """Labels of a shape as one array; a damaged example has class 0, or no class."""
    if not shape:
        return np.asarray(labels, np.int32)
    stacked = np.full((len(labels), *shape), -1, np.int32)
    for number, label in enumerate(labels):
        if isinstance(label, np.ndarray):
            stacked[number] = label
    return stacked


def store(out: np.ndarray, number: int, pixels: np.ndarray) -> None:
    """Writes an image into a batch; assignment alone would broadcast a wrong shape."""
    if pixels.shape != out.shape[1:] or pixels.dtype != np.uint8:
        raise ValueError(
            f"the transform made {pixels.dtype} {list(pixels.shape)}, the rows before "
            f"it are uint8 {list(out.shape[1:])}"
        )
    out[number] = pixels


def split(num_rows: int, num_loaders: int) -> list[slice]:
    """A few chunks a thread or process: even work without a task an image."""
    size = max(1, -(-num_rows // (4 * num_loaders)))
    return [slice(low, low + size) for low in range(0, num_rows, size)]
