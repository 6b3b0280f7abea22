"""Rows of a batch by threads of this process.

Decoding and resizing leave the interpreter to others, so that threads use every core.
"""

import functools
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from vit_jax.data.memory import Reusable
from vit_jax.data.prefetch import Stopped
from vit_jax.data.rows import BadExample, Chunk, Label, Row, RowLoader, split, store


class Threads:
    """Loads rows in threads.

    The threads are daemons, unlike those of `concurrent.futures`: the end of the
    process does not wait for a source that blocks.

    Args:
      rows: what loads a row.
      threads: how many.
      batches: whose memory is kept to be used again.
    """

    def __init__(self, rows: RowLoader, *, threads: int, batches: int):
        self._rows, self._number = rows, threads
        self._memory = Reusable(most=batches)
        self._shape: tuple[int, ...] | None = None  # of an image; known by the first
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"load-{n}", daemon=True)
            for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # it holds the memory of its batch

    def load(
        self, rows: Sequence[Row], stopped: threading.Event
    ) -> tuple[np.ndarray | None, list[Label], list[BadExample | None]]:
        """Pixels ``[rows, ...]``, labels, and what is damaged.

        The pixels are None as long as not one image was good.
        """
        out = None
        if self._shape is not None:
            out = self._memory.take((len(rows), *self._shape))
        futures = [
            self.submit(
                functools.partial(
                    self._rows.chunk, rows[part], None if out is None else out[part]
                ),
                stopped,
            )
            for part in split(len(rows), self._number)
        ]
        chunk = join([wait(future, stopped) for future in futures])
        if out is None:
            out, self._shape = gather(chunk.pixels, self._memory.take)
        return out, chunk.labels, chunk.bad

    def submit(
        self, work: Callable[[], Any], stopped: threading.Event | None = None
    ) -> Future:
        """Runs ``work`` in a thread, unless ``stopped`` is set before its turn."""
        future: Future = Future()

        def job() -> None:
            try:
                if stopped is not None and stopped.is_set():
                    raise Stopped
                future.set_result(work())
            except BaseException as error:  # for the one who waits
                future.set_exception(error)

        self._jobs.put(job)
        return future

    def close(self) -> None:
        """Ends the threads after the jobs that are waiting; does not wait for them."""
        for _ in self._threads:
            self._jobs.put(None)


def wait(future: Future, stopped: threading.Event) -> Any:
    """The result of a future.

    Raises:
      Stopped: ``stopped`` was set before it was there.
    """
    while True:
        try:
            return future.result(timeout=0.1)
        except TimeoutError:
            if future.done():  # the job's own
                raise
            if stopped.is_set():
                raise Stopped from None


def join(chunks: Sequence[Chunk]) -> Chunk:
    """Chunks one after the other."""
    columns = zip(*chunks, strict=True)
    return Chunk(*([item for part in column for item in part] for column in columns))


def gather(
    images: Sequence[np.ndarray | None],
    take: Callable[[tuple[int, ...]], np.ndarray],
) -> tuple[np.ndarray | None, tuple[int, ...] | None]:
    """Images as one array, zero where there is none, and the shape of one."""
    shape = next((image.shape for image in images if image is not None), None)
    if shape is None:
        return None, None
    out = take((len(images), *shape))
    for number, image in enumerate(images):
        if image is None:
            out[number] = 0
        else:
            store(out, number, image)
    return out, shape


def available_cores() -> int:
    """How many cores this process may use, which may be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
