"""Metrics of steps that are still on the devices, and the check for finiteness."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

Scalars = dict[str, float]
NONFINITE = "train/nonfinite"


class NonFiniteError(ArithmeticError):
    """Training diverged; the message names the steps and what is left."""


class Pending:
    """Metrics of the steps since the last look.

    A step whose loss, gradient or result is not finite was not applied
    (`train_step`); here such steps are counted, and end the run after some in a row.

    Args:
      max_nonfinite: as many steps in a row raise.
      streak: how many ended the part of the run that is resumed.
      example_ids: of a step (0-based), for the message.
    """

    def __init__(
        self,
        *,
        max_nonfinite: int,
        streak: int = 0,
        example_ids: Callable[[int], Any] | None = None,
    ) -> None:
        self._steps: list[tuple[int, dict[str, jax.Array]]] = []
        self._max, self._streak = max_nonfinite, streak
        self.example_ids = example_ids

    def add(self, step: int, values: dict[str, jax.Array]) -> None:
        """Notes a step, and waits for the one two before it.

        Dispatch could otherwise run away and fill memory with batches.
        """
        self._steps.append((step, values))
        if len(self._steps) > 2:
            self._steps[-3][1]["loss"].block_until_ready()

    def take(self) -> tuple[Scalars, list[int]]:
        """The newest step's metrics, and which steps were not applied.

        Raises:
          NonFiniteError: too many in a row were not.
        """
        taken, self._steps = jax.device_get(self._steps), []
        skipped = []
        for step, values in taken:
            if not values["nonfinite"]:
                self._streak = 0
                continue
            skipped.append(step)
            self._streak += 1
            if self._streak >= self._max:
                raise NonFiniteError(self._message(step, values))
        newest = {name: float(value) for name, value in taken[-1][1].items()}
        del newest["nonfinite"]
        return newest, skipped

    def __bool__(self) -> bool:
        return bool(self._steps)

    def _message(self, step: int, values: dict[str, Any]) -> str:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        text = f"{', '.join(bad) or 'the update'} at step {step} is not finite"
        if self._streak > 1:
            text += f", nor at the {self._streak - 1} before it"
        if self.example_ids is not None:
            ids = [int(one) for one in self.example_ids(step - 1)]
            shown = ", ".join(map(str, ids[:32])) + (", ..." if len(ids) > 32 else "")
            text += f"; examples of step {step}: {shown}"
        return text


def streak_of(rows: Sequence[dict[str, Any]], start: int) -> int:
    """How many steps up to ``start``, in a row, were not applied, by the log."""
    skipped = {row["step"] for row in rows if row.get(NONFINITE)}
    streak = 0
    while start - streak in skipped:
        streak += 1
    return streak
