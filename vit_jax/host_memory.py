"""How the C library keeps memory between steps that run on the CPU."""

import contextlib
import ctypes

import jax

# <malloc.h> of glibc; other C libraries have no mallopt, or take no notice.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_ARENA_MAX = -8
_NEVER = 2**31 - 1


def keep_freed() -> None:
    """Keeps for the next step what a step on a CPU frees, in place of returning it.

    XLA allocates its temporaries at every call. glibc takes large ones from the system
    and returns them, and the system clears every page when it is touched again: an
    eighth of a step of configs/digits.py. For the whole process. Where devices are not
    CPUs their temporaries are not the host's, and nothing is changed.
    """
    if jax.default_backend() != "cpu":
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_ARENA_MAX, 1)  # a thread's own would hold 64 MiB and no more
