"""What goes on around a run's loop: where its time goes, progress, and stopping."""

import contextlib
import dataclasses
from collections.abc import Iterator

from vit_jax.goodput import Goodput
from vit_jax.stopping import Stop
from vit_jax.watchdog import Watchdog


@dataclasses.dataclass(frozen=True)
class Life:
    """The clock, the watchdog and the signals, told of the same phases."""

    goodput: Goodput
    watchdog: Watchdog
    stop: Stop

    def enter(self, phase: str) -> str:
        """Begins a phase (`goodput.PHASES`) for good; returns the one before it."""
        self.watchdog.enter(phase)
        return self.goodput.enter(phase)

    def switch(self, phase: str) -> None:
        """Begins a phase for good."""
        self.enter(phase)

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """A phase for a block; the one before it goes on afterwards."""
        before = self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def tick(self) -> None:
        """Progress, and a place where the run can stop.

        Raises:
          Stopping: a signal came; see `stopping.Stop.tick`.
        """
        self.watchdog.beat()
        self.stop.tick()
