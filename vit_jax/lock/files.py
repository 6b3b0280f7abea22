"""A lock file: whoever puts it there first owns it, and the kernel says who lives.

The file is written and locked (flock) before it gets its name, so that nobody ever
finds one that is incomplete or not locked by its living owner. Where a kernel lock does
not reach (another host on a shared file system), the file's time of modification is
the owner's sign of life.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import time
from collections.abc import Iterator

from vit_jax.lock.owner import (
    EXPIRED_SECONDS,
    UNKNOWN,
    LockError,
    LockLostError,
    Owner,
    held,
)

NAME = "lock"
_ATTEMPTS = 10
_PAUSE = 0.1  # seconds between two attempts
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class FilePlace:
    """The file ``lock`` in a folder of a file system."""

    def __init__(self, folder: str) -> None:
        self._folder = pathlib.Path(folder).expanduser()
        self._path = self._folder / NAME
        self._file = -1  # open and locked as long as the lock is held
        self._token = ""

    def acquire(self, owner: Owner) -> Owner | None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._prepared(owner) as mine:
                previous = self._take(mine)
            self._tidy()
            return previous
        except OSError as error:
            raise LockError(
                f"{self._folder} cannot be used as a work directory "
                f"({error.strerror or error}); use another --workdir"
            ) from error

    @contextlib.contextmanager
    def _prepared(self, owner: Owner) -> Iterator[pathlib.Path]:
        """Our file, locked, under a name of its own; kept open if it is to stay."""
        mine = self._folder / f"{NAME}.{owner.token}"
        self._token = owner.token
        self._file = os.open(mine, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            try_lock(self._file)
            os.write(self._file, owner.to_json())
            os.fsync(self._file)
            yield mine
        except BaseException:
            self.abandon()
            raise
        finally:
            mine.unlink(missing_ok=True)

    def _take(self, mine: pathlib.Path) -> Owner | None:
        for attempt in range(_ATTEMPTS):
            if _name(mine, self._path):
                return None
            with contextlib.suppress(FileNotFoundError), _opened(self._path) as file:
                locked = try_lock(file)
                if locked is not False and self._is_named(file):
                    last = attempt == _ATTEMPTS - 1
                    previous = self._succeed(
                        file, mine, knows=locked is True, last=last
                    )
                    if previous is not None:
                        return previous
                elif locked is False:
                    found = _read(file)
                    # Or it is locked by one that looks at a stale lock as we do.
                    if (found and found.running()) or attempt == _ATTEMPTS - 1:
                        raise held(str(self._folder), found)
            time.sleep(_PAUSE)
        raise held(str(self._folder), None)

    def _succeed(
        self, file: int, mine: pathlib.Path, *, knows: bool, last: bool
    ) -> Owner | None:
        """Replaces a lock whose owner is gone, and returns that owner.

        Args:
          file: the lock, and locked by us where the file system can do it.
          mine: our file, that takes its place.
          knows: whether the kernel has said that no process of this machine holds it.
          last: there will be no further attempt.

        Returns:
          None if another was quicker.
        """
        found = _read(file)
        known_dead = found is not None and (
            (knows and found.shares_kernel()) or found.running() is False
        )
        age = self._now() - os.fstat(file).st_mtime
        if not known_dead and age < EXPIRED_SECONDS:
            if found is None and not last:
                return None  # it may be about to be written
            raise held(str(self._folder), found, age)
        # Starters on other hosts see no lock of ours: one of them at a time gets past
        # this claim, and only while the file that it looked at is still in place.
        claim = self._folder / f"{NAME}.{found.token if found else 'unread'}.claim"
        if not (_link(mine, claim) or _make(claim)):
            self._drop_dead(claim)
            return None
        try:
            if not self._is_named(file):
                return None
            os.replace(mine, self._path)
        finally:
            claim.unlink(missing_ok=True)
        return found or UNKNOWN

    def _drop_dead(self, claim: pathlib.Path) -> None:
        """Removes a claim whose owner died before it could use it."""
        with contextlib.suppress(FileNotFoundError), _opened(claim) as file:
            owner = _read(file)
            dead = try_lock(file) and owner is not None and owner.shares_kernel()
            if dead or self._now() - os.fstat(file).st_mtime > EXPIRED_SECONDS:
                claim.unlink()

    def _tidy(self) -> None:
        """Removes what starters left that were killed while they started."""
        for left in self._folder.glob(f"{NAME}.*"):
            with contextlib.suppress(OSError):
                if self._now() - left.stat().st_mtime > EXPIRED_SECONDS:
                    left.unlink()

    def renew(self) -> None:
        os.utime(self._file)
        try:
            with _opened(self._path) as file:  # opening asks a file server anew
                owner, same = _read(file), _same(file, self._file)
        except FileNotFoundError:
            raise LockLostError(f"{self._path} was removed") from None
        if not same or owner is None or owner.token != self._token:
            raise LockLostError(
                f"{self._path} is another run's now ({owner or UNKNOWN})"
            )

    def release(self) -> None:
        if self._file < 0:
            return
        try:
            if self._is_named(self._file):
                self._path.unlink(missing_ok=True)  # before the kernel lock goes
        finally:
            self.abandon()

    def abandon(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _is_named(self, file: int) -> bool:
        """Whether an open file is the one that has the lock's name."""
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(file))

    def _now(self) -> float:
        """The time by the clock of the file system, which may be a server's."""
        os.utime(self._file)
        return os.fstat(self._file).st_mtime


def try_lock(file: int) -> bool | None:
    """Locks an open file; False if it is locked, None where that is not possible."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _name(source: pathlib.Path, target: pathlib.Path) -> bool:
    """Gives a file a name, unless the name is taken; of several, one succeeds."""
    if _link(source, target):
        return True
    # Without hard links: an empty file holds the name until ours has replaced it.
    if target.exists() or not _make(target):
        return False
    os.replace(source, target)
    return True


def _link(source: pathlib.Path, target: pathlib.Path) -> bool:
    """Makes a hard link; False if the name is taken or there are no such links."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def _make(path: pathlib.Path) -> bool:
    """Makes an empty file, unless there is one; of several, one succeeds."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError:
        return False
    return True


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[int]:
    try:
        file = os.open(path, os.O_RDWR)  # NFS locks only what is open for writing
    except PermissionError:
        file = os.open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)


def _read(file: int) -> Owner | None:
    return Owner.from_json(os.pread(file, 1 << 16, 0))


def _same(left: int, right: int) -> bool:
    return os.path.samestat(os.fstat(left), os.fstat(right))
