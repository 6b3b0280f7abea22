"""The lock of a work directory: taken, kept alive on a thread, checked, released."""

import atexit
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from vit_jax.lock.owner import (
    EXPIRED_SECONDS,
    RENEWED_SECONDS,
    LockLostError,
    Owner,
)

# A lease is given up this long before others may take it, so that a commit that was
# allowed a moment ago ends in time.
MARGIN_SECONDS = 10.0


@runtime_checkable
class Place(Protocol):
    """Where a lock is kept; used by one thread at a time."""

    def acquire(self, owner: Owner) -> Owner | None:
        """Takes the lock; returns the dead owner that it was taken over from.

        Raises:
          LockHeldError: a living owner has it.
        """
        ...

    def renew(self) -> None:
        """Gives a sign of life.

        Raises:
          LockLostError: the lock is somebody else's or was removed.
          Exception: this could not be found out.
        """
        ...

    def release(self) -> None:
        """Frees the lock if it is still ours."""
        ...

    def abandon(self) -> None:
        """Lets go without freeing it: this is a forked child of the owner."""
        ...


def _clock() -> float:
    """Seconds, going on while the process or the machine is suspended."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class WorkdirLock:
    """Exclusive use of a work directory, on a file system or in a bucket.

    Of several processes that ask at once, one gets it. An owner that was killed is
    succeeded at once on its own machine, and when it has given no sign of life for 60 s
    elsewhere. Use as a context manager, or call `acquire` and `release`.

    Args:
      folder: the work directory, made if it is not there; may be ``gs://...``.
      say: receives the line that says from whom a stale lock was taken over.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, say: Callable[[str], Any] = print
    ) -> None:
        self._folder, self._say = os.fspath(folder), say
        self._place: Place | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._asked = self._answered = 0
        self._stopping = False
        self._confirmed = 0.0  # when the last successful renewal was begun
        self._lost: str | None = None
        self._trouble = "the storage does not answer"

    def acquire(self) -> "WorkdirLock":
        """Takes the lock.

        Raises:
          LockHeldError: another run has it; the message names it.
          LockError: nothing can be written there.
        """
        if self._place is not None:
            raise RuntimeError("this lock is already held")
        self._place = _place_for(self._folder)
        _HELD.add(self)  # before it is taken: a fork must never keep it
        began = _clock()
        try:
            previous = self._place.acquire(Owner.here())
        except BaseException:
            self._place = None
            _HELD.discard(self)
            raise
        self._confirmed, self._lost, self._stopping = began, None, False
        if previous is not None:
            self._say(
                f"taking over {self._folder}: its last owner is gone ({previous})"
            )
        self._thread = threading.Thread(
            target=self._keep, name="WorkdirLock", daemon=True
        )
        self._thread.start()
        atexit.register(self.release)
        return self

    def release(self, timeout: float = 5.0) -> None:
        """Frees the lock; harmless if it is not held. Waits at most ``timeout``."""
        place, self._place = self._place, None
        if place is None:
            return
        atexit.unregister(self.release)
        _HELD.discard(self)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        assert self._thread is not None
        self._thread.join(timeout)  # it frees the lock as it ends

    def check(self, timeout: float = 5.0) -> None:
        """Makes sure that the lock is still ours.

        It asks the storage, and waits for the answer at most ``timeout`` seconds. While
        no answer comes the lease holds until shortly before others may take it. With
        0 the storage is not asked: what the last renewal found is looked at.

        Raises:
          LockLostError: it is another's, was removed, or could not be renewed in time.
        """
        if self._place is None:
            raise LockLostError(f"the lock of {self._folder} is not held")
        if timeout > 0:
            self._ask(timeout)
        if self._lost is None and self._age() > self._limit():
            self._ask(max(timeout, 5.0))  # this process may have been suspended
        if self._lost is not None:
            raise LockLostError(self._lost)
        if self._age() > self._limit():
            raise LockLostError(
                f"the lock of {self._folder} could not be renewed for "
                f"{self._age():.0f} s ({self._trouble}); another run may have it"
            )

    def __enter__(self) -> "WorkdirLock":
        return self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()

    def _age(self) -> float:
        return _clock() - self._confirmed

    @staticmethod
    def _limit() -> float:
        return EXPIRED_SECONDS - MARGIN_SECONDS

    def _ask(self, timeout: float) -> None:
        """Has the thread renew now, and waits for what it finds."""
        with self._changed:
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._answered >= mine or self._stopping, timeout
            )

    def _keep(self) -> None:
        """Body of the thread, the only one that touches the storage."""
        place = self._place
        assert place is not None
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopping or self._asked > self._answered,
                    RENEWED_SECONDS,
                )
                stopping, asked = self._stopping, self._asked
            if stopping:
                break
            began = _clock()
            try:
                place.renew()
                self._confirmed = began
            except LockLostError as error:
                self._lost = str(error)
            except Exception as error:  # of whichever library speaks to the storage
                line = (str(error).splitlines() or [""])[0]
                self._trouble = f"{type(error).__name__}: {line}"
            with self._changed:
                self._answered = asked
                self._changed.notify_all()
        try:
            place.release()
        except Exception as error:
            line = (str(error).splitlines() or [""])[0]
            self._say(f"warning: the lock of {self._folder} stays: {line}")

    def _after_fork(self) -> None:
        place, self._place = self._place, None
        atexit.unregister(self.release)
        if place is not None:
            place.abandon()


_HELD: set[WorkdirLock] = set()


def _abandon_all() -> None:
    for lock in list(_HELD):
        lock._after_fork()
    _HELD.clear()


os.register_at_fork(after_in_child=_abandon_all)


def _place_for(folder: str) -> Place:
    if folder.startswith("gs://"):
        from vit_jax.lock.objects import ObjectPlace

        return ObjectPlace(folder)
    from vit_jax.lock.files import FilePlace

    return FilePlace(folder)
