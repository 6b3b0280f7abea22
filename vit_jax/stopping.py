"""Signals: a first one ends the run at a step that is saved, a second one at once.

Python runs signal handlers in the main thread, between two bytecodes: never while it
waits for a compilation or a device. So a thread of its own is told of each signal
through a pipe, which the interpreter's C handler writes to at any time.

Several processes must stop at the same place, or they wait for each other for ever.
Each counts the places where it could stop (`tick`), the same ones in the same order.
After a signal anywhere, the threads exchange those counts, and all stop at the first
place that none has passed.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

_READ_SECONDS = 2.0  # in which the other processes read an announcement
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopping(Exception):
    """Raised where the run stops; it is caught by the loop, which saves."""


@runtime_checkable
class Agreement(Protocol):
    """How processes agree on where to stop (`distributed.Peers`)."""

    def announce_stop(self, number: int) -> None:
        """Tells all other processes of a signal."""
        ...

    def announced_stop(self) -> int:
        """The signal that some process was sent, or 0."""
        ...

    def post_count(self, count: int) -> None:
        """Says how far this process came; -1: it has nothing to save."""
        ...

    def counts(self) -> list[int]:
        """How far each process came; waits for all to say so."""
        ...


class Stop:
    """Notices SIGTERM and SIGINT, and says where to stop.

    Used as a context manager around a run, in the main thread; elsewhere it leaves the
    handlers alone and nothing stops.

    Args:
      say: prints a line.
      leave: ends the process.
    """

    def __init__(
        self,
        *,
        say: Callable[[str], object] = print,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self.signal = 0  # the first one, here or in another process
        self._say, self._leave = say, leave
        self._release: Callable[[], object] = lambda: None
        self._agreement: Agreement | None = None
        self._something_to_save = False
        self._interruptible = False
        self._count, self._target = 0, 0
        self._counting = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(self._read, True)
        self._handlers = {
            number: signal.signal(number, self._handle) for number in SIGNALS
        }
        self._old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(
            target=self._listen, name="signals", daemon=True
        )
        self._thread.start()
        return self

    def connect(self, agreement: Agreement) -> None:
        """From now on, stops where all processes do."""
        self._agreement = agreement
        threading.Thread(target=self._follow, name="stops", daemon=True).start()

    def releases(self, release: Callable[[], object]) -> None:
        """What to call before leaving at once: frees the work directory."""
        self._release = release

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        if self._thread is None:
            return
        signal.set_wakeup_fd(self._old_fd)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        os.write(self._write, b"\0")  # ends the thread
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def from_now_on_save(self) -> None:
        """No checkpoint holds the last step: a signal no longer leaves at once."""
        self._something_to_save = True

    def tick(self) -> None:
        """A place where the run can stop; all processes pass the same ones in order.

        Raises:
          Stopping: this is where all stop.
        """
        with self._counting:  # held while counts are exchanged
            self._count += 1
            stop = self._target and self._count >= self._target
        if stop:
            raise Stopping

    @contextlib.contextmanager
    def interruptible(self):
        """A block, such as waiting for data, that a signal may end with `Stopping`.

        Only where there is one process: others could not know how far this one came.
        """
        if self._agreement is not None:
            yield
            return
        self._interruptible = True
        try:
            if self.signal:
                raise Stopping
            yield
        finally:
            self._interruptible = False

    def _handle(self, number: int, frame: object) -> None:
        """The handler in the main thread; the rest happens in the listening thread."""
        if self._interruptible and self._something_to_save:
            self.signal = self.signal or number
            raise Stopping

    def _listen(self) -> None:
        received = 0
        while True:
            for number in os.read(self._read, 16):
                if number == 0:
                    return
                received += 1
                if received > 1 or not self._something_to_save:
                    self._leave_at_once(number)
                    return
                self._begin(number)

    def _begin(self, number: int) -> None:
        self.signal = self.signal or number
        name = signal.Signals(number).name
        self._say(f"{name}: saving after this step; again: leaves at once")
        if self._agreement is not None:
            self._agreement.announce_stop(number)  # `_follow` sees it too
        else:
            with self._counting:
                self._target = self._target or self._count + 1

    def _follow(self) -> None:
        """Waits for a signal in any of several processes."""
        agreement = self._agreement
        assert agreement is not None
        while not self._ended.wait(0.5):
            number = agreement.announced_stop()
            if not number:
                continue
            self.signal = self.signal or number
            if not self._something_to_save:
                self._leave_at_once(number)
                return
            with self._counting:
                agreement.post_count(self._count)
                counts = agreement.counts()
                if min(counts) >= 0:
                    self._target = max(counts) + 1
                    return
            self._leave_at_once(number)  # with those that have nothing to save
            return

    def _leave_at_once(self, number: int) -> None:
        if self._agreement is not None and not self._something_to_save:
            with contextlib.suppress(Exception):
                self._agreement.post_count(-1)
                self._agreement.announce_stop(number)
                time.sleep(_READ_SECONDS)  # the store may go with this process
        with contextlib.suppress(Exception):
            self._release()
        name = signal.Signals(number).name
        print(f"vit-jax: {name}: left at once", file=sys.stderr, flush=True)
        self._leave(exit_code(number))


def exit_code(number: int) -> int:
    """What a shell expects of a process that a signal ended: 130 for Ctrl-C."""
    return 128 + number
