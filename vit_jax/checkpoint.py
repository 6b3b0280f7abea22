"""Sharded, asynchronous checkpoints of a run, on orbax.

A step directory holds ``state`` (the arrays) and ``meta`` (JSON: evaluations so far).
"""

import math
import os
from collections.abc import Mapping
from typing import Any

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies


class CheckpointError(ValueError):
    """A checkpoint that is not there or does not fit; the message says what to do."""


def _preservation(keep: int, best: str) -> Any:
    latest = policies.LatestN(keep)
    if not best:
        return latest
    best_one = policies.BestN(
        get_metric_fn=lambda metrics: _rank(metrics, best),
        n=1,
        keep_checkpoints_without_metrics=False,
    )
    return policies.AnyPreservationPolicy([latest, best_one])


def _rank(metrics: Mapping[str, float] | None, best: str) -> float:
    """Higher is better; losses are turned round, a missing number comes last."""
    value = (metrics or {}).get(best, math.nan)
    if math.isnan(value):
        return -math.inf
    return -value if best.endswith("loss") else value


class Checkpoints:
    """The checkpoints of one work directory.

    Args:
      directory: made when the first checkpoint is saved.
      keep: how many of the newest stay.
      best: metric whose best checkpoint stays as well (a name ending in ``loss`` is
        minimised, any other maximised), or "".
      read_only: nothing is written or tidied up; a run may be saving there.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep: int = 1,
        best: str = "",
        read_only: bool = False,
    ):
        self.directory = epath.Path(directory)
        self._best = best
        self._manager = ocp.CheckpointManager(
            # An absolute path of a bucket would be one of this file system.
            self.directory
            if os.fspath(directory).startswith("gs://")
            else self.directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_preservation(keep, best),
                best_fn=(lambda metrics: _rank(metrics, best)) if best else None,
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
            ),
        )

    def latest(self) -> int | None:
        """The newest saved step."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The saved step with the best metric, or the newest where none has it."""
        best = self._manager.best_step() if self._best else None
        return self.latest() if best is None else best

    def find(self, step: str) -> int:
        """A saved step by number, ``"latest"`` or ``"best"``.

        Raises:
          CheckpointError: it is not there; those that are, are listed.
        """
        saved = list(self._manager.all_steps())
        named = {"latest": self.latest(), "best": self.best()}
        number = named.get(step, int(step) if step.isdigit() else None)
        if number is None or number not in saved:
            have = ", ".join(map(str, sorted(saved))) or "none"
            raise CheckpointError(
                f"{self.directory}: no checkpoint {step!r}; there: {have} (or latest, "
                "best)"
            )
        return number

    def save(
        self,
        step: int,
        state: Any,
        evaluations: Mapping[str, float],
        *,
        measured: bool = True,
    ) -> None:
        """Starts a save; only the copy off the devices is waited for.

        ``evaluations`` are the newest results; they rank the checkpoint only if they
        were measured at this very step.
        """
        metrics = {name: float(value) for name, value in evaluations.items()}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(state),
                meta=ocp.args.JsonSave({"step": step, "evaluations": metrics}),
            ),
            metrics=metrics if self._best and measured else None,
        )

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, float]]:
        """The state of ``step``, sharded as ``abstract_state``, and its evaluations."""
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    abstract_state,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(
                        abstract_state
                    ),
                ),
                meta=ocp.args.JsonRestore(),
            ),
        )
        return restored["state"], restored["meta"]["evaluations"]

    def wait(self) -> None:
        """Returns when every started save is complete; raises what went wrong."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves under way and frees threads."""
        self._manager.close()
