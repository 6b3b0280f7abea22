"""Checkpoints of a run: saved asynchronously, verified, the damaged set aside.

A step is written by orbax. Digests of the arrays are taken on the devices before they
are copied off them; after the commit a thread reads the step back and compares, and so
does every restore, on the devices again.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath

from vit_jax import digest
from vit_jax.checkpoint import agree, policy
from vit_jax.checkpoint.arrays import StepArrays, differs
from vit_jax.checkpoint.errors import CheckpointError, DamageError
from vit_jax.checkpoint.folder import Folder, Meta
from vit_jax.checkpoint.keeper import Keeper
from vit_jax.checkpoint.saver import Saver


class Checkpoints:
    """The checkpoints of one work directory.

    Args:
      directory: made when the first checkpoint is saved.
      keep: how many of the newest verified steps stay; at least 2, so that one damaged
        after it was verified leaves another.
      best: metric whose best checkpoint stays as well (a name ending in ``loss`` is
        minimised, any other maximised), or "".
      read_only: nothing is written, moved or tidied up; a run may be saving there.
      verify: whether each step is read back after it was written.
      guard: raises when this process may not write here any more; asked right before
        each commit and before anything is removed or moved.
      say: gets the messages about damaged steps.
      alive: called after each array that was read, for whoever watches for progress.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep: int = 2,
        best: str = "",
        read_only: bool = False,
        verify: bool = True,
        guard: Callable[[], None] | None = None,
        say: Callable[[str], None] = print,
        alive: Callable[[], None] | None = None,
    ):
        self.directory = epath.Path(directory)
        self._folder = Folder(self.directory)
        self._best = best
        self._read_only = read_only
        self._guard = guard or (lambda: None)
        self._say = say
        self._alive = alive
        self._keeper = Keeper(
            self._folder,
            keep=max(keep, 2),
            best=best,
            verify=verify,
            guard=self._guard,
            say=say,
        )
        self._saver = Saver(self._folder, self._guard, self._keeper.start)
        if not read_only and agree.primary():
            self._guard()
            self._folder.clean()

    # Finding

    def latest(self) -> int | None:
        """The newest saved step."""
        return max(self._folder.steps(), default=None)

    def best(self) -> int | None:
        """The saved step with the best metric, or the newest where none has it."""
        ranks = policy.ranks(self._folder.metas(), self._best)
        best = policy.best_of(ranks, ranks)
        return self.latest() if best is None else best

    def find(self, step: str) -> int:
        """A saved step by number, ``"latest"`` or ``"best"``.

        Raises:
          CheckpointError: it is not there; those that are, are listed.
        """
        saved = self._folder.steps()
        number: int | None = int(step) if step.isdigit() else None
        if step in ("latest", "best"):
            number = self.latest() if step == "latest" else self.best()
        if number is None or number not in saved:
            raise CheckpointError(
                f"{self.directory}: no checkpoint {step!r}; there: {self._listed()} "
                "(or latest, best)"
            )
        return number

    def _listed(self) -> str:
        return ", ".join(map(str, self._folder.steps())) or "none"

    # Saving

    def save(
        self,
        step: int,
        state: Any,
        evaluations: Mapping[str, float],
        *,
        measured: bool = True,
    ) -> None:
        """Starts a save; only the copy off the devices is waited for.

        The commit of the save before is waited for as well. A step that is there
        already with the same arrays is left as it is, with others it is replaced.

        Args:
          step: of the state.
          state: a tree of arrays.
          evaluations: the newest results; they rank the checkpoint only if
          measured: they were measured at this very step.

        Raises:
          CheckpointError: there is no space for it, or an earlier save failed.
        """
        self._saver.join()
        agree.on_all(self.poll)
        numbers = {name: float(value) for name, value in evaluations.items()}
        self._saver.save(step, state, numbers, measured)

    def poll(self) -> None:
        """To be called once a step: raises what went wrong in the background.

        Raises:
          CheckpointError: a save could not be written, or was not what was saved.
        """
        for part in (self._saver, self._keeper):
            if part.error is not None:
                error, part.error = part.error, None
                raise error

    # Restoring

    def restore_latest(
        self, abstract: Any, *, every: int = 1
    ) -> tuple[int, Any, dict[str, float]] | None:
        """The newest step that is right: step, state and evaluations.

        Damaged steps are set aside in ``quarantine/`` with one message each.

        Args:
          abstract: the state's shapes and dtypes, with the shardings to restore into.
          every: only steps that this divides.

        Returns:
          None where nothing was ever saved, or no such step is there.

        Raises:
          CheckpointError: no step is left that is right, or what is wrong is not the
            step: another model's, too little memory, storage that does not answer.
        """
        self._settle()
        tried = []
        for step in agree.steps(self._folder.steps):
            if step % every:
                continue
            try:
                state, meta = self._load(step, abstract)
            except DamageError as damage:
                tried.append(f"{step}: {damage}")
                self._report_damage(step, str(damage))
                continue
            if not self._read_only and agree.primary():
                with contextlib.suppress(OSError):  # a full disk; it is right anyway
                    self._folder.mark_verified(meta)
            return step, state, dict(meta.evaluations)
        set_aside = self._folder.quarantined()
        if tried or agree.from_primary(len(set_aside)):
            what = "; ".join(tried) or f"set aside earlier: {', '.join(set_aside)}"
            raise CheckpointError(
                f"{self.directory}: no checkpoint is left that is right ({what}). "
                f"To train from the start, move {self._folder.quarantine} away or use "
                "another --workdir"
            )
        return None

    def _report_damage(self, step: int, damage: str) -> None:
        def move() -> None:
            if self._read_only:
                where = "left where it is"
            elif agree.primary():
                self._guard()
                where = f"moved to {self._folder.set_aside(step, damage)}"
            else:
                return
            self._say(
                f"checkpoint of step {step} is damaged ({damage}); {where}; "
                "trying the next older one"
            )

        agree.on_all(move)

    def restore(self, step: int, abstract: Any) -> tuple[Any, dict[str, float]]:
        """The state of ``step``, sharded as ``abstract``, and its evaluations.

        Raises:
          CheckpointError: it is damaged (and stays where it is), or cannot be used.
        """
        self._settle()
        try:
            state, meta = self._load(step, abstract)
        except DamageError as damage:
            raise CheckpointError(
                f"{self.directory}: checkpoint {step} is damaged ({damage}); "
                f"there: {self._listed()}"
            ) from None
        return state, dict(meta.evaluations)

    def _load(self, step: int, abstract: Any) -> tuple[Any, Meta]:
        def read() -> tuple[Any, Meta]:
            if not self._folder.step_path(step).exists():
                raise CheckpointError(
                    f"{self.directory}: checkpoint {step} is not there; "
                    f"there: {self._listed()}"
                )
            meta = self._folder.meta(step)
            _check_structure(self._folder.step_path(step), meta, abstract)
            arrays = StepArrays(
                self._folder.state_path(step), meta.leaves, alive=self._alive
            )
            return arrays.restore(abstract), meta

        state, meta = agree.on_all(read)

        def compare() -> None:
            texts = digest.as_texts(digests)
            for name, text in zip(digest.names(state), texts, strict=True):
                if text != meta.leaves[name].digest:
                    raise differs(name)

        digests = digest.start(state)
        agree.on_all(compare)
        return state, meta

    # Ending

    def _settle(self) -> None:
        """Returns when nothing goes on in the background."""
        self._saver.join()
        self._keeper.join()

    def wait(self, *, verified: bool = True) -> None:
        """Returns when every started save is complete; raises what went wrong.

        Args:
          verified: also wait until what was saved has been read back.
        """
        self._saver.join()
        if verified:
            self._keeper.join()
        self.poll()

    def verifying(self) -> bool:
        """Whether a step is still being read back."""
        return self._keeper.busy()

    def close(self) -> None:
        """Waits for the save under way, breaks off reading back, and frees threads.

        Raises:
          CheckpointError: something went wrong that was not raised yet.
        """
        self._saver.close()
        self._keeper.close()
        self.poll()


def _check_structure(path: epath.Path, meta: Meta, abstract: Any) -> None:
    """Raises CheckpointError if a step holds other arrays than are wanted."""
    wanted = {
        name: f"{leaf.dtype.name}{list(leaf.shape)}"
        for name, leaf in zip(
            digest.names(abstract), jax.tree.leaves(abstract), strict=True
        )
    }
    saved = {
        name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in meta.leaves.items()
    }
    if wanted == saved:
        return
    lines = [
        f"{name}: saved {saved.get(name, 'not')}, wanted {wanted.get(name, 'not')}"
        for name in sorted({*wanted, *saved})
        if wanted.get(name) != saved.get(name)
    ]
    more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
    raise CheckpointError(
        f"{path} holds another state than the config makes: "
        f"{'; '.join(lines[:5])}{more}. Undo the change, or use another --workdir"
    )
