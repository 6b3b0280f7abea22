"""Ends a run that makes no progress, with all stacks in a file.

A stuck collective, disk or data thread otherwise holds a whole pod until somebody
looks. The watchdog is a thread; in case the interpreter itself is stuck (a library
that never gives the lock back), `faulthandler`'s own timer ends the process later,
with the stacks on standard error and code 1.
"""

import collections
import contextlib
import faulthandler
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

EXIT_CODE = 3

# Not measured by repetition: these have the limit of a compilation.
LONG_PHASES = ("init", "compile")
# Their progress shows in what the process reads and writes.
IO_PHASES = ("restore", "save")
_GRACE = 30.0  # seconds that the thread is given before faulthandler's timer acts
_PART = 1 << 16  # bytes between looks; less may be a progress bar or a heartbeat
_SPARED = 3  # stints of a phase before its median counts


class Traffic:
    """Whether this process reads and writes, or its host over the network.

    Args:
      network: also counts what the host's interfaces moved.
    """

    def __init__(self, network: bool) -> None:
        self._network = network
        self._own = 0  # what looking read itself
        self._before = self._total()

    def moved(self) -> bool:
        """Whether a part of a save or restore was moved since the last look."""
        before, self._before = self._before, self._total()
        return self._before - before >= _PART

    def _total(self) -> int:
        total = -self._own
        with contextlib.suppress(OSError, ValueError):
            text = Path("/proc/self/io").read_text()
            total += sum(int(line.split(":")[1]) for line in text.splitlines()[:2])
            self._own += len(text)
        if self._network:
            with contextlib.suppress(OSError, ValueError):
                text = Path("/proc/self/net/dev").read_text()
                rows = [row.partition(":") for row in text.splitlines()[2:]]
                counts = [row[2].split() for row in rows if row[0].strip() != "lo"]
                total += sum(int(count[0]) + int(count[8]) for count in counts)
                self._own += len(text)
        return total


class Watchdog:
    """Watches that phases end or beat in time.

    A phase may last ``seconds`` without a beat, or ``factor`` times its median so far
    if that is longer; `LONG_PHASES` may last ``compile_seconds``. Medians are of a
    phase's time between two beats. The first steps, before there is one, are measured
    by the compilation, which holds the first of them.

    Args:
      seconds: 0 turns the watchdog off.
      factor: times the median.
      compile_seconds: 0 means no limit for a compilation.
      waits: other phases with the limit of a compilation: those in which this process
        waits for another one, which has a watchdog itself.
      folder: where the stacks are written, if it is local; else a temporary folder.
      on_expire: called before the process ends; must be quick (releases the lock).
      leave: ends the process.
    """

    def __init__(
        self,
        *,
        seconds: float,
        factor: float,
        compile_seconds: float,
        folder: str | os.PathLike,
        waits: tuple[str, ...] = (),
        on_expire: Callable[[], None] = lambda: None,
        leave: Callable[[int], object] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds, self._factor = seconds, factor
        self._compile_seconds = compile_seconds
        self._folder, self._on_expire, self._leave = folder, on_expire, leave
        self._clock = clock
        self._long = (*LONG_PHASES, *waits)
        self._since: dict[str, float] = collections.defaultdict(float)  # the last beat
        self._durations: dict[str, collections.deque[float]] = {}
        self._phase, self._beaten = "init", clock()
        self._traffic = Traffic(network="://" in os.fspath(folder))
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def enter(self, phase: str) -> None:
        """A phase ended and this one begins."""
        now = self._clock()
        self._since[self._phase] += now - self._beaten
        self._phase, self._beaten = phase, now

    def beat(self) -> None:
        """Progress, such as a step or a batch of an evaluation."""
        self.enter(self._phase)
        spent, self._since = self._since, collections.defaultdict(float)
        for phase, seconds in spent.items():
            known = self._durations.setdefault(phase, collections.deque(maxlen=101))
            known.append(seconds)

    def limit(self) -> float:
        """Seconds that the present phase may last without a beat; 0: for ever."""
        if self._phase in self._long:
            return self._compile_seconds
        known = list(self._durations.get(self._phase, ()))
        if len(known) < _SPARED:
            first = "compile" if self._phase == "step" else ""
            known = list(self._durations.get(first, ()))
        median = statistics.median(known) if known else 0.0
        return max(self._seconds, self._factor * median)

    def overdue(self) -> float:
        """Seconds since the last progress, if they are too many; else 0."""
        if self._phase in IO_PHASES and self._traffic.moved():
            self._beaten = self._clock()
        limit, waited = self.limit(), self._clock() - self._beaten
        return waited if limit and waited > limit else 0.0

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._thread = threading.Thread(
                target=self._watch, name="watchdog", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends watching."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        pause = min(1.0, self._seconds / 5)
        while not self._closed.wait(pause):
            if waited := self.overdue():
                self._expire(waited)
                return
            if limit := self.limit():
                # For when this thread cannot run any more.
                faulthandler.dump_traceback_later(limit + _GRACE, exit=True, file=2)
            else:
                faulthandler.cancel_dump_traceback_later()

    def _expire(self, waited: float) -> None:
        path = self._write_stacks()
        print(
            f"vit-jax: no progress for {waited:.0f} s in phase {self._phase!r} (limit "
            f"{self.limit():.0f} s, train.watchdog); the stacks of all threads are in "
            f"{path}; the same command resumes from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        with contextlib.suppress(Exception):
            self._on_expire()
        self._leave(EXIT_CODE)

    def _write_stacks(self) -> str:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        name = f"stacks-{socket.gethostname()}-{os.getpid()}-{stamp}.txt"
        for folder in (os.fspath(self._folder), tempfile.gettempdir()):
            path = Path(folder) / name
            with contextlib.suppress(OSError), path.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
                return str(path)
        faulthandler.dump_traceback(2, all_threads=True)
        return "the lines above"
