"""`sweep status` and `sweep results`."""

import json
import subprocess
import sys

import pytest

from tests import training
from tests.sweep import fakes, rendering
from vit_jax import config as configs
from vit_jax.sweep import record, show, trials
from vit_jax.sweep.ranges import SweepError


@pytest.fixture
def swept(tmp_path):
    workdir = tmp_path / "s"
    config = configs.load("configs/digits.py")
    record.write_sweep(workdir, fakes.SWEEP, config)
    made = fakes.prepare(workdir, fakes.make(6, **{"train.batch_size": 64}))
    for number, trial in enumerate(made[:4]):
        place = trials.folder(workdir, trial.id)
        row = {"step": 20, "val/accuracy": [0.5, 0.8, 0.7, 0.6][number]}
        (place / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        trials.write_result(
            place, status="done", exit_code=0, attempts=1, seconds=5.0, said=""
        )
    return workdir, made


def status(workdir, *words):
    return show.status(rendering.options("status", f"--workdir={workdir}", *words))


def results(workdir, *words):
    return show.results(rendering.options("results", f"--workdir={workdir}", *words))


def test_status_on_a_terminal_in_json_and_in_csv(swept, capsys):
    workdir, made = swept
    assert status(workdir) == 0
    said = capsys.readouterr().out
    assert "6 trials: 4 done, 2 waiting" in said and made[5].id in said
    assert status(workdir, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows] == [*["done"] * 4, *["waiting"] * 2]
    assert status(workdir, "--csv") == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert status(workdir, "--limit=2") == 0
    assert "4 more are not shown" in capsys.readouterr().out


def test_watching_ends_with_the_sweep(swept, capsys):
    workdir, made = swept
    for trial in made[4:]:
        trials.write_result(trials.folder(workdir, trial.id), status="failed", said="x")
    assert status(workdir, "--watch") == 0
    assert "4 done, 2 failed" in capsys.readouterr().out


def test_results_rank_and_give_the_best_as_a_config(swept, capsys, tmp_path):
    workdir, made = swept
    assert results(workdir, "--plots") == 0
    captured = capsys.readouterr()
    shown = [line.split()[1] for line in captured.out.splitlines() if "done" in line]
    assert shown[:3] == [made[1].id, made[2].id, made[3].id]
    assert f"vit-jax train --config={workdir}/best.py" in captured.err
    assert (workdir / "figures" / "parallel.png").exists()
    best = configs.load(f"{workdir}/best.py")
    base = configs.load("configs/digits.py", made[1].flags())
    assert configs.to_json(best) == configs.to_json(base)
    saved = json.loads((workdir / "best.json").read_text())
    assert (saved["id"], saved["value"]) == (made[1].id, 0.8)
    assert saved["config"] == json.loads(json.dumps(configs.to_json(best)))
    assert results(workdir, f"--csv={tmp_path}/t.csv") == 0
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[1].startswith(made[1].id) and "seconds" not in lines[0]
    assert "over seeds" in captured.out


def test_mistakes(swept, tmp_path):
    workdir, _ = swept
    with pytest.raises(SweepError, match="holds no sweep"):
        status(tmp_path)
    with pytest.raises(SweepError, match="needs --workdir"):
        show.status(rendering.options("status"))
    with pytest.raises(SweepError, match="cannot be written"):
        results(workdir, f"--csv={tmp_path}/no/where.csv")


def test_nothing_done_yet(tmp_path, capsys):
    record.write_sweep(tmp_path, fakes.SWEEP, configs.load("configs/digits.py"))
    fakes.prepare(tmp_path, fakes.make(2))
    assert results(tmp_path) == 0
    assert not (tmp_path / "best.py").exists()
    with pytest.raises(SweepError, match="no trial has reported"):
        results(tmp_path, "--plots")


def test_looking_at_a_sweep_needs_no_jax():
    program = (
        "import sys; from vit_jax.sweep import one, plots, show; "
        "assert not {'jax', 'optuna', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", program], env=training.environment(), check=True
    )
