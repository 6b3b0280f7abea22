"""Every trial is checked before the first one starts."""

import pytest

from tests import training
from vit_jax import config as configs
from vit_jax.config import ConfigError
from vit_jax.sweep.validate import Checker

ARRAYS = "data.name=arrays:digits"


@pytest.fixture(scope="module")
def checker():
    changes = (*training.TINY, ARRAYS)
    flags = [f"--config.{change}" for change in changes]
    return Checker(configs.load(training.DIGITS, flags))


def test_values_become_what_the_config_holds(checker):
    wanted = [
        {"optim.learning_rate": "1e-3", "model.image_size": "(8,8)"},
        {"optim.learning_rate": 0.001, "model.image_size": (8, 8)},
        {"model.image_size": [8, 8], "optim.learning_rate": 1e-3, "seed": 0},
        {"optim.learning_rate": "1", "train.duration.steps": "4"},
    ]
    one, other = checker.trials(wanted)  # the first three are the same
    assert one.overrides == {
        "optim.learning_rate": 0.001,
        "model.image_size": [8, 8],
        "seed": 0,
    }
    assert (one.number, one.steps) == (0, 8)
    assert other.overrides["optim.learning_rate"] == 1.0
    assert (other.number, other.steps) == (1, 4)


def test_the_seed_of_the_config_is_part_of_a_trial(checker):
    (trial,) = checker.trials([{}])
    assert trial.overrides == {"seed": 0}


def test_all_problems_come_together_and_name_their_trials(checker):
    with pytest.raises(ConfigError) as caught:
        checker.trials(
            [
                {"optim.learning_rate": 1e-3},
                {"optim.learning_rat": 1e-3},
                {"optim.learning_rate": -1.0, "seed": 1},
                {"train.batch_size": "many"},
                {"model.image_size": (9, 9)},
                {"optim.weight_decay": None},
            ]
        )
    assert len(caught.value.problems) == 5
    text = str(caught.value)
    assert text.startswith(
        "trials that cannot run: 5; nothing was started:\n  - trial 1"
    )
    assert "trial 1 (optim.learning_rat=0.001): unknown key" in text
    assert "did you mean 'optim.learning_rate'?" in text
    assert "trial 2 (optim.learning_rate=-1.0 seed=1): optim.learning_rate" in text
    assert (
        "trial 3 (train.batch_size=many): train.batch_size must be of type int" in text
    )
    assert "trial 4" in text and "trial 5" in text and "is None" in text
    with pytest.raises(ConfigError, match="and 20 more"):
        checker.trials([{"seed": -1 - number} for number in range(30)])
    with pytest.raises(ConfigError) as caught:
        checker.trials([{"seed": -1}])
    assert "\n" not in str(caught.value)


def test_one_problem_is_one_line(checker):
    with pytest.raises(ConfigError) as caught:
        checker.trials([{"seed": 0}, {"seed": -1}])
    said = str(caught.value)
    assert said.startswith("trial 1 (seed=-1): seed") and "\n" not in said
    assert said.endswith("; nothing was started")


def test_a_mesh_is_checked_with_the_devices_that_are_known(checker):
    wanted = [{"mesh.fsdp": 4}]
    assert checker.trials(wanted)  # on a machine that has them
    with pytest.raises(ConfigError, match="number of devices, 2"):
        Checker(checker.base, num_devices=2).trials(wanted)
