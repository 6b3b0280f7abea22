"""What is written for a scheduler: the unfinished trials, and how to submit them."""

import os

import pytest

from tests.sweep import fakes, rendering
from vit_jax.sweep import hand_over, trials
from vit_jax.sweep.ranges import SweepError


def test_only_the_unfinished_are_handed_over(tmp_path, capsys):
    made = fakes.prepare(tmp_path, fakes.make(6))
    for trial in (made[1], made[2]):
        trials.write_result(trials.folder(tmp_path, trial.id), status="done")
    options = rendering.options("--backend=slurm", "--parallel=3")
    assert hand_over.hand_over(tmp_path, made, options) == 0
    text = (tmp_path / "slurm.sh").read_text()
    assert "--array=0-3%3" in text and "--of=0,3-5" in text
    assert os.access(tmp_path / "slurm.sh", os.X_OK)
    said = capsys.readouterr().out
    assert f"sbatch {tmp_path}/slurm.sh" in said
    for trial in made:
        trials.write_result(trials.folder(tmp_path, trial.id), status="done")
    assert hand_over.hand_over(tmp_path, made, options) == 0
    assert "all 6 trials are over" in capsys.readouterr().err


def test_submitting(tmp_path, monkeypatch):
    made = fakes.prepare(tmp_path / "s", fakes.make(2))
    options = rendering.options("--backend=slurm", "--submit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SweepError, match="sbatch is not installed here"):
        hand_over.check(tmp_path / "s", made, options)
    for code in (0, 1):
        tool = tmp_path / "sbatch"
        tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/submitted\nexit {code}\n')
        tool.chmod(0o755)
        assert hand_over.hand_over(tmp_path / "s", made, options) == code
    assert (tmp_path / "submitted").read_text() == f"{tmp_path}/s/slurm.sh\n"


def test_names_are_fit_for_every_scheduler():
    options = rendering.options("--backend=gke", "--image=i")
    made = hand_over.render("gs://b/My_Sweep.2", fakes.make(3), options)
    assert "name: sweep-my-sweep-2-" in made.files["gke.yaml"]
