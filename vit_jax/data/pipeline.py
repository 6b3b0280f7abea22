"""From a source to global uint8 batches on the mesh, as a function of (seed, step).

The position in the data is the step: nothing is kept between steps, so a run resumes
by asking for the next one. Each process loads the rows that its devices hold.
"""

import threading
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np

from vit_jax.data.loader import Loader, Source, StreamSource, local_ranges
from vit_jax.data.order import draws_per_step, epoch_order, example_ids, row_rng
from vit_jax.data.prefetch import prefetch
from vit_jax.data.rows import BadExample, Deferred

__all__ = [
    "BadExample",
    "Deferred",
    "Loader",
    "Source",
    "StreamSource",
    "epoch_order",
    "eval_batches",
    "example_ids",
    "local_ranges",
    "prefetch",
    "row_rng",
    "train_batches",
]


def train_batches(
    loader: Loader, *, start: int, stop: int, shuffle: bool, depth: int
) -> Generator[dict[str, jax.Array]]:
    """Batches of the steps ``start`` to ``stop - 1``, prefetched onto the devices."""
    stopped = threading.Event()
    size, repeats = loader.batch_size, loader.repeats
    draws = draws_per_step(size, repeats)
    read = _reader(loader, start * draws, draws, shuffle=shuffle)

    def make(step: int) -> dict[str, jax.Array]:
        if shuffle:
            loader.order_ahead(step)
        if read is None:
            ids, examples = loader.ids(step, shuffle=shuffle), None
        else:
            ids, examples = read()
            ids, examples = ids * repeats, examples * repeats
        return loader.batch(ids, step * size, examples=examples, stopped=stopped)

    return prefetch(make, start, stop, depth, stopped=stopped)


def eval_batches(
    loader: Loader, *, depth: int = 2, epoch: int = 0
) -> Generator[dict[str, jax.Array]]:
    """The whole source once, in order; the last batch is padded.

    Adds ``mask``, bool ``[B]``, True on real rows that are not damaged; padding repeats
    the last example. A transform that draws does so anew in each ``epoch``.
    """
    stopped = threading.Event()
    size, total = loader.batch_size, len(loader.source)
    first = epoch * total
    read = _reader(loader, 0, size, shuffle=False, total=total)

    def make(number: int) -> dict[str, jax.Array]:
        positions = np.arange(number * size, (number + 1) * size)
        examples = None
        if read is None:
            ids = loader.ids_at(np.minimum(positions, total - 1), shuffle=False)
        else:
            ids, examples = read()
        return loader.masked_batch(
            ids,
            positions < total,
            first_position=first + number * size,
            examples=examples,
            stopped=stopped,
        )

    return prefetch(make, 0, -(-total // size), depth, stopped=stopped)


def _reader(
    loader: Loader, start: int, count: int, *, shuffle: bool, total: int | None = None
) -> Callable[[], tuple[list[int], list[dict[str, Any]]]] | None:
    """Takes ``count`` examples from a stream at a time; None for random access.

    Every process reads the whole stream and decodes its own rows. After ``total``
    examples the last is repeated.
    """
    if not loader.streams:
        return None
    source: Any = loader.source
    stream: Any = None
    taken: list[tuple[int, dict[str, Any]]] = []
    left = total

    def read() -> tuple[list[int], list[dict[str, Any]]]:
        nonlocal stream, taken, left
        if stream is None:  # in the thread that reads: to get there may take a while
            stream = source.stream(start, seed=loader.seed, shuffle=shuffle)
        last = taken[-1:]
        number = count if left is None else min(count, left)
        taken = [next(stream) for _ in range(number)]
        if left is not None:
            left -= number
        taken += (taken[-1:] or last) * (count - number)
        return [id for id, _ in taken], [example for _, example in taken]

    return read
