"""What `vit-jax launch slurm` renders, in a real Slurm: preempted, it resumes exactly."""

import os
import re
import subprocess
import sys
import sysconfig
import time

import pytest

from tests import training
from tests.cluster import one_host, runs
from tests.launch import cases
from vit_jax import metrics

pytestmark = pytest.mark.cluster

STEPS = 300
CHANGES = (
    "data.name=arrays:digits",
    "data.dir=",
    "mesh.data=1",
    "mesh.fsdp=-1",
    f"train.duration.steps={STEPS}",
    "checkpoint.every.steps=150",
    "evals.val.every.steps=150",
    "log.example_ids=True",
)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Eight nodes with eight GPUs each, which are not there."""
    with one_host.slurm(tmp_path_factory.mktemp("slurm"), nodes=8, gpus=8) as found:
        yield found


def environment(slurm):
    """As a user's who has Python 3.11: what is installed finds its libraries here."""
    bin = os.path.dirname(sys.executable)
    return (
        training.environment()
        | slurm
        | {
            "PATH": f"{bin}:{os.environ['PATH']}",
            "PIP_NO_DEPS": "1",
            "PIP_NO_INDEX": "1",
        }
    )


def ask(*command, env):
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.parametrize("place", ["h100:8x8", "h100:1x8", "h100:3x4"])
def test_scripts_pass_sbatchs_own_test(place, slurm, tmp_path):
    text = cases.render("slurm", place, tmp_path).files["job.sh"]
    path = tmp_path / "job.sh"
    path.write_text(text)
    ask("sbatch", "--test-only", str(path), env=environment(slurm))
    # And it does look at the numbers.
    path.write_text(re.sub(r"--gpus-per-node=\d", "--gpus-per-node=9", text))
    done = subprocess.run(
        ["sbatch", "--test-only", path], env=environment(slurm), capture_output=True
    )
    assert done.returncode == 1


def test_submit_refuses_what_sbatch_refuses(slurm, tmp_path):
    done = launch(slurm, tmp_path, "refused", "--partition=none")
    assert done.returncode == 2
    assert "sbatch --test-only refuses it: " in done.stderr
    assert not (tmp_path / "refused").exists()


def launch(slurm, folder, name, *arguments):
    """Renders and submits a run of two hosts with a GPU, as which the CPU serves."""
    command = training.command(
        "launch",
        "slurm",
        f"--config={training.DIGITS}",
        "--topology=h100:2x1",
        f"--workdir={folder}/{name}-run",
        f"--output={folder}/{name}",
        f"--name={name}",
        "--env=JAX_PLATFORMS=cpu",
        "--submit",
        *arguments,
        *training.flags(*CHANGES),
    )
    env = environment(slurm) | {"PYTHONPATH": str(training.ROOT)}
    # The job finds the libraries of this environment, and of the package only the wheel.
    env["SBATCH_EXPORT"] = f"ALL,PYTHONPATH={sysconfig.get_paths()['purelib']}"
    return subprocess.run(command, env=env, capture_output=True, text=True)


def field(job, name, env):
    found = re.search(rf"\b{name}=(\S+)", ask("scontrol", "show", "job", job, env=env))
    return found[1]


def wait_for(condition, seconds=900):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def last_step(workdir):
    path = workdir / "metrics.jsonl"
    rows = metrics.read_rows(path) if path.exists() else []
    return rows[-1]["step"] if rows else 0


def run(slurm, folder, name, interrupt=lambda job, env, workdir: None):
    """Submits a run and waits for its end; its work directory and its log."""
    env = environment(slurm)
    submitted = launch(slurm, folder, name)
    assert submitted.returncode == 0, submitted.stderr
    job = re.search(r"Submitted batch job (\d+)", submitted.stdout)[1]
    workdir = folder / f"{name}-run"
    try:
        interrupt(job, env, workdir)
        wait_for(lambda: field(job, "JobState", env) in ("COMPLETED", "FAILED"))
    finally:
        subprocess.run(["scancel", job], env=env)
    log = (folder / name / f"log-{job}.txt").read_text()
    assert field(job, "ExitCode", env) == "0:0", log
    return workdir, log, job


@pytest.mark.slow
def test_two_nodes_preempted_and_out_of_time_end_as_undisturbed(slurm, tmp_path):
    steps = []

    def again(job, env, workdir):
        """Out of the queue: Slurm lets a job wait two minutes."""
        wait_for(lambda: field(job, "JobState", env) == "PENDING")
        steps.append(last_step(workdir))
        ask("scontrol", "update", f"JobId={job}", "StartTime=now", env=env)

    def interrupt(job, env, workdir):
        wait_for(lambda: last_step(workdir) >= 40)
        ask("scontrol", "requeue", job, env=env)  # as a preemption does
        again(job, env, workdir)
        wait_for(lambda: last_step(workdir) >= steps[0] + 40)
        # As Slurm does before the time limit.
        ask("scancel", "--signal=USR1", "--batch", job, env=env)
        again(job, env, workdir)
        assert field(job, "Restarts", env) == "2"

    plain, said, _ = run(slurm, tmp_path, "plain")
    assert re.search(r"Slurm job \d+: process 0 of 2, coordinator [a-z]", said)
    disturbed, said, _ = run(slurm, tmp_path, "disturbed", interrupt)
    assert 40 <= steps[0] < steps[1] < STEPS
    assert said.count("SIGTERM: saving after this step") >= 2
    assert "launch: SIGTERM; the tasks have it too, and save" in said
    assert "launch: the time limit; queued again" in said
    for step in steps:  # where it was interrupted is where it went on: nothing is lost
        assert f"step {step:,} is saved" in said
    assert runs.numbers(disturbed) == runs.numbers(plain)
    losses = [one for one in runs.numbers(plain) if one[1] == "train/loss"]
    assert len(losses) == STEPS
    last = {key: value for key, value in runs.digests(plain).items() if key[0] == STEPS}
    assert last and last.items() <= runs.digests(disturbed).items()


@pytest.mark.slow
def test_a_cancelled_job_is_not_queued_again(slurm, tmp_path):
    def interrupt(job, env, workdir):
        wait_for(lambda: last_step(workdir) >= 20)
        ask("scancel", job, env=env)
        wait_for(lambda: field(job, "JobState", env) == "CANCELLED")

    env = environment(slurm)
    submitted = launch(slurm, tmp_path, "cancelled")
    job = re.search(r"Submitted batch job (\d+)", submitted.stdout)[1]
    interrupt(job, env, tmp_path / "cancelled-run")
    wait_for(lambda: "ended with code" in log_of(tmp_path / "cancelled", job))
    assert "ended with code 143" in log_of(tmp_path / "cancelled", job)
    assert field(job, "Restarts", env) == "0"


def log_of(folder, job):
    return (folder / f"log-{job}.txt").read_text()
