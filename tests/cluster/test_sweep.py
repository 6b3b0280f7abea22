"""A sweep as an array of a real Slurm: a task that is warned saves and is run again."""

import json
import subprocess
import time

import pytest

from tests import training
from tests.cluster.test_launchers import slurm  # noqa: F401  (a fixture)
from vit_jax.jsonl import read_rows

CHANGES = ("data.name=arrays:digits", "train.duration.steps=400")


def sweep(environment, *words):
    done = subprocess.run(
        training.command("sweep", *words),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)


@pytest.mark.cluster
def test_an_array_runs_every_trial(tmp_path, slurm):  # noqa: F811
    environment = training.environment() | slurm
    workdir = tmp_path / "s"
    words = [f"--config={training.DIGITS}", f"--workdir={workdir}"]
    words += [f"--config.{change}" for change in (*training.TINY, *CHANGES)]
    words += ["--backend=slurm", "--submit", "--parallel=1", "--set", "seed=0,1"]
    said = sweep(environment, *words)
    assert "Submitted batch job" in said
    job = said.split("Submitted batch job ")[1].split()[0]
    wait_for(lambda: list(workdir.glob("trials/*/checkpoints/[1-9]*")), 600)
    (begun,) = {path.parts[-3] for path in workdir.glob("trials/*/checkpoints/[1-9]*")}
    warning = ["scancel", "--batch", "--signal=USR1", f"{job}_0"]
    subprocess.run(warning, env=environment, check=True)

    def over():
        found = sweep(environment, "status", f"--workdir={workdir}", "--json")
        return all(row["status"] == "done" for row in json.loads(found))

    wait_for(over, 900)
    log = (workdir / "trials" / begun / "log.txt").read_text()
    assert "SIGTERM: saving after this step" in log
    for place in workdir.glob("trials/*"):
        steps = [row["step"] for row in read_rows(place) if "train/loss" in row]
        assert steps == list(range(1, 401))
