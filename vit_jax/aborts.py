"""What JAX does by SIGABRT, explained: C++ ends a process without an exception."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

_KEPT: list[Any] = []  # a C callback must outlive its registration


@contextlib.contextmanager
def explained(reason: str) -> Iterator[None]:
    """An abort within says why, and ends the process as a user's mistake does."""

    def aborted() -> None:
        print(f"vit-jax: {reason}", file=sys.stderr, flush=True)
        os._exit(2)

    on_abort(aborted)
    try:
        yield
    finally:
        signal.signal(signal.SIGABRT, signal.SIG_DFL)


def on_abort(call: Callable[[], object]) -> None:
    """Calls it in the thread that aborts.

    A handler in Python would wait for the main thread, which may wait for another
    process; one made with ctypes does not.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: call())
    _KEPT.append(handler)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.CFUNCTYPE(None, ctypes.c_int)]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, handler)
