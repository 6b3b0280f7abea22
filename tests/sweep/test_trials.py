"""The identity of a trial, and its files."""

import pytest

from tests.sweep import fakes
from vit_jax.sweep import trials
from vit_jax.sweep.trials import Trial


def test_identity_is_of_the_overrides_in_any_order():
    one = Trial({"a": 0.001, "seed": 1}, 0, 10)
    same = Trial({"seed": 1, "a": 0.001}, 5, 20)
    assert one.id == same.id and len(one.id) == 12
    assert one.id != Trial({"a": 0.001, "seed": 2}, 0, 10).id
    assert one.id != Trial({"a": 0.002, "seed": 1}, 0, 10).id


def test_flags_are_what_a_command_line_takes():
    overrides = {"a": 1e-05, "b": True, "c": "adamw", "d": [8, 8], "e": [["x", 1]]}
    assert Trial(overrides, 0, 1).flags() == [
        "--config.a=1e-05",
        "--config.b=True",
        "--config.c=adamw",
        "--config.d=(8, 8)",
        "--config.e=(('x', 1),)",
    ]


def test_trials_are_read_in_their_order_and_damage_is_left_out(tmp_path):
    made = fakes.make(6)
    for trial in reversed(made):
        trials.write_trial(tmp_path, trial)
    assert trials.read_trials(tmp_path) == made
    (trials.folder(tmp_path, made[1].id) / trials.OVERRIDES).write_text("{")
    trials.folder(tmp_path, made[2].id).rename(tmp_path / "trials" / "copy")
    (tmp_path / "trials" / "empty").mkdir()
    assert trials.read_trials(tmp_path) == [made[0], *made[3:]]
    assert trials.read_trials(tmp_path / "nowhere") == []


def test_the_newest_metrics_are_kept_without_timings(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 5, "train/loss": 2.0, "train/img_per_sec": 9}\n'
        '{"step": 9, "train/loss": null, "val/accuracy": 0.5, "goodput/step": 1}\n'
        '{"step": 10, "val/acc'
    )
    step, metrics = trials.newest_metrics(tmp_path)
    assert (step, metrics) == (9, {"train/loss": None, "val/accuracy": 0.5})
    assert trials.number(metrics, "train/loss") is None
    assert trials.number(metrics, "val/accuracy") == 0.5
    result = trials.write_result(tmp_path, status="done")
    assert trials.read_result(tmp_path) == result
    assert result["step"] == 9 and not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_result_that_is_not_whole_is_none(tmp_path, content):
    (tmp_path / trials.RESULT).write_text(content)
    assert trials.read_result(tmp_path) == {}
