"""Several processes as one run: the same numbers, one stop for all, who is gone."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests import training
from vit_jax import cli, distributed, metrics
from vit_jax.distributed import StartError, initialize
from vit_jax.train import train

STARTED = []
CHANGES = (
    "data.name=arrays:digits",
    "train.duration.steps=12",
    "checkpoint.every.steps=4",
    "evals.val.every.steps=6",
    "log.example_ids=True",
    "train.ema=0.9",
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(workdir, number, *changes, devices=2):
    """Processes of one run; all devices together are two."""
    coordinator = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            training.command(
                *training.train_arguments(workdir, *CHANGES, *changes),
                *(
                    (
                        f"--coordinator={coordinator}",
                        f"--num_processes={number}",
                        f"--process_id={rank}",
                    )
                    if number > 1
                    else ()
                ),
            ),
            env=training.environment(devices // number),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(number)
    ]
    STARTED.extend(processes)
    return processes


@pytest.fixture(autouse=True)
def none_left():
    """Ends what a failed test leaves."""
    yield
    for process in STARTED:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
    STARTED.clear()


def finish(processes, seconds=240):
    """Codes, outputs and errors of all."""
    done = [process.communicate(timeout=seconds) for process in processes]
    return [process.returncode for process in processes], done


def losses(workdir):
    return {
        row["step"]: (row["train/loss"], row["data/example_ids"])
        for row in metrics.read_rows(workdir / "metrics.jsonl")
        if "train/loss" in row
    }


def evaluated(workdir):
    return [
        (row["step"], row["val/accuracy"], row["val/examples"])
        for row in metrics.read_rows(workdir / "metrics.jsonl")
        if "val/accuracy" in row
    ]


def wait_for_step(workdir, step, processes):
    deadline = time.monotonic() + 200
    path = workdir / "metrics.jsonl"
    while time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes), [
            process.communicate() for process in processes
        ]
        if path.exists() and any(
            row["step"] >= step for row in metrics.read_rows(path)
        ):
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached")


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A run of this process, on all of its devices."""
    folder = tmp_path_factory.mktemp("single") / "run"
    train(training.tiny_config(*CHANGES), str(folder), say=lambda line: None)
    return folder


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    folder = tmp_path_factory.mktemp("double") / "run"
    codes, done = finish(start(folder, 2))
    assert codes == [0, 0], done
    return folder, done


def test_two_processes_train_as_one(single, double):
    folder, done = double
    ours, theirs = losses(folder), losses(single)
    assert list(ours) == list(theirs) == list(range(1, 13))
    for step, (loss, ids) in ours.items():
        assert ids == theirs[step][1]
        assert loss == pytest.approx(theirs[step][0], rel=1e-5)
    assert evaluated(folder) == evaluated(single)
    said = [line for line in done[1][0].splitlines() if "[Gloo]" not in line]
    assert said == []  # the first process speaks


@pytest.mark.slow
def test_one_process_goes_on_where_two_stopped_and_back(single, tmp_path):
    for number, steps in ((2, 4), (1, 8), (2, 12)):
        # The duration shapes the schedule, so the run is cut short by a signal.
        processes = start(tmp_path / "run", number, "checkpoint.every.steps=2")
        if steps < 12:
            wait_for_step(tmp_path / "run", steps, processes)
            processes[-1].send_signal(signal.SIGTERM)
        codes, done = finish(processes)
        assert codes == [143 if steps < 12 else 0] * number, done
    ours, theirs = losses(tmp_path / "run"), losses(single)
    assert list(ours) == list(range(1, 13))
    for step, (loss, ids) in ours.items():
        assert ids == theirs[step][1]
        assert loss == pytest.approx(theirs[step][0], rel=1e-5)


def are_refused(workdir, running):
    """Two more that are started while others train there."""
    others = start(workdir, 2)
    codes, done = finish(others, 120)
    assert codes == [2, 2], done
    assert str(running[0].pid) in done[0][1] and done[0][1].count("vit-jax:") == 1


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
)
def test_others_are_refused_and_a_signal_to_one_stops_all_at_one_saved_step(
    tmp_path, number
):
    processes = start(tmp_path / "run", 2, "train.duration.steps=40000")
    wait_for_step(tmp_path / "run", 5, processes)
    if number == signal.SIGTERM:
        are_refused(tmp_path / "run", processes)
    processes[1].send_signal(number)
    codes, done = finish(processes, 60)
    assert codes == [128 + number] * 2, done
    step = int(re.search(r"step ([\d,]+) is saved", done[0][1])[1].replace(",", ""))
    saved = [
        int(p.name)
        for p in (tmp_path / "run/checkpoints").iterdir()
        if p.name.isdigit()
    ]
    assert max(saved) == step == max(losses(tmp_path / "run"))
    assert not (tmp_path / "run" / "lock").exists()


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_dead_process_is_named_and_ends_the_other(tmp_path, victim):
    processes = start(tmp_path / "run", 2, "train.duration.steps=4000")
    wait_for_step(tmp_path / "run", 5, processes)
    os.kill(processes[victim].pid, signal.SIGKILL)
    codes, done = finish(processes, 60)
    assert codes[1 - victim] == 4, done
    assert f"process {victim} " in done[1 - victim][1]
    assert "is gone" in done[1 - victim][1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("127.0.0.1:1", None, 0), "go together"),
        (("127.0.0.1:1", 2, 2), r"outside 0\.\.1"),
    ],
)
def test_arguments_that_do_not_fit(given, message):
    with pytest.raises(StartError, match=message):
        initialize(*given)


def test_one_process_needs_nothing():
    assert initialize(None, None, None) is None
    assert initialize("127.0.0.1:1", 1, 0) is None


def test_a_port_that_is_taken():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} of this host cannot be"):
            initialize(f"127.0.0.1:{port}", 2, 0)


def test_a_host_without_an_address(monkeypatch):
    monkeypatch.setattr(distributed, "_NAME_SECONDS", 0.0)
    with pytest.raises(StartError, match=r"'no\.such\.host\.invalid' has no address"):
        initialize("no.such.host.invalid:1", 2, 1)


def test_others_that_do_not_come():
    code = (
        "from vit_jax.distributed import initialize\n"
        f"initialize('127.0.0.1:{free_port()}', 2, 0, seconds=1, say=print)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=training.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stdout.startswith("arguments: process 0 of 2, coordinator 127.0.0.1:")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("vit-jax: ") and last.endswith("not all came within 1 s")


def test_a_lone_process_of_a_scheduler_says_so():
    said = []
    alone = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}
    assert initialize(None, None, None, say=said.append, environ=alone) is None
    assert "Slurm job 7: one process, which trains alone" in said[0]


def test_a_mistake_is_one_line(tmp_path, capsys):
    arguments = training.train_arguments(tmp_path / "run")
    assert cli.main([*arguments, "--num_processes=2"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vit-jax: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
