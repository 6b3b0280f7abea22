"""A sweep stands for its trials where runs are looked at."""

import json

import pytest

from tests.report import made_runs
from tests.sweep import fakes
from vit_jax import cli
from vit_jax.sweep import trials
from vit_jax.sweep.begun import runs
from vit_jax.sweep.ranges import SweepError
from vit_jax.sweep.trials import Trial


@pytest.fixture
def sweep(tmp_path):
    """Three trials, of which two have begun."""
    workdir = tmp_path / "rates"
    made = [Trial({"optim.learning_rate": r, "seed": 0}, 0, 200) for r in (0.1, 0.2)]
    made.append(Trial({"model.patch_size": 2, "data.patch_size": 3}, 0, 200))
    for trial in fakes.prepare(workdir, made)[::2]:
        made_runs.make(trials.folder(workdir, trial.id))
    (workdir / "lock").touch()  # as while its driver runs
    return workdir


def test_its_trials_that_have_begun_are_called_by_what_they_change(sweep, tmp_path):
    names = ["learning_rate=0.1 seed=0", "model.patch_size=2 data.patch_size=3"]
    assert list(runs(str(sweep)).values()) == names
    assert runs(str(tmp_path)) == {str(tmp_path): ""}
    with pytest.raises(SweepError, match=r"no trial of the sweep in .* has begun"):
        fakes.prepare(tmp_path / "new", [Trial({"seed": 0}, 0, 1)])
        runs(str(tmp_path / "new"))


def test_report_and_status_take_a_sweep(sweep, capsys):
    assert cli.main(["report", str(sweep)]) == 0
    page = (sweep / "report.html").read_text()
    assert "2 runs" in page and "learning_rate=0.1 seed=0" in page
    capsys.readouterr()
    assert cli.main(["status", str(sweep), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["state"] for one in found] == ["finished"] * 2
