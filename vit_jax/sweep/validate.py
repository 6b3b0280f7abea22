"""Every trial against the sweep's config, before the first one starts.

No device is touched: the process that drives a sweep must leave them to the trials.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from vit_jax import config as configs
from vit_jax import setup, setup_data
from vit_jax.config import ConfigError
from vit_jax.data import sources
from vit_jax.data.errors import DataError
from vit_jax.sharding import AXES
from vit_jax.sweep.trials import Trial, describe, text

_SHOWN = 10  # problems of trials


class Checker:
    """Turns overrides into trials.

    Args:
      base: the config that all trials share.
      num_devices: of a trial; None where only its machine can tell.
    """

    def __init__(self, base: ConfigDict, num_devices: int | None = None):
        self.base, self._num_devices = base, num_devices
        self._facts: dict[str, Any] = {}

    def trials(self, wanted: Iterable[Mapping[str, Any]]) -> list[Trial]:
        """Distinct trials in their order, numbered from 0.

        Raises:
          ConfigError: what is wrong with them, the first ones of many.
        """
        found: dict[str, Trial] = {}
        problems: list[str] = []
        bad = 0
        for number, overrides in enumerate(wanted):
            try:
                trial = self.trial(overrides, len(found))
                found.setdefault(trial.id, trial)
            except ConfigError as error:
                bad += 1
                named = f"trial {number} ({describe(overrides)})"
                problems += [f"{named}: {problem}" for problem in error.problems]
        if len(problems) == 1:
            raise ConfigError(f"{problems[0]}; nothing was started")
        if problems:
            more = len(problems) - _SHOWN
            shown = problems[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])
            title = f"trials that cannot run: {bad}; nothing was started"
            raise ConfigError(shown, title=title)
        return list(found.values())

    def trial(self, overrides: Mapping[str, Any], number: int) -> Trial:
        """One trial, checked.

        Raises:
          ConfigError: what is wrong with it.
        """
        config = self.config_of(overrides)
        facts = self._describe(config)
        problems = configs.check(
            config, facts=facts, num_devices=self._num_devices or _fewest(config)
        )
        problems += setup_data.check_evaluated(config)
        if problems:
            raise ConfigError(problems)
        examples = setup_data.num_train_examples(config, facts)
        steps = setup.resolve_steps(setup.resolve(config, facts), examples)
        keys = [*overrides, *({"seed"} - set(overrides))]
        values = {key: plain(_value(config, key)) for key in keys}
        return Trial(values, number, steps.total)

    def config_of(self, overrides: Mapping[str, Any]) -> ConfigDict:
        """The config of a trial."""
        if none := [key for key, value in overrides.items() if value is None]:
            raise ConfigError(
                f"{none[0]} is None, which a command line cannot say; leave it out"
            )
        config = self.base.copy_and_resolve_references().lock()
        configs.override(
            config, [f"config.{k}={text(v)}" for k, v in overrides.items()]
        )
        return config

    def _describe(self, config: ConfigDict) -> Any:
        """What the data set says of itself; asked once."""
        spec = setup_data.data_spec(config)
        if repr(spec) not in self._facts:
            try:
                self._facts[repr(spec)] = sources.describe(spec)
            except DataError as error:
                raise ConfigError(str(error)) from error
        return self._facts[repr(spec)]


def plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def _value(config: ConfigDict, key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config


def _fewest(config: ConfigDict) -> int:
    """The smallest number of devices that a mesh can be laid over."""
    return max(1, math.prod(size for a in AXES if (size := config.mesh[a]) > 0))
