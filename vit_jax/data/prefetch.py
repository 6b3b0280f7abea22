"""Making the next items of a sequence in a thread while the last one is used."""

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any

# Who waits longer for a source that blocks leaves it to a thread that dies with the
# process.
CLOSE_SECONDS = 1.0


class Stopped(Exception):
    """What was asked for is no longer wanted."""


def prefetch(
    make: Callable[[int], Any],
    start: int,
    stop: int,
    depth: int,
    *,
    stopped: threading.Event | None = None,
) -> Generator:
    """Yields ``make(start) .. make(stop - 1)``, ``depth`` ahead, from a thread.

    An exception in ``make`` is raised at its place in the sequence. Closing the
    iterator sets ``stopped``, which ``make`` may look at, and ends the thread; it waits
    no longer than a moment for a ``make`` that does not return.
    """
    ready: queue.Queue = queue.Queue(maxsize=max(1, depth))
    over = stopped or threading.Event()

    def put(item: tuple) -> None:
        while not over.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for step in range(start, stop):
                put((make(step), None))
                if over.is_set():
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
            del item  # the consumer's alone: its memory may be wanted again
    finally:
        over.set()
        thread.join(CLOSE_SECONDS)
