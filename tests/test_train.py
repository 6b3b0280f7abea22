"""Whole runs: kill and resume, run again, diverge, take parameters from another."""

import dataclasses
import functools
import json
import math
import os
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
from etils import epath

from tests import training
from vit_jax import cli, metrics, setup
from vit_jax.checkpoint import CheckpointError, Checkpoints
from vit_jax.checkpoint.folder import Folder
from vit_jax.config import ConfigError
from vit_jax.evaluate import evaluate
from vit_jax.goodput import PHASES
from vit_jax.pending import NonFiniteError
from vit_jax.train import train

TIMES = (
    "train/img_per_sec",
    "train/data_wait",
    "train/tflops",
    "train/mfu",
    "train/rss_peak_gib",
    "goodput/",
)


def run(workdir, *changes):
    """Trains in this process, returns the result and what was said."""
    said = []
    result = train(training.tiny_config(*changes), str(workdir), say=said.append)
    return result, "\n".join(map(str, said))


def rows(workdir, *, timed=False):
    return [
        {key: value for key, value in row.items() if timed or not key.startswith(TIMES)}
        for row in metrics.read_rows(workdir / "metrics.jsonl")
    ]


@functools.cache
def state_shapes(devices, changes):
    parts = training.build(
        training.tiny_config(*changes), devices=jax.devices()[:devices]
    )
    return parts.state_shapes


def restored(workdir, step=None, devices=None, changes=(training.AVERAGED,)):
    """The state of a checkpoint, on the host."""
    folder = workdir / "checkpoints"
    checkpoints = Checkpoints(folder, keep=9, read_only=True)
    shapes = state_shapes(devices, tuple(changes))
    state, _ = checkpoints.restore(step or checkpoints.latest(), shapes)
    checkpoints.close()
    return training.host(state)


def contents(folder):
    """Every file with its bytes and time of change."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def finished():
    """A finished run with an average; nobody may change it."""
    return training.finished()


@pytest.fixture
def copied(tmp_path):
    """A copy of it, for changing."""
    return shutil.copytree(training.finished()[0], tmp_path / "run")


def test_what_a_run_leaves(finished):
    folder, result, said = finished
    assert (result.steps, result.trained_steps, result.workdir) == (8, 8, folder)
    assert result.seconds > 0 and result.img_per_sec > 0
    assert {"val/accuracy", "val/loss", "val_ema/accuracy"} <= result.evaluations.keys()
    saved = json.loads((folder / "config.json").read_text())
    assert saved["config"]["model"]["width"] == 16
    assert saved["config"]["model"]["num_classes"] == 10
    assert {"python", "vit_jax", "jax", "flax"} <= saved["versions"].keys()
    assert saved["versions"]["jax"] == jax.__version__
    assert (folder / "figures" / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert "digits" in said and "data 8" in said and "8 steps of 16 images" in said


def test_every_step_is_logged_once(finished):
    folder, result, _ = finished
    steps = [row["step"] for row in rows(folder) if "train/loss" in row]
    assert steps == list(range(1, 9))
    evaluated = {row["step"]: row for row in rows(folder) if "val/accuracy" in row}
    assert sorted(evaluated) == [4, 8]
    for name, value in result.evaluations.items():
        assert evaluated[8][name] == value
    rates = {
        row["step"]: row["train/learning_rate"]
        for row in rows(folder)
        if "train/learning_rate" in row
    }
    assert rates[1] == 0.0 and rates[3] == pytest.approx(2e-3) and rates[8] < rates[4]


def test_the_phases_sum_to_the_wall_time(finished):
    folder, result, _ = finished
    last = [row for row in rows(folder, timed=True) if "goodput/ratio" in row][-1]
    seconds = [v for name, v in last.items() if name.endswith("_seconds")]
    assert len(seconds) == len(PHASES)
    # The rest is the last evaluation and save, and closing files.
    assert 0.5 * result.seconds < sum(seconds) < result.seconds
    assert last["goodput/ratio"] == last["goodput/step_seconds"] / sum(seconds)


def died_after_four(workdir):
    """Takes the last checkpoint away: rows after step 4 are of a life that was lost."""
    shutil.rmtree(workdir / "checkpoints" / "8")


def test_a_run_that_died_goes_on_as_if_it_never_had(finished, copied):
    """Killed processes are in the slow tests, and in scripts/chaos.py."""
    died_after_four(copied)
    result, said = run(copied, training.AVERAGED, "log.tensorboard=True")
    assert "resuming from step 4" in said and result.trained_steps == 4
    assert training.same_bits(restored(copied, 8), restored(finished[0], 8))
    assert rows(copied) == rows(finished[0])
    lost = [
        rows(folder, timed=True)[-2]["goodput/lost_seconds"]
        for folder in (copied, finished[0])
    ]
    assert lost[0] > 0.0 == lost[1]
    events = list(copied.rglob("events.out.tfevents.*"))
    assert events and all(event.stat().st_size > 0 for event in events)


def test_a_result_that_is_not_finite_survives_a_resume(copied):
    """JSON has no NaN: the log says null, and a checkpoint wants a number."""
    path = copied / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [line for line in lines if line["step"] <= 4]
    kept[-1]["val/loss"] = None
    path.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
    died_after_four(copied)
    result, said = run(copied, training.AVERAGED)
    assert "resuming from step 4" in said and result.trained_steps == 4
    assert math.isfinite(result.evaluations["val/loss"])


def test_evaluating_gives_the_numbers_of_the_log(finished):
    folder, result, _ = finished
    before = contents(folder)
    step, results = evaluate(str(folder))
    assert step == 8
    assert results == result.evaluations
    step, earlier = evaluate(str(folder), step="4")
    logged = next(row for row in rows(folder) if row["step"] == 4 and "val/loss" in row)
    assert step == 4
    assert earlier == {name: logged[name] for name in earlier}
    assert contents(folder) == before
    with pytest.raises(CheckpointError, match=r"no checkpoint '5'; there: 4, 8"):
        evaluate(str(folder), step="5")


def test_a_finished_run_trains_nothing(finished, capsys):
    folder, first, _ = finished
    before = restored(folder)
    logged, figure = rows(folder, timed=True), (folder / "figures/curves.png").stat()
    assert cli.main(training.train_arguments(folder, training.AVERAGED)) == 0
    assert "already complete" in capsys.readouterr().out
    assert rows(folder, timed=True) == logged
    assert (folder / "figures/curves.png").stat().st_mtime_ns == figure.st_mtime_ns
    assert training.same_bits(restored(folder), before)
    result, _ = run(folder, training.AVERAGED)
    assert (result.trained_steps, result.evaluations) == (0, first.evaluations)


def test_another_config_in_the_same_directory(finished, capsys):
    folder, _, _ = finished
    before = contents(folder)
    changes = (training.AVERAGED, "optim.learning_rate=0.01", "data.augment.pad=0")
    assert cli.main(training.train_arguments(folder, *changes)) == 2
    captured = capsys.readouterr()
    assert captured.err.count("vit-jax:") == 1
    assert "optim.learning_rate: 0.002 -> 0.01" in captured.err
    assert "data.augment.pad: 1 -> 0" in captured.err
    assert "another --workdir" in captured.err
    assert "Traceback" not in captured.err
    assert contents(folder) == before


def test_a_harmless_change_is_taken_over(copied):
    run(copied, training.AVERAGED, "log.every.steps=2")
    saved = json.loads((copied / "config.json").read_text())
    assert saved["config"]["log"]["every"]["steps"] == 2


CHANGES = ("train.duration.steps=40", training.AVERAGED, "evals.val.every.steps=6")


def start(workdir):
    return subprocess.Popen(
        training.command(*training.train_arguments(workdir, *CHANGES)),
        env=training.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_rows(process, path, step):
    """Waits until a step is in the metrics; the file is written to as it goes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        if path.exists() and any(
            row["step"] >= step for row in metrics.read_rows(path)
        ):
            return
        time.sleep(0.002)
    raise AssertionError(f"step {step} was not reached")


@pytest.mark.slow  # kill9 of chaos --short does the same, twice
def test_killed_and_started_again_is_as_never_killed(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    process = start(straight)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    process = start(killed)
    wait_for_rows(process, killed / "metrics.jsonl", 20)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    process = start(killed)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    assert "resuming from step" in output
    expected = restored(straight, 40, devices=1, changes=CHANGES)
    assert int(expected.step) == 40
    actual = restored(killed, 40, devices=1, changes=CHANGES)
    assert training.same_bits(actual, expected)
    assert rows(killed) == rows(straight)
    lost = [
        rows(folder, timed=True)[-2]["goodput/lost_seconds"]
        for folder in (killed, straight)
    ]
    assert lost[0] > 0.0 == lost[1]
    steps = [row["step"] for row in rows(killed) if "train/loss" in row]
    assert steps == list(range(1, 41))


def poison(monkeypatch, steps):
    """Makes the images of the given steps (1-based) infinite, inside the real step."""
    build_prepare, build_parts = setup.build_prepare, setup.build_parts

    def prepare_poisoned(config):
        prepare = build_prepare(config)

        def poisoned(batch, key):
            batch = dict(batch)
            factor = batch.pop("poison")
            prepared = prepare(batch, key)
            return prepared | {
                "images": prepared["images"] * factor[:, None, None, None]
            }

        return poisoned

    def parts_poisoned(*args, **kwargs):
        parts = build_parts(*args, **kwargs)

        def step(state, frozen, batch, key):
            factor = np.full(
                (batch["image"].shape[0],),
                math.inf if int(state.step) + 1 in steps else 1.0,
                np.float32,
            )
            batch = batch | {"poison": jax.device_put(factor, batch["label"].sharding)}
            return parts.train_step(state, frozen, batch, key)

        return dataclasses.replace(parts, train_step=step)

    monkeypatch.setattr(setup, "build_prepare", prepare_poisoned)
    monkeypatch.setattr(setup, "build_parts", parts_poisoned)


def test_steps_that_are_not_finite_change_nothing_and_are_counted(
    tmp_path, monkeypatch
):
    changes = (training.AVERAGED, "checkpoint.every.steps=1", "checkpoint.keep=9")
    poison(monkeypatch, {3, 6})
    run(tmp_path / "run", *changes)
    logged = rows(tmp_path / "run")
    assert [row["step"] for row in logged if row.get("train/nonfinite")] == [3, 6]
    losses = {row["step"]: row["train/loss"] for row in logged if "train/loss" in row}
    assert [step for step, loss in losses.items() if loss is None] == [3, 6]
    saved = {step: restored(tmp_path / "run", step) for step in range(2, 8)}
    for step in (3, 6):
        before, after, later = (saved[step + number] for number in (-1, 0, 1))
        assert int(after.step) == step
        assert training.same_bits(after.replace(step=0), before.replace(step=0))
        assert not training.same_bits(later.params, after.params)


def test_a_run_that_diverges(tmp_path, capsys, monkeypatch):
    """Steps 5 to 7 are not finite, after the checkpoint of step 4."""
    changes = (training.AVERAGED, "log.every.steps=50", "train.max_nonfinite=3")
    poison(monkeypatch, {5, 6, 7})
    arguments = training.train_arguments(tmp_path / "run", *changes)
    assert cli.main(arguments) == 1
    captured = capsys.readouterr()
    assert "step 7 is not finite" in captured.err and "loss" in captured.err
    assert "nor at the 2 before it" in captured.err
    assert "examples of step 7: " in captured.err
    assert "step 4" in captured.err  # what is left
    assert "Traceback" not in captured.err
    saved = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert [name for name in saved if name[0].isdigit()] == ["4"]
    monkeypatch.undo()
    state = restored(tmp_path / "run", 4)
    assert int(state.step) == 4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert cli.main(arguments) == 0  # from the last good checkpoint
    assert int(restored(tmp_path / "run").step) == 8


def test_a_huge_learning_rate(tmp_path):
    changes = (training.AVERAGED, "optim.learning_rate=1e30")
    changes += ("schedule.warmup.steps=0", "optim.clip_norm=0.0")
    changes += ("train.max_nonfinite=2",)
    with pytest.raises(NonFiniteError, match=r"at step \d+ is not finite"):
        run(tmp_path / "run", *changes)
    for path in (tmp_path / "run" / "checkpoints").glob("*"):
        if path.name.isdigit():
            state = restored(tmp_path / "run", int(path.name))
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_loss_spike_goes_back_to_the_last_checkpoint(tmp_path):
    """Any loss is a spike at a factor of 1e-6, once three are known."""
    changes = (training.AVERAGED, "checkpoint.every.steps=2", "checkpoint.keep=9")
    changes += ("train.rollback.factor=0.000001", "train.rollback.window=3")
    result, _ = run(tmp_path / "run", *changes)
    logged = rows(tmp_path / "run")
    back = [row for row in logged if "train/rolled_back_to" in row]
    found = [(row["step"], row["train/rolled_back_to"]) for row in back]
    assert found == [(4, 2.0), (8, 6.0)]
    two, four = (restored(tmp_path / "run", step) for step in (2, 4))
    assert int(four.step) == 4
    assert training.same_bits(four.params, two.params)
    assert training.same_bits(four.opt_state, two.opt_state)
    assert result.steps == 8 and int(restored(tmp_path / "run").step) == 8


def test_only_a_result_of_this_step_makes_a_checkpoint_the_best(tmp_path):
    changes = (training.AVERAGED, "checkpoint.every.steps=2", "checkpoint.keep=9")
    run(tmp_path / "run", *changes, "optim.learning_rate=0.0")
    folder = tmp_path / "run" / "checkpoints"
    checkpoints = Checkpoints(folder, best="val/accuracy", read_only=True)
    # All accuracies are equal: the rest would win if old results counted.
    assert checkpoints.best() in (4, 8)
    checkpoints.close()
    metas = Folder(epath.Path(folder)).metas()
    assert {step: meta.measured for step, meta in metas.items()} == {
        2: False, 4: True, 6: False, 8: True,
    }  # fmt: skip
    accuracies = {step: metas[step].evaluations["val/accuracy"] for step in (4, 6, 8)}
    assert len(set(accuracies.values())) == 1


def test_a_directory_of_another_run_is_refused(finished):
    with pytest.raises(ConfigError, match=r"seed: 0 -> 1"):
        run(finished[0], training.AVERAGED, "seed=1")


def test_a_run_whose_lock_was_taken_ends_with_its_own_code(
    tmp_path, capsys, monkeypatch
):
    """The file is somebody else's when the first checkpoint is to be committed."""
    save = Checkpoints.save

    def taken(self, step, *arguments, **keywords):
        (tmp_path / "run" / "lock").unlink()
        save(self, step, *arguments, **keywords)

    monkeypatch.setattr(Checkpoints, "save", taken)
    arguments = training.train_arguments(tmp_path / "run", training.AVERAGED)
    assert cli.main(arguments) == 5
    assert "lock" in capsys.readouterr().err
    folder = tmp_path / "run" / "checkpoints"
    assert not [path for path in folder.glob("*") if path.name.isdigit()]
