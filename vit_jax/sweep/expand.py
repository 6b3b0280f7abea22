"""Product, zip, chain and random over config keys: lists of trials, nothing run.

A trial is a dict of overrides, ``{"optim.learning_rate": 1e-3, "seed": 1}``. Where
several values are meant a part is given: a dict of lists, or the result of another
call. A list holds values, a tuple is one.

    product({"optim.learning_rate": [1e-3, 3e-3], "seed": range(3)})   6 trials
"""

import itertools
import random as random_numbers
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.sweep.ranges import Choice, Range, SweepError

Overrides = dict[str, Any]
Part = Mapping[str, Any] | Sequence[Any]  # as a user writes it: checked here


class Drawn(list[Overrides]):
    """Trials that were drawn, and from where: what adaptive search needs to know."""

    def __init__(self, trials: Sequence[Overrides], space: Mapping[str, Range]):
        super().__init__(trials)
        self.space = dict(space)


def product(*parts: Part) -> list[Overrides]:
    """Every combination; the last key changes fastest."""
    factors = [factor for part in parts for factor in _factors(part)]
    return [_merged(chosen) for chosen in itertools.product(*factors)]


def zipped(*parts: Part) -> list[Overrides]:
    """The first of each, then the second of each; all must be equally long."""
    factors = [factor for part in parts for factor in _factors(part)]
    lengths = {len(factor) for factor in factors}
    if len(lengths) > 1:
        named = ", ".join(f"{'+'.join(f[0])}: {len(f)}" for f in factors if f)
        raise SweepError(f"zip needs equally many values of each key, got {named}")
    return [_merged(chosen) for chosen in zip(*factors, strict=True)]


def chain(*parts: Part) -> list[Overrides]:
    """The trials of one part after those of another.

    Of a dict each key is a part: one is changed at a time, the others stay as in the
    config.
    """
    return [trial for part in parts for factor in _factors(part) for trial in factor]


def random(space: Mapping[str, Any], samples: int, seed: int = 0) -> Drawn:
    """Trials drawn from ranges; a list of values is a choice of one.

    Args:
      space: `uniform`, `loguniform`, `integers`, `choice` or a list of values, by key.
      samples: how many; more of the same seed begin with the same ones.
      seed: of the draws.
    """
    if samples < 1:
        raise SweepError(f"random needs at least one sample, got {samples}")
    ranges = {key: as_range(key, values) for key, values in space.items()}
    rng = random_numbers.Random(seed)
    drawn = [
        {key: values.draw(rng) for key, values in ranges.items()}
        for _ in range(samples)
    ]
    return Drawn(drawn, ranges)


def as_range(key: str, values: Any) -> Range:
    """What to draw a key from."""
    if isinstance(values, Range):
        return values
    return Choice(tuple(_values(key, values)))


def _factors(part: Part) -> list[list[Overrides]]:
    """A part as lists of which one is taken at a time."""
    if isinstance(part, Mapping):
        return [[{key: v} for v in _values(key, part[key])] for key in part]
    trials = list(part)
    if wrong := [trial for trial in trials if not isinstance(trial, Mapping)]:
        raise SweepError(
            f"a list in a sweep holds trials such as {{'seed': 1}}, got {wrong[0]!r}"
        )
    return [[dict(trial) for trial in trials]]


def _values(key: str, values: Any) -> list[Any]:
    if isinstance(values, Range):
        raise SweepError(
            f"{key} has a range, from which random draws: random({{'{key}': ...}}, "
            "samples=N)"
        )
    if hasattr(values, "tolist"):  # numpy's
        values = values.tolist()
    if not isinstance(values, list | range):
        return [values]  # one value for all; so is a tuple
    if not len(values):
        raise SweepError(f"{key} has no values")
    return list(values)


def _merged(chosen: Sequence[Overrides]) -> Overrides:
    merged: Overrides = {}
    for trial in chosen:
        if twice := merged.keys() & trial.keys():
            raise SweepError(f"{min(twice)} is set by two parts of the same trial")
        merged |= trial
    return merged
