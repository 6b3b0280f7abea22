"""One run per work directory: an exclusive lock that outlives no owner."""

from vit_jax.lock.owner import LockError, LockHeldError, LockLostError
from vit_jax.lock.workdir import WorkdirLock

__all__ = ["LockError", "LockHeldError", "LockLostError", "WorkdirLock"]
