"""A sweep directory says what is swept, and refuses another sweep."""

import pytest

from vit_jax import config as configs
from vit_jax.config import ConfigError
from vit_jax.sweep import record
from vit_jax.sweep.ranges import SweepError
from vit_jax.sweep.record import Sweep


def digits(*flags):
    return configs.load("configs/digits.py", flags)


def sweep_of(config):
    return Sweep("configs/digits.py", record.shared(config), "val/accuracy", "max")


def test_it_reads_back_and_so_does_its_config(tmp_path):
    config = digits("--config.optim.learning_rate=0.5")
    record.write_sweep(tmp_path, sweep_of(config), config)
    assert record.read_sweep(tmp_path) == sweep_of(config)
    with record.local_config(tmp_path) as path:
        assert configs.to_json(configs.load(path)) == configs.to_json(config)


def test_another_config_is_refused_another_seed_is_not(tmp_path):
    config = digits()
    record.check_sweep(tmp_path, sweep_of(config))
    record.write_sweep(tmp_path, sweep_of(config), config)
    record.check_sweep(tmp_path, sweep_of(digits("--config.seed=5")))
    record.check_sweep(tmp_path, sweep_of(digits("--config.log.every.steps=5")))
    with pytest.raises(ConfigError, match=r"optim.b2: 0.999 -> 0.5"):
        record.check_sweep(tmp_path, sweep_of(digits("--config.optim.b2=0.5")))


def test_the_directory_of_a_run_is_no_place_for_a_sweep(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a run"):
        record.check_sweep(tmp_path, sweep_of(digits()))
    with pytest.raises(SweepError, match="holds no sweep"):
        record.read_sweep(tmp_path)


def test_a_file_that_is_not_whole_is_told_from_none(tmp_path):
    (tmp_path / "sweep.json").write_text('{"config": "configs/di')
    with pytest.raises(SweepError, match=r"sweep\.json is not whole; remove it"):
        record.check_sweep(tmp_path, sweep_of(digits()))


def test_the_metric_comes_from_the_config():
    config = digits()
    assert record.choose_metric(config, None, None) == ("val/accuracy", "max")
    assert record.choose_metric(config, "train/loss", None) == ("train/loss", "min")
    assert record.choose_metric(config, "val/ece", None)[1] == "min"
    assert record.choose_metric(config, "val/loss", "max")[1] == "max"
    with pytest.raises(SweepError, match=r"train/\.\.\., val/\.\.\."):
        record.choose_metric(config, "test/accuracy", None)
    with pytest.raises(SweepError, match="no such metric"):
        record.choose_metric(config, "accuracy", None)
    without = digits("--config.checkpoint.best=")
    assert record.choose_metric(without, None, None) == ("train/loss", "min")
