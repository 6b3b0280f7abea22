"""A trace of some steps for XProf, and the operations that took longest in it."""

import collections
import contextlib
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

TOP = 10


class Profile:
    """Traces the steps after ``start`` up to ``stop``; a failure is only said.

    Used as a context manager around the loop.

    Args:
      start: steps done when the trace begins; the first step of a process, which
        compiles, is never in it.
      stop: steps done when it ends; 0: there is no trace.
      folder: where the trace goes, ``plugins/profile/TIME`` in it.
      say: prints a line.
    """

    def __init__(
        self, start: int, stop: int, folder: epath.Path, say: Callable[[str], object]
    ) -> None:
        self._start, self._stop, self._folder, self._say = start, stop, folder, say
        self._scratch: pathlib.Path | None = None  # while it is tracing
        self._begun, self._since = 0, 0.0

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._scratch is not None:  # the run ended within the range
            with self._harmless():
                jax.profiler.stop_trace()
            self._drop()

    def begins(self, step: int, *, compiled: bool) -> bool:
        """Whether `begin` is due when ``step`` steps are done."""
        due = self._start <= step < self._stop
        return due and compiled and not self._begun

    def ends(self, step: int) -> bool:
        """Whether `end` is due when ``step`` steps are done."""
        return self._scratch is not None and step >= self._stop

    def begin(self, step: int, state: Any) -> None:
        """Begins the trace, when all before it is done."""
        self._begun = step or 1
        with self._harmless():
            jax.block_until_ready(state)
            self._scratch = pathlib.Path(tempfile.mkdtemp(prefix="vit_jax-profile-"))
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # it slows the steps that are looked at
            jax.profiler.start_trace(str(self._scratch), profiler_options=options)
            self._since = time.perf_counter()

    def end(self, step: int, state: Any) -> None:
        """Ends the trace, writes it, and says what took longest."""
        with self._harmless():
            jax.block_until_ready(state)
            seconds = time.perf_counter() - self._since
            jax.profiler.stop_trace()
            assert self._scratch is not None  # `ends` said so
            files = [path for path in self._scratch.rglob("*") if path.is_file()]
            for path in files:
                target = self._folder / path.relative_to(self._scratch)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
            traces = [path for path in files if path.name.endswith(".xplane.pb")]
            operations = longest(traces[0])
            count = step - self._begun
            self._say(
                f"profile of {count} steps, {1e3 * seconds / count:.1f} ms each, in "
                f"{self._folder}; the longest of all operations' "
                f"{operations.total() / 1e6:,.1f} ms:"
            )
            for line in operations.lines():
                self._say(f"  {line}")
        self._drop()

    @contextlib.contextmanager
    def _harmless(self):
        try:
            yield
        except Exception as error:  # such as a full disk, or another profiler
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self._say(f"warning: no profile: {reason}")
            self._drop()

    def _drop(self) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch = None


class Operations(collections.Counter[str]):
    """Nanoseconds by name of operation, over all devices of a trace."""

    def lines(self, top: int = TOP) -> list[str]:
        """The longest: share, milliseconds and name."""
        return [
            f"{100 * spent / self.total():5.1f} % {spent / 1e6:10,.2f} ms  {name}"
            for name, spent in self.most_common(top)
        ]


def longest(trace: pathlib.Path) -> Operations:
    """Sums the operations of an ``.xplane.pb`` file.

    An operation may hold others (a loop its body): it counts as a whole, and they too.
    """
    found = Operations()
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        lines = list(plane.lines)
        own = [line for line in lines if line.name == "XLA Ops"]  # of a TPU
        for line in own or lines:
            for event in line.events:
                name = event.name if own else dict(event.stats).get("hlo_op")
                if name is not None:
                    found[str(name)] += int(event.duration_ns)
    return found
