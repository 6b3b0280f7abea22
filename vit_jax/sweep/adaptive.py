"""Adaptive search: Optuna proposes trials, learns how they end, and prunes.

The study is in memory. What is known is in the trials' directories, and a study is made
from them at every start: a driver that was killed has lost nothing.
"""

import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.config import ConfigError
from vit_jax.sweep import trials
from vit_jax.sweep.ranges import Choice, Range, SweepError, Uniform, round_to
from vit_jax.sweep.record import Sweep
from vit_jax.sweep.trials import Trial
from vit_jax.sweep.validate import Checker

SEARCHES = ("tpe", "random")
PRUNERS = ("none", "median", "halving")
_REPEATS = 50  # proposals in a row of what is known already: the space is exhausted


def import_optuna() -> Any:
    """Optuna, with its remarks off.

    Raises:
      SweepError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise SweepError(
            "adaptive search needs Optuna; run: pip install 'vit-jax[sweep]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Space:
    """Ranges as Optuna's distributions, and back to overrides.

    A choice is given to Optuna as the place in its list: values may be of any type.
    """

    def __init__(self, ranges: Mapping[str, Range], checker: Checker, optuna: Any):
        self._ranges = dict(ranges)
        self._places: dict[str, dict[str, int]] = {}
        self.distributions = {}
        for key, values in ranges.items():
            if isinstance(values, Choice):
                self._places[key] = {
                    json.dumps(checker.trial({key: value}, 0).overrides[key]): index
                    for index, value in reversed(list(enumerate(values.values)))
                }
            self.distributions[key] = _distribution(values, optuna)

    def overrides(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What a proposal changes in the config."""
        changed = {}
        for key, values in self._ranges.items():
            value = params[key]
            if isinstance(values, Choice):
                value = values.values[value]
            elif isinstance(values, Uniform) and isinstance(value, float):
                value = min(max(round_to(value, 6), values.low), values.high)
            changed[key] = value
        return changed

    def params(self, overrides: Mapping[str, Any]) -> dict[str, Any] | None:
        """The proposal that a trial came from; None if it is not of this space."""
        params = {}
        for key, distribution in self.distributions.items():
            value = overrides.get(key)
            if key in self._places:
                value = self._places[key].get(json.dumps(value))
            if value is None or not distribution._contains(
                distribution.to_internal_repr(value)
            ):
                return None
            params[key] = value
        return params


def _distribution(values: Range, optuna: Any) -> Any:
    distributions = optuna.distributions
    if isinstance(values, Choice):
        return distributions.CategoricalDistribution(list(range(len(values.values))))
    assert isinstance(values, Uniform)
    if values.whole:
        return distributions.IntDistribution(int(values.low), int(values.high))
    low, high = float(values.low), float(values.high)
    return distributions.FloatDistribution(low, high, log=values.log)


class Adaptive:
    """Trials as Optuna proposes them; a source for `local.Runner`.

    Args:
      ranges: the space, by key.
      budget: trials in all, those that are over included.
      workdir: of the sweep.
      checker: makes trials.
      sweep: says the metric and its direction.
      search: of SEARCHES.
      prune: of PRUNERS.
      prune_after: steps in which no trial is stopped; None: a quarter of its steps.
      seed: of the proposals.
    """

    def __init__(
        self,
        ranges: Mapping[str, Range],
        *,
        budget: int,
        workdir: Any,
        checker: Checker,
        sweep: Sweep,
        search: str = "tpe",
        prune: str = "none",
        prune_after: int | None = None,
        seed: int = 0,
    ):
        self._optuna = import_optuna()
        self._budget, self._workdir = budget, workdir
        self._checker, self._sweep = checker, sweep
        self._prune, self._prune_after = prune, prune_after
        self._space = Space(ranges, checker, self._optuna)
        known = trials.read_trials(workdir)
        self._known = {trial.id for trial in known}
        self._next = max((trial.number for trial in known), default=-1) + 1
        self._asked: dict[str, Any] = {}  # Optuna's trial, by ours
        self._reported: dict[str, int] = {}
        samplers = self._optuna.samplers
        # Otherwise the first proposals of a second start would be those of the first.
        seed += len(known)
        sampler = (
            samplers.RandomSampler(seed=seed)
            if search == "random"
            else samplers.TPESampler(seed=seed)
        )
        self._study = self._optuna.create_study(
            direction="maximize" if sweep.mode == "max" else "minimize",
            sampler=sampler,
            pruner=self._pruner(),
        )
        self._unfinished: deque[Trial] = deque()
        for trial in known:
            self._remember(trial)

    def _pruner(self) -> Any:
        pruners = self._optuna.pruners
        if self._prune == "median":
            return pruners.MedianPruner(n_startup_trials=4)
        if self._prune == "halving":
            return pruners.SuccessiveHalvingPruner()
        return pruners.NopPruner()

    def _remember(self, trial: Trial) -> None:
        """Puts a trial of an earlier start where it belongs."""
        params = self._space.params(trial.overrides)
        place = trials.folder(self._workdir, trial.id)
        result = trials.read_result(place)
        if not result:
            if params is not None:
                self._study.enqueue_trial(params)
                self._asked[trial.id] = self._study.ask(self._space.distributions)
            self._unfinished.append(trial)
        elif params is not None:
            self._study.add_trial(
                self._optuna.trial.create_trial(
                    params=params,
                    distributions=self._space.distributions,
                    intermediate_values=dict(self._values(trials.rows_of(place))),
                    **self._outcome(result),
                )
            )

    def _outcome(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Optuna's state of a trial, and its value."""
        states = self._optuna.trial.TrialState
        value = trials.number(result["metrics"], self._sweep.metric)
        if result["status"] == trials.FAILED or value is None:
            return {"state": states.FAIL}
        pruned = result["status"] == trials.PRUNED
        return {"state": states.PRUNED if pruned else states.COMPLETE, "value": value}

    def _values(self, rows: list[dict[str, Any]]) -> list[tuple[int, float]]:
        metric = self._sweep.metric
        found = [(row["step"], trials.number(row, metric)) for row in rows]
        return [(step, value) for step, value in found if value is not None]

    def take(self) -> Trial | None:
        if self._unfinished:
            return self._unfinished.popleft()
        for _ in range(_REPEATS):
            if len(self._known) >= self._budget:
                return None
            asked = self._study.ask(self._space.distributions)
            overrides = self._space.overrides(asked.params)
            try:
                trial = self._checker.trial(overrides, self._next)
            except ConfigError:  # two values that do not fit each other
                self._study.tell(asked, state=self._optuna.trial.TrialState.FAIL)
                continue
            if trial.id in self._known:
                self._tell(asked, trial)
                continue
            self._known.add(trial.id)
            self._next += 1
            self._asked[trial.id] = asked
            trials.write_trial(self._workdir, trial)
            return trial
        return None

    def _tell(self, asked: Any, trial: Trial) -> None:
        """A proposal that is not new: what came of it, if that is known."""
        result = trials.result_of(self._workdir, trial)
        outcome = {"state": self._optuna.trial.TrialState.FAIL}
        if result and result["status"] == trials.DONE:
            outcome = self._outcome(result)
        self._study.tell(asked, outcome.get("value"), outcome["state"])

    def ended(self, trial: Trial, result: dict[str, Any]) -> None:
        asked = self._asked.pop(trial.id, None)
        if asked is None:
            return
        outcome = self._outcome(result)
        pruned = outcome["state"] == self._optuna.trial.TrialState.PRUNED
        # Of a pruned trial Optuna takes what was reported last.
        self._study.tell(
            asked, None if pruned else outcome.get("value"), outcome["state"]
        )

    def hopeless(self, trial: Trial, rows: Callable[[], list[dict[str, Any]]]) -> bool:
        asked = self._asked.get(trial.id)
        if asked is None or self._prune == "none":
            return False
        spared = self._prune_after
        spared = trial.steps // 4 if spared is None else spared
        for step, value in self._values(rows()):
            if step > self._reported.get(trial.id, -1):
                self._reported[trial.id] = step
                asked.report(value, step)
                if step >= spared and step < trial.steps and asked.should_prune():
                    return True
        return False
