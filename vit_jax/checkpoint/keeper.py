"""What happens to a step after its commit: read back, marked or set aside, tidied."""

import concurrent.futures
import contextlib
import ctypes
import threading
from collections.abc import Callable

from vit_jax.checkpoint import policy
from vit_jax.checkpoint.arrays import StepArrays
from vit_jax.checkpoint.errors import CheckpointError, DamageError, first_line
from vit_jax.checkpoint.folder import Folder


def _give_back_memory() -> None:
    """Returns what writing and reading back freed to the system, where glibc can.

    It keeps freed memory for each of the threads that allocated some, and every save
    has new ones: a run of many saves would grow.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Keeper:
    """Looks after committed steps, in a thread of its own, on the first process.

    Args:
      folder: where they are.
      keep: how many of the newest verified steps stay.
      best: metric whose best stays as well, or "".
      verify: whether steps are read back; else a committed one counts as verified.
      guard: raises when this process may not write here any more.
      say: gets messages.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        keep: int,
        best: str,
        verify: bool,
        guard: Callable[[], None],
        say: Callable[[str], None],
    ):
        self._folder = folder
        self._keep = keep
        self._best = best
        self._verify = verify
        self._guard = guard
        self._say = say
        self._stopping = threading.Event()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint-verify")
        self._work: concurrent.futures.Future | None = None
        self.error: CheckpointError | None = None

    def start(self) -> None:
        """Starts to look after what is there; a second start waits for the first."""
        self._work = self._thread.submit(self._look_after)

    def _look_after(self) -> None:
        try:
            # After each: it may not end while saves come faster than it reads.
            while self._verify and self._read_back_next():
                self._tidy()
            self._tidy()
        except CheckpointError as error:
            self.error = error
        except BaseException as error:
            self.error = CheckpointError(
                f"checkpoints in {self._folder.path} could not be looked after: "
                f"{first_line(error)}; {self._folder.newest_good()}"
            )
            self.error.__cause__ = error

    def _read_back_next(self) -> bool:
        """Verifies the step that is next; whether there was one, and it is good."""
        if self._stopping.is_set():
            return False
        good = self._folder.verified(self._folder.metas())
        step = policy.next_to_verify(self._folder.steps(), good, self._keep)
        return step is not None and self._read_back(step)

    def _read_back(self, step: int) -> bool:
        """Verifies a step; whether it could be."""
        try:
            meta = self._folder.meta(step)
            arrays = StepArrays(self._folder.state_path(step), meta.leaves)
            if not arrays.check(self._stopping.is_set):
                return False
        except DamageError as damage:
            self._guard()
            moved = self._folder.set_aside(step, str(damage))
            raise CheckpointError(
                f"checkpoint of step {step} is not as it was saved ({damage}); moved "
                f"to {moved}; {self._folder.newest_good()}"
            ) from None
        except CheckpointError as error:
            self._say(f"checkpoint of step {step} is not verified yet: {error}")
            return False
        self._folder.mark_verified(meta)
        return True

    def _tidy(self) -> None:
        steps, metas = self._folder.steps(), self._folder.metas()
        good = self._folder.verified(metas) if self._verify else steps
        ranks = policy.ranks(metas, self._best)
        gone = set(steps) - policy.preserved(steps, good, ranks, self._keep)
        for step in sorted(gone):
            self._guard()
            self._folder.delete(step)
        _give_back_memory()

    def busy(self) -> bool:
        """Whether something that was started is not done."""
        return self._work is not None and not self._work.done()

    def join(self) -> None:
        """Returns when all that was started is done."""
        if self._work is not None:
            self._work.result()
            self._work = None

    def close(self) -> None:
        """Breaks off reading back, and frees the thread."""
        self._stopping.set()
        self._thread.shutdown()
