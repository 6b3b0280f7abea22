"""Where a run's time goes: each instant is in one phase, so they sum to the whole.

Goodput is the share of `step`; all else is badput. The totals of earlier attempts at
the same run are read back from its log, and work that was done twice becomes `lost`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

PHASES: tuple[str, ...] = (
    "init",
    "restore",
    "compile",
    "data",
    "step",
    "eval",
    "save",
    "lost",
)
PREFIX = "goodput/"


class Goodput:
    """A clock that is always in exactly one phase.

    Args:
      earlier: seconds of previous attempts by phase (`earlier_attempts`).
      clock: seconds, monotonic.
      started: the clock's reading at the start of the process's work; default: now.
    """

    def __init__(
        self,
        earlier: Mapping[str, float] | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        started: float | None = None,
    ) -> None:
        self._clock = clock
        self._seconds = dict.fromkeys(PHASES, 0.0) | dict(earlier or {})
        self._last = dict.fromkeys(PHASES, 0.0)
        self._since = clock() if started is None else started
        self.phase = "init"

    def enter(self, phase: str) -> str:
        """Ends the present phase and begins another; returns the one that ended."""
        now = self._clock()
        ended, spent = self.phase, now - self._since
        self._seconds[ended] += spent
        self._last[ended] = spent
        self.phase, self._since = phase, now
        return ended

    def add(self, earlier: Mapping[str, float]) -> None:
        """Counts the seconds of previous attempts, once they are known."""
        for phase, seconds in earlier.items():
            self._seconds[phase] += seconds

    def last(self, phase: str) -> float:
        """Seconds that a phase took when it last ended."""
        return self._last[phase]

    def seconds(self) -> dict[str, float]:
        """Seconds by phase up to now, earlier attempts included."""
        now = dict(self._seconds)
        now[self.phase] += self._clock() - self._since
        return now

    def scalars(self) -> dict[str, float]:
        """For the log: seconds by phase, and the share of them spent on steps."""
        seconds = self.seconds()
        total = sum(seconds.values())
        row = {f"{PREFIX}{phase}_seconds": value for phase, value in seconds.items()}
        row[f"{PREFIX}ratio"] = seconds["step"] / total if total else 0.0
        return row


def earlier_attempts(
    rows: Sequence[Mapping[str, Any]],
    start: int,
    noted: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Seconds by phase of the attempts before one that resumes from step ``start``.

    What came after ``start`` is about to be done again: its time, whatever the phase,
    is `lost`. (Time between the last sign of an attempt and its death left no trace.)

    Args:
      rows: of the log, those after ``start`` included.
      start: where the run is resumed.
      noted: a row that was kept beside the log.
    """
    known = [row for row in (*rows, noted or {}) if f"{PREFIX}ratio" in row]
    last = max(map(_seconds, known), key=_total, default={})
    kept = [_seconds(row) for row in known if row["step"] <= start]
    before = max(kept, key=_total, default=dict.fromkeys(PHASES, 0.0))
    again = _total(last) - _total(before)
    return before | {"lost": before["lost"] + again}


def _seconds(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        phase: float(row.get(f"{PREFIX}{phase}_seconds") or 0.0) for phase in PHASES
    }


def _total(seconds: Mapping[str, float]) -> float:
    return sum(seconds.values())


def table(seconds: Mapping[str, float]) -> str:
    """A line for people: shares of the time, largest first."""
    total = sum(seconds.values())
    shares = sorted(seconds.items(), key=lambda item: -item[1])
    parts = [
        f"{phase} {100 * value / total:.1f} %" for phase, value in shares if value > 0
    ]
    return f"{total:,.1f} s: " + ", ".join(parts)
