"""What can be wrong with a checkpoint, and whose fault it is."""

import errno


class CheckpointError(ValueError):
    """A checkpoint that is not there or cannot be used; the message says what to do."""


class DamageError(Exception):
    """The files of a step are not what was saved; the message says in what way."""


# Storage that does not answer, or refuses: the files in it may be as good as ever.
_UNREACHABLE = {
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.EHOSTDOWN,
    errno.ENETUNREACH,
    errno.ESTALE,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
}
_UNREACHABLE_WORDS = (
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "Permission denied",
    "Too many open files",
)
_FULL_WORDS = ("No space left", "Disk quota exceeded", "File too large")


def first_line(error: BaseException) -> str:
    """The beginning of an error's message, for a message of one line."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def unreachable(error: BaseException) -> bool:
    """Whether storage failed to answer, which says nothing about the files."""
    return any(
        isinstance(e, TimeoutError | ConnectionError)
        or getattr(e, "errno", None) in _UNREACHABLE
        or any(word in str(e) for word in _UNREACHABLE_WORDS)
        for e in _chain(error)
    )


def disk_full(error: BaseException) -> bool:
    """Whether a write failed for want of space."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return any(
        getattr(e, "errno", None) in full or any(w in str(e) for w in _FULL_WORDS)
        for e in _chain(error)
    )


def judge(error: BaseException, what: str) -> Exception:
    """The exception to raise for one met while reading ``what`` of a step."""
    if isinstance(error, DamageError | CheckpointError):
        return error
    if unreachable(error):
        return CheckpointError(f"{what} cannot be reached: {first_line(error)}")
    return DamageError(f"{what} cannot be read: {first_line(error)}")
