"""starts.json: what each start notes, how it ended, and what it keeps to itself."""

import contextlib
import json
import os
import socket
import subprocess

import pytest
from etils import epath

from tests import training
from vit_jax import starts
from vit_jax.lock import LockLostError
from vit_jax.outcome import Interrupted


def saved(folder):
    return json.loads((folder / "starts.json").read_text())["starts"]


def note(folder, error=None, **start):
    expected = contextlib.nullcontext() if error is None else pytest.raises(type(error))
    with expected, starts.noted(epath.Path(folder), {"step": 0, **start}):
        if error is not None:
            raise error


def test_a_start_that_finished(tmp_path):
    with starts.noted(epath.Path(tmp_path), {"command": ["train"], "step": 3}):
        (during,) = saved(tmp_path)
        assert "ended" not in during
        assert during["command"] == ["train"] and during["step"] == 3
    (after,) = saved(tmp_path)
    assert after["ended"]["how"] == "finished"
    assert after["ended"]["at"].endswith("Z")
    assert {"python", "jax", "vit_jax"} <= after["versions"].keys()


def test_each_end_is_told_from_the_others(tmp_path):
    note(tmp_path, Interrupted(15, 40))
    note(tmp_path, ArithmeticError("loss is nan\nmore"))
    note(tmp_path, KeyboardInterrupt())
    stopped, failed, interrupted = (start["ended"] for start in saved(tmp_path))
    assert (stopped["how"], stopped["signal"]) == ("signal", 15)
    assert failed["how"] == "failed"
    assert failed["message"] == "ArithmeticError: loss is nan"
    assert interrupted["how"] == "failed"


def test_nothing_is_written_once_the_lock_is_lost(tmp_path):
    note(tmp_path, LockLostError("another run has it"))
    assert "ended" not in saved(tmp_path)[0]


def test_only_the_newest_are_kept(tmp_path):
    for step in range(starts.KEPT + 3):
        note(tmp_path, step=step)
    assert [start["step"] for start in saved(tmp_path)] == list(
        range(3, starts.KEPT + 3)
    )


def test_a_full_disk_or_damage_does_not_end_the_run(tmp_path, monkeypatch):
    (tmp_path / "starts.json").write_text('{"starts": [')
    note(tmp_path, step=1)
    assert [start["step"] for start in saved(tmp_path)] == [1]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(starts.storage, "write_text", full)
    note(tmp_path, step=2)
    assert [start["step"] for start in saved(tmp_path)] == [1]


def test_neither_host_nor_secret_is_noted(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "10.0.0.1:99")
    monkeypatch.setenv("WANDB_API_KEY", "secret-key")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    text = json.dumps(starts.environment())
    assert "--xla_dump_to=x" in text
    for private in ("10.0.0.1", "secret-key", socket.gethostname() + ".", os.getcwd()):
        assert private not in text


def test_the_commit_of_a_checkout(tmp_path):
    assert starts.git_revision(tmp_path) == ""

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        call = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(call, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "a")
    revision = git("rev-parse", "HEAD").strip()
    assert starts.git_revision(tmp_path) == revision
    (tmp_path / "a").write_text("2")
    assert starts.git_revision(tmp_path) == f"{revision} with changes"


def test_a_real_run_notes_what_a_report_needs():
    folder, _, _ = training.finished()
    (start,) = saved(folder)
    assert start["ended"]["how"] == "finished"
    assert (start["step"], start["total_steps"], start["batch_size"]) == (0, 8, 16)
    assert start["num_examples"] == 1437
    assert (start["device"], start["num_devices"]) == ("cpu", 8)
    assert start["command"] == []  # called from Python
    from vit_jax.report.record import read
    from vit_jax.report.status import status

    found = status(read(str(folder)))
    assert (found["state"], found["percent"]) == ("finished", 100.0)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"starts": 3}', '{"starts": [1]}'])
def test_whatever_the_file_holds_it_can_be_read(text):
    assert starts.read_text(text) == []
