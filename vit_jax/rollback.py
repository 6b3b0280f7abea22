"""Going back to the last checkpoint's parameters when the loss jumps.

The data go on: the run continues at the step it had reached, with older parameters,
and so does not meet the same examples again. Only checkpoints of the regular interval
count, not those that a signal asked for: an interrupted run goes back to the same one.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any


class SpikeError(ArithmeticError):
    """The loss jumped once too often; the message says how far."""


EVENT = "train/rolled_back_to"


class Spikes:
    """Says when a logged loss is far above those before it.

    What it decides depends on the logged rows alone, so a resumed run, which reads
    them again, decides as the uninterrupted one.

    Args:
      factor: of the median of the last losses; 0 never rolls back.
      window: how many losses; none is judged before as many are known.
      max: rollbacks of a run; one more raises.
      rows: of the part of the run that is resumed.
    """

    def __init__(
        self,
        *,
        factor: float,
        window: int,
        max: int,
        rows: Sequence[dict[str, Any]] = (),
    ) -> None:
        self._factor, self._window, self._max = factor, window, max
        self._losses: list[float] = []
        self.rollbacks = 0
        for row in rows:
            if EVENT in row:
                self._rolled_back()
            elif "train/loss" in row:
                self._add(row["train/loss"])

    def spiked(self, loss: float) -> bool:
        """Whether to go back, given the loss just logged.

        Raises:
          SpikeError: it would be one rollback too many.
        """
        known = self._losses
        high = (
            self._factor > 0
            and len(known) >= self._window
            and loss > self._factor * statistics.median(known)
        )
        if not high:
            self._add(loss)
            return False
        if self.rollbacks >= self._max:
            raise SpikeError(
                f"loss {loss:.4g} is more than {self._factor:g} times the median of "
                f"the last {self._window} logged, after {self.rollbacks} rollbacks "
                "(train.rollback.max)"
            )
        self._rolled_back()
        return True

    def _rolled_back(self) -> None:
        self.rollbacks += 1
        self._losses = []

    def _add(self, loss: float | None) -> None:
        if loss is not None and math.isfinite(loss):
            self._losses = [*self._losses, loss][-self._window :]
