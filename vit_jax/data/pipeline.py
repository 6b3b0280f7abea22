"""From a source to global uint8 batches on the mesh, as a function of (seed, step).

The position in the data is the step: nothing is kept between steps, so a run resumes
by asking for the next one. Each process loads the rows that its devices hold.
"""

import functools
import os
import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

Transform = Callable[[Any, np.random.Generator], np.ndarray]


@runtime_checkable
class Source(Protocol):
    """Random access to examples: ``{"image": bytes or uint8 array, "label": int}``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The order of one epoch: a permutation drawn from (seed, epoch)."""
    rng = _generator(seed, epoch, purpose=0)
    order = rng.permutation(num_examples)
    order.flags.writeable = False  # shared by all callers
    return order


def example_ids(
    step: int, *, seed: int, batch_size: int, num_examples: int, shuffle: bool
) -> np.ndarray:
    """Ids of the examples of step ``step`` (0-based), ``[batch_size]``.

    Epochs follow each other without a gap: a batch may hold the end of one and the
    beginning of the next, and no example is dropped.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = np.divmod(positions, num_examples)
    if not shuffle:
        return offsets
    ids = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        ids[here] = epoch_order(seed, int(epoch), num_examples)[offsets[here]]
    return ids


def row_rng(seed: int, position: int) -> np.random.Generator:
    """Randomness of one row: (seed, position in the whole run) and nothing else."""
    return _generator(seed, position, purpose=1)


def _generator(seed: int, number: int, *, purpose: int) -> np.random.Generator:
    # A uint64 array: a list of Python numbers this large would pass through float64,
    # and neighbouring rows would share their key.
    key = np.array([seed, (purpose << 63) + number], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def local_ranges(
    sharding: jax.sharding.Sharding, batch_size: int
) -> list[tuple[int, int]]:
    """Ranges of global rows that this process's devices hold, each once, in order."""
    indices = sharding.addressable_devices_indices_map((batch_size,)).values()
    return sorted({index[0].indices(batch_size)[:2] for index in indices if index})


class Loader:
    """Loads the rows of a global batch in threads and lays them out on the mesh.

    Args:
      source: the examples.
      load: ``(image, rng) -> uint8 [H, W, C]``: decoding and augmentation.
      sharding: of the batch axis over the mesh.
      batch_size: global rows.
      seed: of the run.
      threads: 0 means one a core.
    """

    def __init__(
        self,
        source: Source,
        load: Transform,
        *,
        sharding: jax.sharding.Sharding,
        batch_size: int,
        seed: int,
        threads: int = 0,
    ):
        self.source, self.load, self.sharding = source, load, sharding
        self.batch_size, self.seed = batch_size, seed
        self._threads = threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="load")
        self._ranges = local_ranges(sharding, batch_size)

    def _load_rows(self, ids: np.ndarray, first_position: int, rows: range) -> list:
        loaded = []
        for row in rows:
            example = self.source[int(ids[row])]
            rng = row_rng(self.seed, first_position + row)
            loaded.append((self.load(example["image"], rng), example["label"]))
        return loaded

    def batch(self, ids: np.ndarray, first_position: int) -> dict[str, jax.Array]:
        """Global ``image`` uint8 ``[B, H, W, C]`` and ``label`` int32 ``[B]``."""
        jobs = []
        for start, stop in self._ranges:
            # A few chunks a thread: even work without a task an image.
            size = max(1, -(-(stop - start) // (4 * self._threads)))
            for low in range(start, stop, size):
                rows = range(low, min(low + size, stop))
                job = self._pool.submit(self._load_rows, ids, first_position, rows)
                jobs.append((rows, job))
        local: dict[int, tuple[np.ndarray, int]] = {}
        for rows, job in jobs:
            local.update(zip(rows, job.result(), strict=True))

        def block(column: int, dtype: Any, index: Any) -> np.ndarray:
            rows = range(*index[0].indices(self.batch_size))
            return np.asarray([local[row][column] for row in rows], dtype)

        image_shape = next(iter(local.values()))[0].shape
        make = jax.make_array_from_callback
        image = functools.partial(block, 0, np.uint8)
        label = functools.partial(block, 1, np.int32)
        shape = (self.batch_size,)
        return {
            "image": make((*shape, *image_shape), self.sharding, image),
            "label": make(shape, self.sharding, label),
        }

    def take_bad(self) -> list:
        """Damaged examples met since the last call."""
        return []

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def prefetch(
    make: Callable[[int], Any], start: int, stop: int, depth: int
) -> Generator:
    """Yields ``make(start) .. make(stop - 1)``, ``depth`` ahead, from a thread.

    An exception in ``make`` is raised at its place in the sequence. Closing the
    iterator ends the thread.
    """
    ready: queue.Queue = queue.Queue(maxsize=max(1, depth))
    stopped = threading.Event()

    def put(item: tuple) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for step in range(start, stop):
                put((make(step), None))
                if stopped.is_set():
                    return
        except BaseException as error:  # handed over, not swallowed
            put((None, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            item, error = ready.get()
            if error is not None:
                raise error
            yield item
    finally:
        stopped.set()
        thread.join()


def train_batches(
    loader: Loader, *, start: int, stop: int, shuffle: bool, depth: int
) -> Generator[dict[str, jax.Array]]:
    """Batches of the steps ``start`` to ``stop - 1``, prefetched onto the devices."""

    def make(step: int) -> dict[str, jax.Array]:
        ids = example_ids(
            step,
            seed=loader.seed,
            batch_size=loader.batch_size,
            num_examples=len(loader.source),
            shuffle=shuffle,
        )
        return loader.batch(ids, step * loader.batch_size)

    return prefetch(make, start, stop, depth)


def eval_batches(loader: Loader, *, depth: int = 2) -> Generator[dict[str, jax.Array]]:
    """The whole source once, in order; the last batch is padded.

    Adds ``mask``, bool ``[B]``, True on real rows; padding repeats the last example.
    """
    size, total = loader.batch_size, len(loader.source)

    def make(number: int) -> dict[str, jax.Array]:
        positions = np.arange(number * size, (number + 1) * size)
        batch = loader.batch(np.minimum(positions, total - 1), int(positions[0]))
        real = positions < total
        batch["mask"] = jax.make_array_from_callback(
            (size,), loader.sharding, lambda index: real[index]
        )
        return batch

    return prefetch(make, 0, -(-total // size), depth)
