"""A sweep in a bucket: its files, one trial of it, and what came of it."""

import json
import subprocess

import pytest

from tests import bucket, training
from tests.sweep import fakes, rendering
from vit_jax import config as configs
from vit_jax import storage
from vit_jax.sweep import hand_over, record, show, table, trials


@pytest.fixture(scope="module")
def workdir():
    with bucket.emulated("sweeps"):
        storage.prepare("gs://sweeps/s")
        yield storage.absolute("gs://sweeps/s")


@pytest.fixture(scope="module")
def made(workdir):
    config = configs.load(
        training.DIGITS,
        [f"--config.{c}" for c in (*training.TINY, "data.name=arrays:digits")],
    )
    sweep = record.Sweep("c.py", record.shared(config), "val/accuracy", "max")
    record.write_sweep(workdir, sweep, config)
    return trials.register(workdir, fakes.make(3, **{"train.duration.steps": 8}))


def test_its_files_are_there_for_other_machines(workdir, made, tmp_path, monkeypatch):
    assert trials.read_trials(workdir) == made
    monkeypatch.chdir(tmp_path)
    options = rendering.options("--backend=skypilot", "--accelerators=H100:1")
    assert hand_over.hand_over(workdir, made, options) == 0
    assert "--workdir=gs://sweeps/s" in (tmp_path / "skypilot.yaml").read_text()
    place = trials.folder(workdir, made[0].id)
    (place / "metrics").mkdir()
    row = json.dumps({"step": 8, "val/accuracy": 0.5}) + "\n"
    (place / "metrics" / "part-0.jsonl").write_text(row)
    trials.write_result(
        place, status="done", exit_code=0, attempts=1, seconds=1.0, said=""
    )
    found = table.rows(workdir, record.read_sweep(workdir))
    assert [row.status for row in found] == ["done", "waiting", "waiting"]
    assert found[0].value == 0.5
    options = rendering.options("results", f"--workdir={workdir}", "--plots")
    assert show.results(options) == 0
    assert (workdir / "best.py").exists()
    assert (workdir / "figures" / "keys.png").exists()


@pytest.mark.slow
def test_a_real_trial_runs_into_it(workdir, made):
    """What a pod runs; its log and its result are in the bucket."""
    words = [f"--workdir={workdir}", "--of=1-2", "--index=1"]
    done = subprocess.run(
        training.command("sweep", "run-trial", *words),
        env=training.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = trials.result_of(workdir, made[2])
    assert result["status"] == "done" and result["step"] == 8
    assert result["metrics"]["val/accuracy"] > 0
    log = trials.folder(workdir, made[2].id) / trials.LOG
    assert "steps of 16 images" in log.read_text()
