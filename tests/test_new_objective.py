"""An objective from outside trains by the steps that docs/ gives."""

import ast
import inspect
import re
import sys

import pytest

from tests import training
from tests.docs import pages
from vit_jax import config as configs
from vit_jax import evaluations, objectives, run, train, train_state, train_step
from vit_jax.evaluate import evaluate
from vit_jax.metrics import read_rows

# The one new file, the one entry (below) and the one config.
FILE = pages.named("objective")
CONFIG = pages.named("objective config")


@pytest.fixture
def config_file(tmp_path, monkeypatch):
    """The objective is written down, entered, and named by a config."""
    (tmp_path / "squared_error.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    import squared_error  # type: ignore

    monkeypatch.setitem(objectives.OBJECTIVES, "squared", squared_error.Squared)
    file = tmp_path / "configs" / "squared.py"
    file.parent.mkdir()
    file.write_text(CONFIG)
    yield str(file)
    del sys.modules["squared_error"]


def test_a_new_objective_trains_and_is_evaluated(config_file, tmp_path):
    folder = tmp_path / "run"
    flags = training.flags(
        "data.split=train[:16]",  # the same batch again and again
        "data.augment.pad=0",
        "data.augment.mixup=0.0",
        "train.duration.steps=40",
        "checkpoint.every.steps=40",
        "evals.val.every.steps=40",
        "train.ema=0.5",
        "model.depth=1",
        "optim.learning_rate=0.02",
    )
    config = configs.load(config_file, flags)
    result = train.train(config, str(folder), say=lambda line: None)
    rows = [row for row in read_rows(folder) if "train/loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 41))
    for row in rows:
        assert row["train/loss"] == pytest.approx(2.0 * row["train/brier"], rel=1e-6)
    assert rows[-1]["train/loss"] < 0.8 * rows[0]["train/loss"]
    step, again = evaluate(str(folder), say=lambda line: None)
    assert step == 40
    assert again == result.evaluations
    assert again["val/loss"] != again["val_ema/loss"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("objective.scale=-1.0", "objective.scale must be positive, got -1.0"),
        ("objective.scal=1.0", "scal"),
    ],
)
def test_its_settings_are_checked_as_those_of_others(config_file, change, words):
    try:
        config = configs.load(config_file, training.flags(change))
        problems = "\n".join(configs.check(config, facts=None, num_devices=8))
    except configs.ConfigError as error:
        problems = str(error)
    assert words in problems


@pytest.mark.parametrize("module", [train, train_step, train_state, run, evaluations])
def test_the_loop_names_no_objective(module):
    """Neither by name nor by class, in code or in words, and imports none."""
    source = inspect.getsource(module)
    for name, kind in objectives.OBJECTIVES.items():
        for word in (name, kind.__name__, name.replace("_", " ")):
            found = re.search(rf"(?<![a-z]){word}(?![a-z])", source, re.IGNORECASE)
            assert not found, f"{module.__name__} names {word}"
    imported = [
        alias
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("vit_jax.objectives")
        for alias in [node.module]
    ]
    assert set(imported) <= {"vit_jax.objectives.base"}
