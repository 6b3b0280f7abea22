"""Writing a step with orbax: digests first, the commit in the background."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from vit_jax import digest
from vit_jax.checkpoint import agree, leaks
from vit_jax.checkpoint.arrays import LeafMeta
from vit_jax.checkpoint.errors import (
    CheckpointError,
    DamageError,
    disk_full,
    first_line,
)
from vit_jax.checkpoint.folder import Folder, Meta, gib, needed_bytes


class Saver:
    """Saves one step at a time.

    Args:
      folder: where.
      guard: raises when this process may not write here any more.
      committed: called on the first process after each commit, in a thread.
    """

    def __init__(
        self, folder: Folder, guard: Callable[[], None], committed: Callable[[], None]
    ):
        self._folder = folder
        self._guard = guard
        self._committed = committed
        self._orbax: Any = None
        self._writing: tuple[Meta, jax.Array] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint-commit")
        self._commit: concurrent.futures.Future | None = None
        self.error: CheckpointError | None = None

    def save(
        self, step: int, state: Any, evaluations: Mapping[str, float], measured: bool
    ) -> None:
        """Starts a save, or does nothing if all that is there already.

        The same arrays are saved again when they were measured since.
        """
        digests = digest.start(state)
        leaves = jax.tree.leaves(state)
        size = sum(leaf.nbytes for leaf in leaves)
        agree.on_all(lambda: self._check_space(step, size))
        try:
            wanted = agree.on_all(
                lambda: self._make_room(step, state, digests, measured)
            )
        except OSError as error:
            raise self._failed(step, error, size) from error
        if not agree.from_primary(wanted):
            return
        metas = {
            name: LeafMeta(leaf.dtype.name, tuple(leaf.shape), "")
            for name, leaf in zip(digest.names(state), leaves, strict=True)
        }
        self._writing = Meta(step, evaluations, measured, metas), digests
        try:
            self._start(self._folder.step_path(step), state)
        except Exception as error:
            raise self._failed(step, error, size) from error
        self._commit = self._thread.submit(self._finish, step, size)

    def _start(self, path: Any, state: Any) -> None:
        # Here, because it takes seconds to import and whoever only reads needs it not.
        import orbax.checkpoint as ocp

        if self._orbax is None:
            leaks.avoid()
            options = ocp.options.AsyncOptions(
                # Despite its name orbax calls it on the first process just before the
                # commit, when all arrays are written; raising keeps it from committing.
                post_finalization_callback=self._before_commit,
            )
            self._orbax = ocp.AsyncCheckpointer(
                ocp.CompositeCheckpointHandler(), async_options=options
            )
        item = ocp.args.Composite(state=ocp.args.PyTreeSave(state))
        self._orbax.save(path, args=item)

    def _check_space(self, step: int, size: int) -> None:
        free, needed = self._folder.free_bytes(), needed_bytes(size)
        if free is not None and free < needed:
            raise CheckpointError(self._no_space(step, needed, free))

    def _no_space(self, step: int, needed: int, free: int | None) -> str:
        left = "" if free is None else f", {gib(free)} free"
        return (
            f"checkpoint of step {step} could not be written: no space left on "
            f"{self._folder.path} (needs {gib(needed)}{left}); "
            f"{self._folder.newest_good()}"
        )

    def _make_room(
        self, step: int, state: Any, digests: jax.Array, measured: bool
    ) -> bool:
        """Whether to save a step, taking away another of the same number."""
        if not agree.primary():
            return True
        self._guard()
        self._folder.discard_half(step)
        if step not in self._folder.steps():
            return True
        new = dict(zip(digest.names(state), digest.as_texts(digests), strict=True))
        with contextlib.suppress(DamageError):
            meta = self._folder.meta(step)
            same = new == {name: leaf.digest for name, leaf in meta.leaves.items()}
            if same and (meta.measured or not measured):
                return False
        self._folder.replace(step)
        return True

    def _before_commit(self) -> None:
        """Writes the meta of the step under way; raises to keep it from a commit."""
        if self._writing is None:
            raise RuntimeError("a commit without a save")
        meta, digests = self._writing
        final = self._folder.step_path(meta.step)
        texts = digest.as_texts(digests)
        leaves = {
            name: LeafMeta(leaf.dtype, leaf.shape, text)
            for (name, leaf), text in zip(meta.leaves.items(), texts, strict=True)
        }
        meta = Meta(meta.step, meta.evaluations, meta.measured, leaves)
        self._folder.write_meta(self._orbax.get_temporary_path(final).get(), meta)
        self._guard()

    def _finish(self, step: int, size: int) -> None:
        """Waits for a commit; in a thread."""
        try:
            self._orbax.wait_until_finished()
            if agree.primary():
                self._folder.replaced(step)
                self._committed()
        except BaseException as error:
            self.error = self._failed(step, error, size)
            self.error.__cause__ = error
        finally:
            self._writing = None

    def _failed(self, step: int, error: BaseException, size: int) -> CheckpointError:
        """What to raise for a save that failed; what it wrote is removed."""
        with contextlib.suppress(Exception):  # else the next start tidies up
            if agree.primary():
                self._guard()  # what is there may be another's by now
                self._folder.discard_half(step)
        if disk_full(error):
            free = self._folder.free_bytes()
            return CheckpointError(self._no_space(step, needed_bytes(size), free))
        return CheckpointError(
            f"checkpoint of step {step} could not be written: {first_line(error)}; "
            f"{self._folder.newest_good()}"
        )

    def join(self) -> None:
        """Returns when nothing is being written."""
        if self._commit is not None:
            self._commit.result()
            self._commit = None

    def close(self) -> None:
        """Waits for the save under way and frees threads."""
        self.join()
        self._thread.shutdown()
        if self._orbax is not None:
            self._orbax.close()
            self._orbax = None
