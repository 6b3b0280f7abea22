"""Optuna's proposals: told how trials end, pruned, and known again after a kill."""

import dataclasses

import numpy as np
import pytest

from tests import training
from tests.sweep import fakes
from vit_jax import config as configs
from vit_jax import sweep
from vit_jax.sweep import trials
from vit_jax.sweep.adaptive import Adaptive, Space, import_optuna
from vit_jax.sweep.ranges import SweepError
from vit_jax.sweep.validate import Checker

RATE = sweep.uniform(0.0, 1.0)


@pytest.fixture(scope="module")
def checker():
    changes = (*training.TINY, "data.name=arrays:digits", "train.duration.steps=20")
    return Checker(configs.load(training.DIGITS, [f"--config.{c}" for c in changes]))


def make(workdir, checker, ranges=None, budget=8, **settings):
    return Adaptive(
        ranges or {"optim.learning_rate": RATE},
        budget=budget,
        workdir=workdir,
        checker=checker,
        **{"sweep": fakes.SWEEP} | settings,
    )


def end(workdir, source, trial, value, status="done"):
    place = trials.folder(workdir, trial.id)
    (place / "metrics.jsonl").write_text(f'{{"step": 20, "val/accuracy": {value}}}\n')
    source.ended(trial, trials.write_result(place, status=status))


def quality(trial):
    return 1 - (trial.overrides["optim.learning_rate"] - 0.3) ** 2


def test_proposals_come_near_the_optimum(tmp_path, checker):
    source = make(tmp_path, checker, budget=30, seed=1)
    seen = []
    while trial := source.take():
        seen.append(trial)
        end(tmp_path, source, trial, quality(trial))
    assert len(seen) == 30 == len({trial.id for trial in seen})
    rates = [trial.overrides["optim.learning_rate"] for trial in seen]
    assert all(0 <= rate <= 1 for rate in rates)
    assert np.mean([abs(rate - 0.3) for rate in rates[10:]]) < 0.2  # at random: 0.29


def test_the_direction_is_that_of_the_sweep(tmp_path, checker):
    less = dataclasses.replace(fakes.SWEEP, mode="min")
    source = make(tmp_path, checker, budget=30, seed=1, sweep=less)
    rates = []
    while trial := source.take():
        rates.append(trial.overrides["optim.learning_rate"])
        end(tmp_path, source, trial, quality(trial))
    assert np.mean([abs(rate - 0.3) for rate in rates[10:]]) > 0.4  # 0.7 at most


def test_a_second_start_knows_what_the_first_has_found(tmp_path, checker):
    first = make(tmp_path, checker, budget=8)
    begun = [first.take() for _ in range(6)]
    for trial in begun[:4]:
        end(tmp_path, first, trial, quality(trial))
    end(tmp_path, first, begun[4], "null", status="failed")
    again = make(tmp_path, checker, budget=8)  # the first is gone
    states = [trial.state.name for trial in again._study.trials]
    assert sorted(states) == [*["COMPLETE"] * 4, "FAIL", "RUNNING"]
    values = sorted(t.value for t in again._study.trials if t.value is not None)
    assert values == sorted(quality(trial) for trial in begun[:4])
    assert again.take() == begun[5]  # what was begun comes first
    end(tmp_path, again, begun[5], 0.5)
    rest = [again.take(), again.take()]
    assert again.take() is None
    assert len({trial.id for trial in [*begun, *rest]}) == 8
    assert [trial.number for trial in rest] == [6, 7]


def test_what_was_proposed_before_is_not_run_again(tmp_path, checker):
    ranges = {"optim.learning_rate": sweep.choice([0.1, 0.2]), "seed": [0, 1]}
    source = make(tmp_path, checker, sweep_choices(ranges), budget=100)
    found = []
    while trial := source.take():
        found.append(trial)
        end(tmp_path, source, trial, quality(trial))
    assert len(found) == 4  # there are no more


def sweep_choices(ranges):
    return sweep.random(ranges, samples=1).space


def test_values_of_any_type_go_there_and_back(checker):
    ranges = sweep_choices(
        {
            "model.image_size": [(8, 8), (4, 4)],
            "optim.weight_decay": ["0.1", "0.2"],
            "optim.learning_rate": sweep.loguniform(1e-4, 1e-2),
            "model.depth": sweep.integers(1, 3),
        }
    )
    space = Space(ranges, checker, import_optuna())
    params = {
        "model.image_size": 1,
        "optim.weight_decay": 1,
        "optim.learning_rate": 0.00123456789,
        "model.depth": 2,
    }
    overrides = space.overrides(params)
    assert overrides["model.image_size"] == (4, 4)
    trial = checker.trial(overrides, 0)
    back = space.params(trial.overrides)
    assert back == params | {"optim.learning_rate": 0.00123457}
    assert space.params(trial.overrides | {"model.depth": 9}) is None
    assert space.params({"seed": 0}) is None


def test_a_trial_that_falls_behind_is_pruned(tmp_path, checker):
    source = make(tmp_path, checker, prune="median", prune_after=4)
    for value in (0.8, 0.7, 0.9, 0.85):
        trial = source.take()
        rows = [{"step": step, "val/accuracy": value} for step in (3, 6, 20)]
        assert not source.hopeless(trial, lambda rows=rows: rows)
        end(tmp_path, source, trial, value)
    bad = source.take()
    rows = [{"step": 3, "val/accuracy": 0.1}]
    assert not source.hopeless(bad, lambda: rows)  # too early
    rows.append({"step": 6, "val/accuracy": 0.2})
    assert source.hopeless(bad, lambda: rows)
    end(tmp_path, source, bad, 0.2, status="pruned")
    good = source.take()
    rows = [{"step": 6, "val/accuracy": 0.95}]
    assert not source.hopeless(good, lambda: rows)
    again = make(tmp_path, checker, prune="median", prune_after=4)
    assert [t.state.name for t in again._study.trials].count("PRUNED") == 1


def test_pruning_stops_a_process_and_keeps_its_metrics(tmp_path, checker):
    made = [fakes.make(1, pause=0.3)[0]]
    fakes.prepare(tmp_path, made)

    class Hopeless(fakes.local.Listed):
        def hopeless(self, trial, rows):
            return bool(rows())

    runner = fakes.runner(tmp_path, made, source=Hopeless(made))
    assert runner.run() == 0
    (result,) = fakes.results(tmp_path, made).values()
    assert result["status"] == "pruned" and 0 < result["step"] < 20


def test_without_optuna_it_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SweepError, match=r"pip install 'vit-jax\[sweep\]'"):
        import_optuna()
