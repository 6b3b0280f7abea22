"""How a run ends: errors that say what is left, and which process was gone."""

import contextlib
from collections.abc import Iterator

from vit_jax import rollback
from vit_jax.checkpoint import CheckpointError
from vit_jax.data.errors import DataError
from vit_jax.distributed import PeerError, Peers
from vit_jax.lock import LockLostError
from vit_jax.pending import NonFiniteError
from vit_jax.run import Run


class RunError(RuntimeError):
    """Something ended a run that had begun; the message says what is left."""


class Interrupted(Exception):
    """A signal ended the run, at a step that is saved.

    Args:
      signal: its number.
      step: the newest saved step.
    """

    def __init__(self, signal: int, step: int):
        super().__init__(f"stopped by signal {signal} at step {step}")
        self.signal, self.step = signal, step


@contextlib.contextmanager
def explained(run: Run, peers: Peers | None) -> Iterator[None]:
    """Errors of a run that had begun say what is left, and who was gone."""
    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteError(f"{error}; {what_is_left(run)}") from None
    except (Interrupted, KeyboardInterrupt):
        raise
    except Exception as error:
        cause = error.__cause__
        if isinstance(cause, LockLostError):
            raise cause from None
        ours = isinstance(error, DataError | rollback.SpikeError) or (
            isinstance(error, CheckpointError) and isinstance(cause, OSError | None)
        )
        gone = None if ours or peers is None else peers.verdict()
        if gone is not None:
            raise PeerError(f"{gone}; {what_is_left(run)}") from error
        if ours or isinstance(error, CheckpointError):
            raise RunError(f"{error}; {what_is_left(run)}") from error
        raise
    finally:
        run.note_goodput(run.saved)
        run.life.watchdog.close()  # closing files has limits of its own


def what_is_left(run: Run) -> str:
    """Where the same command would begin."""
    with run.life.during("save"), contextlib.suppress(Exception):
        run.checkpoints.wait(verified=False)
    latest, folder = run.checkpoints.latest(), run.checkpoints.directory
    if latest is None:
        return "no checkpoint was saved before it"
    return f"the last good checkpoint is of step {latest} in {folder}"
