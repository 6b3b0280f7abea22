"""Ctrl-C and SIGTERM for a sweep's driver: the first one stops, the second kills."""

import os
import signal
import sys
import threading
from collections.abc import Callable

from vit_jax.stopping import SIGNALS, exit_code


class Signals:
    """Catches signals while trials run; in the main thread only.

    Args:
      stop: called at the first signal.
      kill: called at the second one, after which this process ends at once.
    """

    def __init__(self, stop: Callable[[], object], kill: Callable[[], object]):
        self.first = 0
        self._stop, self._kill = stop, kill
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._handle) for number in SIGNALS
            }
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _handle(self, number: int, frame: object) -> None:
        name = signal.Signals(number).name
        if self.first:
            self._kill()
            os.write(2, f"vit-jax: {name}: left at once\n".encode())
            os._exit(exit_code(number))
        self.first = number
        text = f"vit-jax: {name}: the running trials save and end; again: at once\n"
        os.write(sys.stderr.fileno(), text.encode())
        self._stop()
