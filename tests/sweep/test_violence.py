"""Twenty kill -9 of a sweep's driver and of its trials, which are real runs."""

import os
import pathlib
import random
import signal
import subprocess
import time

import pytest

from tests import training
from tests.sweep import fakes
from vit_jax.jsonl import read_rows

KILLS = 20
TRIALS = {"optim.learning_rate": "1e-3,4e-3", "seed": "0,1"}
CHANGES = (
    "data.name=arrays:digits",
    "train.duration.steps=30",
    "checkpoint.every.steps=5",
    "evals.val.every.steps=10",
    "log.every.steps=5",
)


def sweep(workdir, action="", *extra):
    words = ["sweep", *([action] if action else []), f"--workdir={workdir}", *extra]
    if not action:
        flags = dict(flag.split("=", 1) for flag in training.flags(*CHANGES))
        flags.pop("--config.data.dir", None)
        words += [f"--config={training.DIGITS}", "--parallel=2", "--retries=9"]
        words += [f"{key}={value}" for key, value in flags.items()]
        words += ["--set", *(f"config.{key}={text}" for key, text in TRIALS.items())]
    return training.command(*words)


def start(workdir):
    with open(f"{workdir}.log", "a") as log:
        return subprocess.Popen(
            sweep(workdir), env=training.environment(), stdout=log, stderr=log
        )


def processes(workdir):
    """Trials of a sweep that are running, by process id."""
    start = f"--workdir={workdir}/trials"
    return fakes.processes(lambda words: any(w.startswith(start) for w in words))


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def results(workdir):
    """What is written of trials that are over."""
    return {
        path.parent.name: path.read_bytes()
        for path in pathlib.Path(workdir).glob("trials/*/result.json")
    }


def table(workdir):
    done = subprocess.run(
        sweep(workdir, "results", "--csv"),
        env=training.environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def kill_some(workdir, pause, rng, killed):
    """One sweep, killed again and again until it is over or there were enough kills."""
    driver, over = start(workdir), {}
    while sum(killed.values()) < KILLS and driver.poll() is None:
        wait_for(lambda: processes(workdir) or driver.poll() is not None, 600)  # noqa: B023
        time.sleep(rng.uniform(0, pause))
        seen = results(workdir)
        assert all(seen[trial] == text for trial, text in over.items())
        over = seen
        if driver.poll() is not None:  # there is nothing left to kill
            break
        running = processes(workdir)
        if running and sum(killed.values()) % 2:
            os.kill(rng.choice(running), signal.SIGKILL)
            killed["trial"] += 1
        else:
            driver.kill()
            driver.wait()
            wait_for(lambda: not processes(workdir), 10)  # no orphan
            killed["driver"] += 1
            driver = start(workdir)
    assert driver.wait(3000) == 0
    assert all(results(workdir)[trial] == text for trial, text in over.items())


@pytest.mark.slow
def test_nothing_is_lost_or_done_twice(tmp_path):
    calm = tmp_path / "calm"
    began = time.monotonic()
    assert start(calm).wait(1800) == 0
    pause = (time.monotonic() - began) / 6  # a third of a trial, as two rounds are run
    rng, killed = random.Random(0), {"driver": 0, "trial": 0}
    for number in range(KILLS):
        rough = tmp_path / f"rough-{number}"
        kill_some(rough, pause, rng, killed)
        print(f"sweep {number}, killed so far: {killed}", flush=True)
        assert table(rough) == table(calm)
        assert len(results(rough)) == 4
        for folder in (rough / "trials").iterdir():
            rows = [row["step"] for row in read_rows(folder) if "train/loss" in row]
            assert rows == [5, 10, 15, 20, 25, 30]
        if sum(killed.values()) >= KILLS:
            break
    assert sum(killed.values()) >= KILLS
