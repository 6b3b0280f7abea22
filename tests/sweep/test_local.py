"""The local runner, with trials that need no JAX; violence against it."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.sweep import fakes
from vit_jax.sweep import local, table, trials

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_every_trial_runs_once_to_its_end(tmp_path):
    made = fakes.prepare(tmp_path, fakes.make(6))
    told = []
    runner = fakes.runner(tmp_path, made, told=lambda trial, _: told.append(trial))
    assert runner.run() == 0
    assert {trial.id for trial in told} == {trial.id for trial in made}
    for trial in made:
        place = trials.folder(tmp_path, trial.id)
        result = trials.read_result(place)
        assert (result["status"], result["exit_code"]) == ("done", 0)
        assert (result["step"], result["attempts"]) == (20, 1)
        assert set(result["metrics"]) == {"val/accuracy"}
        assert "begins at step 0" in (place / trials.LOG).read_text()
    assert fakes.runner(tmp_path, made).run() == 0  # nothing is left
    assert all(
        (trials.folder(tmp_path, trial.id) / "completions").read_text() == "complete\n"
        for trial in made
    )


def test_a_trial_that_fails_is_tried_again_then_reported_and_the_others_go_on(tmp_path):
    bad = fakes.make(1, fails_at=3)
    made = fakes.prepare(tmp_path, [*bad, *fakes.make(4)])
    assert fakes.runner(tmp_path, made, retries=2).run() == 0
    results = fakes.results(tmp_path, made)
    failed = results.pop(bad[0].id)
    assert (failed["status"], failed["exit_code"], failed["attempts"]) == (
        "failed",
        1,
        3,
    )
    assert failed["said"] == "the loss is not finite"
    assert all(result["status"] == "done" for result in results.values())


def test_a_mistake_is_not_tried_again(tmp_path):
    made = fakes.prepare(tmp_path, fakes.make(1, fails_at=3, code=2))
    fakes.runner(tmp_path, made, retries=5).run()
    (result,) = fakes.results(tmp_path, made).values()
    assert (result["status"], result["attempts"]) == ("failed", 1)


def test_attempts_count_from_the_last_progress():
    at = lambda *steps: [{"step": step} for step in steps]  # noqa: E731
    assert local.in_vain(at(0)) == 1
    assert local.in_vain(at(0, 0, 0)) == 3
    assert local.in_vain(at(0, 0, 5)) == 1
    assert local.in_vain(at(0, 5, 5)) == 2


def drive(workdir, count):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.sweep.fake_driver", str(workdir), str(count)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def of_sweep(workdir):
    """Processes of trials in a sweep."""
    return fakes.processes(
        lambda words: str(fakes.FAKE) in words and str(workdir) in " ".join(words)
    )


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_kills_leave_no_orphan_lose_nothing_and_change_nothing(tmp_path):
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    made = fakes.prepare(calm, fakes.make(6))
    assert fakes.runner(calm, made).run() == 0
    rng = random.Random(0)
    for _ in range(3):
        driver = drive(rough, 6)
        wait_for(lambda: of_sweep(rough))
        time.sleep(rng.uniform(0, 0.15))
        if victims := of_sweep(rough):
            os.kill(rng.choice(victims), signal.SIGKILL)
        time.sleep(rng.uniform(0, 0.1))
        driver.kill()
        driver.wait()
        wait_for(lambda: not of_sweep(rough), seconds=5)
    assert drive(rough, 6).wait(60) == 0

    def outcome(workdir):
        return table.as_csv(table.rows(workdir, fakes.SWEEP), result=True)

    assert outcome(rough) == outcome(calm)
    for trial in made:
        place = trials.folder(rough, trial.id)
        rows = [row["step"] for row in trials.rows_of(place)]
        assert rows == list(range(1, 21))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_trials_which_save(tmp_path, number):
    driver = drive(tmp_path / "s", 6)
    wait_for(lambda: list(tmp_path.glob("s/trials/*/metrics.jsonl")))
    driver.send_signal(number)
    assert driver.wait(20) == 128 + number
    assert not of_sweep(tmp_path / "s")
    begun = [path.parent for path in tmp_path.glob("s/trials/*/metrics.jsonl")]
    for place in begun:
        steps = [row["step"] for row in trials.rows_of(place)]
        assert not steps or max(steps) == trials.saved_step(place)


def test_a_second_driver_is_refused(tmp_path):
    with local_lock(tmp_path / "s"):
        driver = drive(tmp_path / "s", 2)
        assert driver.wait(20) == 1
    assert not (tmp_path / "s" / "trials").exists()


def local_lock(folder):
    from vit_jax.lock import WorkdirLock

    return WorkdirLock(folder, say=lambda line: None)
