"""The trial that a scheduler runs."""

import pytest

from tests.sweep import fakes, rendering
from vit_jax import config as configs
from vit_jax.sweep import one, record, run_here, trials
from vit_jax.sweep.ranges import SweepError


@pytest.fixture
def swept(tmp_path, monkeypatch):
    config = configs.load("configs/digits.py")
    record.write_sweep(tmp_path, fakes.SWEEP, config)
    monkeypatch.setattr(run_here, "train_command", lambda config: fakes.command)
    return tmp_path, fakes.prepare(
        tmp_path, [*fakes.make(3), *fakes.make(1, fails_at=2)]
    )


def run(workdir, *words):
    options = rendering.options("run-trial", f"--workdir={workdir}", *words)
    return one.run_trial(options)


def test_it_runs_the_trial_of_an_index_once(swept, capsys):
    workdir, made = swept
    assert run(workdir, "--of=0,2-3", "--index=1") == 0
    done = [bool(trials.result_of(workdir, trial)) for trial in made]
    assert done == [False, False, True, False]
    assert run(workdir, "--index=2") == 0
    assert "is over already: done" in capsys.readouterr().err
    log = trials.folder(workdir, made[2].id) / trials.LOG
    assert log.read_text().count("begins") == 1


def test_a_failure_is_its_exit_code(swept):
    workdir, made = swept
    assert run(workdir, "--index=3", "--retries=1") == 1
    assert trials.result_of(workdir, made[3])["attempts"] == 2
    assert run(workdir, "--index=3") == 1


def test_mistakes(swept, tmp_path):
    workdir, _ = swept
    with pytest.raises(SweepError, match="there are 4 trials"):
        run(workdir, "--index=4")
    with pytest.raises(SweepError, match="no trial of number 9"):
        run(workdir, "--index=0", "--of=9")
    with pytest.raises(SweepError, match="needs --workdir=DIR and --index=N"):
        run(workdir)
    with pytest.raises(SweepError, match="holds no sweep"):
        run(workdir / "other", "--index=0")
