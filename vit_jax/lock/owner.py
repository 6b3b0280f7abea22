"""Who holds a lock, as written in it, and what is said to the others."""

import dataclasses
import datetime
import functools
import getpass
import json
import os
import pathlib
import socket
import uuid

RENEWED_SECONDS = 10.0
EXPIRED_SECONDS = 60.0


class LockError(ValueError):
    """A work directory that cannot be locked; the message says what to do."""


class LockHeldError(LockError):
    """Another run has the work directory; the message says who and what to do."""


class LockLostError(RuntimeError):
    """The lock is not ours any more: nothing may be written to the work directory."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """A process that holds, held or wants a lock."""

    token: str  # of this one acquisition
    user: str
    host: str
    boot: str  # of the kernel that the process runs on; "" where not known
    pid_space: str  # within which a process id means something
    pid: int
    process_start: str  # tells a process from a later one of the same id
    since: str  # UTC

    @classmethod
    def here(cls) -> "Owner":
        """This process."""
        now = datetime.datetime.now(datetime.UTC)
        return cls(
            token=uuid.uuid4().hex,
            user=_user(),
            host=socket.gethostname(),
            boot=_boot(),
            pid_space=_pid_space(),
            pid=os.getpid(),
            process_start=_process_start(os.getpid()),
            since=now.strftime("%Y-%m-%d %H:%M:%S UTC"),
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> "Owner | None":
        """The owner that a lock names, None if it is not written as we write it."""
        try:
            fields = json.loads(text)
            names = [field.name for field in dataclasses.fields(cls)]
            owner = cls(**{name: fields[name] for name in names})
        except (ValueError, TypeError, KeyError):
            return None
        texts = [getattr(owner, name) for name in names if name != "pid"]
        written_by_us = isinstance(owner.pid, int) and all(
            isinstance(text, str) for text in texts
        )
        # The token becomes part of a file's name.
        return owner if written_by_us and owner.token.isalnum() else None

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), indent=1).encode() + b"\n"

    def __str__(self) -> str:
        return f"{self.user} on {self.host}, process {self.pid}, since {self.since}"

    def shares_kernel(self) -> bool:
        """Whether kernel locks of that process and of this one see each other."""
        if self.boot and _boot():
            return self.boot == _boot()  # a container's host name is its own
        return self.host == socket.gethostname()

    def running(self) -> bool | None:
        """Whether that process still runs; None where one cannot tell."""
        same_space = (
            self.boot
            and self.boot == _boot()
            and self.pid_space == _pid_space()
            and self.host == socket.gethostname()
        )
        if not same_space or not self.process_start:
            return None
        return _process_start(self.pid) == self.process_start


UNKNOWN = Owner("", "?", "?", "", "", 0, "", "?")  # of a lock that cannot be read


def held(place: str, owner: Owner | None, age: float | None = None) -> LockHeldError:
    """The error for who comes second.

    Args:
      place: the work directory.
      owner: who is there; None while it is just starting.
      age: seconds since its last sign of life, where that is what it is known by.
    """
    who = "a run that is just starting" if owner is None else str(owner)
    when = ""
    if age is not None:
        left = max(1, round(EXPIRED_SECONDS - age))
        when = (
            f", last sign of life {max(0, round(age))} s ago; if it was killed, its "
            f"lock can be taken over in {left} s"
        )
    return LockHeldError(
        f"{place} is in use by another run ({who}{when}); wait until it ends, or use "
        "another --workdir"
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container without this user's name
        return str(os.getuid())


@functools.cache
def _boot() -> str:
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """Kernel ticks at which a process started, "" if there is no such process."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The name, in parentheses, may hold anything. Fields 3 (state) and 22 (start).
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in ("Z", "X") else fields[19]
