"""What `random` and adaptive search draw values from."""

import dataclasses
import math
import random
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable


class SweepError(ValueError):
    """What the user must change in a sweep."""


@runtime_checkable
class Range(Protocol):
    """Values of one key."""

    def draw(self, rng: random.Random) -> Any:
        """One value."""
        ...

    def ends(self) -> list[Any]:
        """Values to be checked before any trial starts."""
        ...


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Real numbers, or whole ones, with equal or logarithmic density."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def draw(self, rng: random.Random) -> float | int:
        if self.whole:
            return rng.randint(int(self.low), int(self.high))
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        return round_to(value, 6)

    def ends(self) -> list[Any]:
        kind = int if self.whole else float
        return [kind(self.low), kind(self.high)]


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def draw(self, rng: random.Random) -> Any:
        return self.values[rng.randrange(len(self.values))]

    def ends(self) -> list[Any]:
        return list(self.values)


def uniform(low: Any, high: Any) -> Uniform:
    """Any number between two."""
    _ordered("uniform", low, high)
    return Uniform(low, high)


def loguniform(low: Any, high: Any) -> Uniform:
    """Any number between two, as often from 1e-4 to 1e-3 as from 1e-3 to 1e-2."""
    _ordered("loguniform", low, high)
    if low <= 0:
        raise SweepError(f"loguniform({low}, {high}): the low end must be above 0")
    return Uniform(low, high, log=True)


def integers(low: Any, high: Any) -> Uniform:
    """Any whole number from one to another, both included."""
    _ordered("integers", low, high)
    if low != int(low) or high != int(high):
        raise SweepError(f"integers({low}, {high}) needs whole numbers")
    return Uniform(low, high, whole=True)


def choice(values: Sequence[Any]) -> Choice:
    """Any of some values."""
    if not len(values):
        raise SweepError("choice() needs at least one value")
    return Choice(tuple(values))


def _ordered(name: str, low: Any, high: Any) -> None:
    numbers = all(
        isinstance(value, int | float) and math.isfinite(value) for value in (low, high)
    )
    if not numbers or not low <= high:
        raise SweepError(
            f"{name}({low!r}, {high!r}) needs two numbers, the lower first"
        )


def round_to(value: float, digits: int) -> float:
    """A drawn number with so many significant digits, as it is shown and typed."""
    return float(f"{value:.{digits}g}")


FUNCTIONS = {
    "uniform": uniform,
    "loguniform": loguniform,
    "integers": integers,
}
