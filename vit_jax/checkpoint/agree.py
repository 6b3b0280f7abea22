"""Decisions about checkpoints that all processes must make alike."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from vit_jax.checkpoint.errors import CheckpointError, DamageError

T = TypeVar("T")
_MOST_STEPS = 256  # the newest; processes exchange arrays of one size


def primary() -> bool:
    """Whether this process moves, removes and verifies."""
    return jax.process_index() == 0


def from_primary(value: int) -> int:
    """The first process's value, on every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def steps(read: Callable[[], list[int]]) -> list[int]:
    """Steps as the first process sees them, the newest first."""
    newest = on_all(lambda: sorted(read(), reverse=True) if primary() else [])
    if jax.process_count() == 1:
        return newest
    padded = np.full(_MOST_STEPS, -1, np.int32)
    newest = newest[:_MOST_STEPS]
    padded[: len(newest)] = newest
    shared = multihost_utils.broadcast_one_to_all(padded)
    return [int(step) for step in shared if step >= 0]


def on_all(action: Callable[[], T]) -> T:
    """Runs ``action`` here and on the others; what fails on one, fails on all.

    Otherwise the others would wait for ever in the next exchange. ``action`` itself
    must not exchange anything.
    """
    if jax.process_count() == 1:
        return action()
    result: Any = None
    error: Exception | None = None
    try:
        result = action()
    except Exception as raised:
        error = raised
    mine = _severity(error)
    worst = int(np.max(multihost_utils.process_allgather(np.int32(mine))))
    if worst == 0:
        return result
    if error is not None and mine == worst:
        raise error
    kind = DamageError if worst == 1 else CheckpointError
    raise kind("another process could not use it; its messages say why")


def _severity(error: Exception | None) -> int:
    if error is None:
        return 0
    return 1 if isinstance(error, DamageError) else 2
