"""Checkpoints of a run: saved asynchronously, verified, the damaged set aside.

A step is written by orbax. Digests of the arrays are taken on the devices before they are
copied off them; after the commit a thread reads the step back and compares, and so does
every restore, on the devices again.
"""

import concurrent.futures
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from vit_jax import digest
from vit_jax.checkpoint import agree, policy
from vit_jax.checkpoint.arrays import LeafMeta, StepArrays, differs
from vit_jax.checkpoint.errors import (
    CheckpointError,
    DamageError,
    disk_full,
    first_line,
)
from vit_jax.checkpoint.folder import Folder, Meta, gib, needed_bytes


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
        self._folder = Folder(epath.Path(os.path.abspath(directory)))
        if "://" in str(self.directory):
            self._folder = Folder(self.directory)
        self._keep = max(keep, 2)
        self._best = best
        self._read_only = read_only
        self._verify = verify
        self._guard = guard or (lambda: None)
        self._say = say
        self._alive = alive
        self._error: CheckpointError | None = None
        self._stopping = threading.Event()
        self._orbax: ocp.AsyncCheckpointer | None = None
        self._writing: tuple[Meta, jax.Array] | None = None
        # One thread waits for commits, one reads back; neither exists before a save.
        self._committer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint-commit")
        self._verifier = concurrent.futures.ThreadPoolExecutor(1, "checkpoint-verify")
        self._commit: concurrent.futures.Future | None = None
        self._verification: concurrent.futures.Future | None = None
        if not read_only and agree.primary():
            self._folder.clean()

    # Finding

    def latest(self) -> int | None:
        """The newest saved step."""
        return max(self._folder.steps(), default=None)

    def best(self) -> int | None:
        """The saved step with the best metric, or the newest where none has it."""
        best = policy.best_of(self._ranks(self._folder.metas()), self._folder.steps())
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

    def _ranks(self, metas: Mapping[int, Meta]) -> dict[int, float]:
        return {
            step: policy.rank(meta.evaluations, self._best)
            for step, meta in metas.items()
            if self._best and meta.measured
        }

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
        self._join_commit()
        self.poll()
        digests = digest.start(state)
        leaves = jax.tree.leaves(state)
        agree.on_all(lambda: self._check_space(step, leaves))
        wanted = agree.on_all(lambda: self._make_room(step, state, digests))
        if not agree.from_primary(wanted):
            return
        unknown = {
            name: LeafMeta(leaf.dtype.name, tuple(leaf.shape), "")
            for name, leaf in zip(digest.names(state), leaves, strict=True)
        }
        numbers = {name: float(value) for name, value in evaluations.items()}
        self._writing = Meta(step, numbers, measured, unknown), digests
        try:
            self._writer().save(
                self._folder.step_path(step),
                args=ocp.args.Composite(state=ocp.args.PyTreeSave(state)),
            )
        except Exception as error:
            raise self._failed(step, error, _num_bytes(leaves)) from error
        size = _num_bytes(leaves)
        self._commit = self._committer.submit(self._finish, step, size)

    def _writer(self) -> ocp.AsyncCheckpointer:
        if self._orbax is None:
            options = ocp.options.AsyncOptions(
                # Despite its name orbax calls it on the first process just before the
                # commit, when all arrays are written; raising keeps it from committing.
                post_finalization_callback=self._before_commit,
            )
            self._orbax = ocp.AsyncCheckpointer(
                ocp.CompositeCheckpointHandler(), async_options=options
            )
        return self._orbax

    def _check_space(self, step: int, leaves: list[Any]) -> None:
        free, needed = self._folder.free_bytes(), needed_bytes(_num_bytes(leaves))
        if free is not None and free < needed:
            raise CheckpointError(self._no_space(step, needed, free))

    def _no_space(self, step: int, needed: int, free: int) -> str:
        return (
            f"checkpoint of step {step} could not be written: no space left on "
            f"{self.directory} (needs {gib(needed)}, {gib(free)} free); "
            f"{self._newest_good()}"
        )

    def _newest_good(self) -> str:
        latest = self.latest()
        if latest is None:
            return "there is no older one"
        return f"the newest good one is step {latest}"

    def _make_room(self, step: int, state: Any, digests: jax.Array) -> bool:
        """Whether to save a step, taking away another of the same number."""
        if not agree.primary() or step not in self._folder.steps():
            return True
        self._guard()
        new = dict(zip(digest.names(state), digest.as_texts(digests), strict=True))
        try:
            leaves = self._folder.meta(step).leaves
            if new == {name: leaf.digest for name, leaf in leaves.items()}:
                return False
        except DamageError:
            pass
        self._folder.replace(step)
        return True

    def _before_commit(self) -> None:
        """Writes the meta of the step under way; raises to keep it from a commit."""
        assert self._writing is not None and self._orbax is not None
        meta, digests = self._writing
        final = self._folder.step_path(meta.step)
        folder = self._orbax.get_temporary_path(final).get() / "meta"
        texts = digest.as_texts(digests)
        leaves = {
            name: LeafMeta(leaf.dtype, leaf.shape, text)
            for (name, leaf), text in zip(meta.leaves.items(), texts, strict=True)
        }
        meta = Meta(meta.step, meta.evaluations, meta.measured, leaves)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metadata").write_text(meta.to_text())
        self._guard()

    def _finish(self, step: int, size: int) -> None:
        """Waits for a commit; in a thread of its own."""
        assert self._orbax is not None
        try:
            self._orbax.wait_until_finished()
            self._writing = None
            if agree.primary():
                self._folder.replaced(step)
                self._verification = self._verifier.submit(self._look_after)
        except BaseException as error:
            self._error = self._failed(step, error, size)

    def _failed(self, step: int, error: BaseException, size: int) -> CheckpointError:
        """What to raise for a save that failed; what it wrote is removed."""
        free = self._folder.free_bytes() or 0
        full = disk_full(error)
        try:
            if agree.primary():
                self._guard()  # what is there may be another's by now
                self._folder.discard_half(step)
        except Exception:
            pass  # the next start tidies up
        if full:
            return CheckpointError(self._no_space(step, needed_bytes(size), free))
        return CheckpointError(
            f"checkpoint of step {step} could not be written: {first_line(error)}; "
            f"{self._newest_good()}"
        )

    # Verifying

    def _look_after(self) -> None:
        """Reads back what is not verified yet, then removes what is not kept."""
        try:
            while self._verify and not self._stopping.is_set():
                metas = self._folder.metas()
                step = policy.next_to_verify(
                    self._folder.steps(), self._folder.verified(metas), self._keep
                )
                if step is None or not self._read_back(step):
                    break
            self._tidy()
        except CheckpointError as error:
            self._error = error
        except BaseException as error:
            self._error = CheckpointError(
                f"checkpoints in {self.directory} could not be verified: "
                f"{first_line(error)}; {self._newest_good()}"
            )

    def _read_back(self, step: int) -> bool:
        """Verifies a step; whether to go on with the next."""
        try:
            meta = self._folder.meta(step)
            if not self._arrays(meta).check(self._stopping.is_set):
                return False
        except DamageError as damage:
            self._guard()
            moved = self._folder.set_aside(step, str(damage))
            raise CheckpointError(
                f"checkpoint of step {step} was not written as it was saved ({damage}); "
                f"moved to {moved}; {self._newest_good()}"
            ) from None
        except CheckpointError as error:
            self._say(f"checkpoint of step {step} is not verified yet: {error}")
            return False
        self._folder.mark_verified(meta)
        return True

    def _arrays(self, meta: Meta) -> StepArrays:
        state = self._folder.step_path(meta.step) / "state"
        return StepArrays(state, meta.leaves, alive=self._alive)

    def _tidy(self) -> None:
        steps, metas = self._folder.steps(), self._folder.metas()
        good = self._folder.verified(metas) if self._verify else steps
        kept = policy.preserved(steps, good, self._ranks(metas), self._keep)
        if set(steps) - kept:
            self._guard()
        for step in set(steps) - kept:
            self._folder.delete(step)

    def poll(self) -> None:
        """To be called once a step: raises what went wrong in the background.

        Raises:
          CheckpointError: a save could not be written, or was not what was saved.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    # Restoring

    def restore_latest(self, abstract: Any) -> tuple[int, Any, dict[str, float]] | None:
        """The newest step that is right: step, state and evaluations.

        Damaged steps are set aside in ``quarantine/`` with one message each.

        Args:
          abstract: the state's shapes and dtypes, with the shardings to restore into.

        Returns:
          None where nothing was ever saved.

        Raises:
          CheckpointError: no step is left that is right, or what is wrong is not the
            step: another model's, too little memory, storage that does not answer.
        """
        self._settle()
        tried = []
        for step in agree.steps(self._folder.steps):
            try:
                state, meta = self._load(step, abstract)
            except DamageError as damage:
                tried.append(f"{step}: {damage}")
                self._report_damage(step, str(damage))
                continue
            if not self._read_only and agree.primary():
                self._note_verified(meta)
            return step, state, dict(meta.evaluations)
        set_aside = agree.on_all(self._folder.quarantined)
        if tried or set_aside:
            what = "; ".join(tried) or f"set aside earlier: {', '.join(set_aside)}"
            raise CheckpointError(
                f"{self.directory}: no checkpoint is left that is right ({what}). "
                f"To train from the start, move {self._folder.quarantine} away or use "
                "another --workdir"
            )
        return None

    def _note_verified(self, meta: Meta) -> None:
        try:
            self._folder.mark_verified(meta)
        except OSError:
            pass  # a full disk; it is right all the same

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
            return self._arrays(meta).restore(abstract), meta

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

    def _join_commit(self) -> None:
        if self._commit is not None:
            self._commit.result()
            self._commit = None

    def _settle(self) -> None:
        """Returns when nothing goes on in the background."""
        self._join_commit()
        if self._verification is not None:
            self._verification.result()
            self._verification = None

    def wait(self, *, verified: bool = True) -> None:
        """Returns when every started save is complete; raises what went wrong.

        Args:
          verified: also wait until what was saved has been read back.
        """
        self._settle() if verified else self._join_commit()
        self.poll()

    def close(self) -> None:
        """Waits for saves under way, breaks off reading back, and frees threads.

        Raises:
          CheckpointError: something went wrong that was not raised yet.
        """
        self._join_commit()
        self._stopping.set()
        self._committer.shutdown()
        self._verifier.shutdown()
        if self._orbax is not None:
            self._orbax.close()
            self._orbax = None
        self.poll()


def _num_bytes(leaves: list[Any]) -> int:
    return sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in leaves)


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
