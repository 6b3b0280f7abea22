"""The batch script: valid, submits what it should, and forwards signals."""

import os
import signal
import subprocess
import time

import pytest

from tests.sweep import rendering
from vit_jax.sweep import slurm
from vit_jax.sweep.ranges import SweepError


def script(workdir="/data/sweep", **changes):
    options = rendering.options("--sbatch=--gres=gpu:1", "--sbatch=--time=4:00:00")
    made = slurm.render(rendering.batch(workdir, **changes), options)
    assert made.submit == ["sbatch", "slurm.sh"]
    return made.files["slurm.sh"]


def test_the_script_is_an_array_of_the_trials():
    lines = script().splitlines()
    assert "#SBATCH --array=0-3%2" in lines
    assert "#SBATCH --gres=gpu:1" in lines and "#SBATCH --time=4:00:00" in lines
    # Slurm reads no options after the first command.
    first = next(n for n, line in enumerate(lines) if line and line[0] not in "#\n")
    assert all(not line.startswith("#SBATCH") for line in lines[first:])
    (command,) = [line for line in lines if "run-trial" in line]
    assert "--workdir=/data/sweep " in command and "--of=0-2,5" in command
    assert command.endswith('--index="$SLURM_ARRAY_TASK_ID" --retries=3 &')
    assert "#SBATCH --array=0-3" in script(parallel=None).splitlines()
    subprocess.run(["bash", "-n"], input=script(), text=True, check=True)


def run(tmp_path, trial, number, **environment):
    """The script with another trial; a signal; exit code and what was requeued."""
    text = script()
    (command,) = [line for line in text.splitlines() if "run-trial" in line]
    path = tmp_path / "slurm.sh"
    path.write_text(text.replace(command, f"bash {trial} &"))
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/requeued\n')
    (tools / "scontrol").chmod(0o755)
    task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    path_variable = f"{tools}:{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", path], env=os.environ | task | {"PATH": path_variable}
    )
    if number:
        while not (tmp_path / "begun").exists():
            time.sleep(0.02)
        process.send_signal(number)
    code = process.wait(20)
    requeued = tmp_path / "requeued"
    return code, requeued.read_text() if requeued.exists() else ""


def saving(tmp_path):
    """A trial that saves for a while when it is told to stop."""
    path = tmp_path / "trial.sh"
    path.write_text(
        f"trap 'sleep 0.3; touch {tmp_path}/saved; exit 143' TERM\n"
        f"touch {tmp_path}/begun\nwhile :; do sleep 0.05; done\n"
    )
    return path


def test_before_the_time_limit_it_saves_and_is_queued_again(tmp_path):
    code, requeued = run(tmp_path, saving(tmp_path), signal.SIGUSR1)
    assert (code, requeued) == (143, "requeue 7_2\n")
    assert (tmp_path / "saved").exists()


def test_a_cancelled_task_saves_and_is_not_queued_again(tmp_path):
    code, requeued = run(tmp_path, saving(tmp_path), signal.SIGTERM)
    assert (code, requeued) == (143, "")
    assert (tmp_path / "saved").exists()


def test_the_exit_code_is_that_of_the_trial(tmp_path):
    path = tmp_path / "trial.sh"
    path.write_text("exit 3\n")
    assert run(tmp_path, path, 0) == (3, "")


def test_logs_of_a_sweep_in_a_bucket_are_written_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = script("gs://bucket/my sweep")
    assert f"#SBATCH --output={tmp_path}/slurm-%A_%a.log\n" in text
    assert "'--workdir=gs://bucket/my sweep'" in text


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("gres", "'gres' is no option of sbatch"),
        ("--time=1\nrm", "is no option of sbatch"),
        ("--array=0-9", "the array is the sweep's"),
        ("-a0-9", "the array is the sweep's"),
    ],
)
def test_options_that_are_refused(option, message):
    given = rendering.options(f"--sbatch={option}")
    with pytest.raises(SweepError, match=message):
        slurm.render(rendering.batch("/data/sweep"), given)


def test_a_path_that_sbatch_does_not_read():
    with pytest.raises(SweepError, match="sbatch takes no blanks"):
        script("/data/my sweep")
