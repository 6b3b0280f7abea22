"""After the commit: read back, marked, set aside, tidied; the last good one stays."""

import errno
import os
import shutil
import threading
import time

import pytest

from tests.checkpoint import steps
from vit_jax.checkpoint import CheckpointError, Checkpoints
from vit_jax.checkpoint import keeper as keeping
from vit_jax.checkpoint.arrays import StepArrays
from vit_jax.checkpoint.errors import DamageError
from vit_jax.checkpoint.folder import Folder

ABSTRACT = steps.abstract(steps.state_of(0))


def verified(folder):
    found = Folder(Checkpoints(folder, read_only=True).directory)
    return found.verified(found.metas())


def test_a_saved_step_is_read_back_and_marked(tmp_path):
    folder = steps.fill(tmp_path / "c")
    assert verified(folder) == [1, 2]
    (folder / "2" / "verified").write_text("")  # a crash while it was written
    assert verified(folder) == [1]


def test_a_step_that_was_damaged_before_it_was_read_back_is_set_aside(
    tmp_path, monkeypatch
):
    folder = steps.fill(tmp_path / "c")
    checkpoints = Checkpoints(folder)
    right = StepArrays.check

    def check_after_damage(self, *args):
        for file in (folder / "3" / "state").rglob("d/*"):
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        return right(self, *args)

    monkeypatch.setattr(StepArrays, "check", check_after_damage)
    checkpoints.save(3, steps.state_of(3), {})
    message = r"step 3 is not as it was saved \(.*moved to .*quarantine/3-.*is step 2"
    with pytest.raises(CheckpointError, match=message):
        checkpoints.wait()
    checkpoints.close()
    assert steps.saved(folder) == [1, 2]
    assert len([p for p in (folder / "quarantine").iterdir() if p.is_dir()]) == 1


def test_storage_that_does_not_answer_leaves_a_step_unverified(tmp_path, monkeypatch):
    folder = steps.fill(tmp_path / "c")
    said = []
    checkpoints = Checkpoints(folder, say=said.append)

    def fail(*_):
        raise CheckpointError("step cannot be reached: timed out")

    with monkeypatch.context() as patch:
        patch.setattr(StepArrays, "check", fail)
        for step in (3, 4, 5):
            checkpoints.save(step, steps.state_of(step), {})
            checkpoints.wait()
    assert "checkpoint of step 5 is not verified yet" in said[-1]
    assert steps.saved(folder) == [1, 2, 3, 4, 5]  # 1 and 2 are all that is known good
    checkpoints.save(6, steps.state_of(6), {})
    checkpoints.wait()
    # The newest is verified, which makes two with step 2; those between are not needed.
    assert (steps.saved(folder), verified(folder)) == ([2, 6], [2, 6])
    checkpoints.close()


def test_a_disk_too_full_for_the_mark_alone_is_told_and_the_step_counts(
    tmp_path, monkeypatch
):
    folder = steps.fill(tmp_path / "c")
    checkpoints = Checkpoints(folder)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "mark_verified", full)
        checkpoints.save(3, steps.state_of(3), {})
        message = "looked after: .*No space left on device; the newest good .* step 3"
        with pytest.raises(CheckpointError, match=message):
            checkpoints.wait()
    checkpoints.close()
    step, state, _ = Checkpoints(folder).restore_latest(ABSTRACT)
    assert step == 3
    assert steps.same(state, steps.state_of(3))


def test_saves_faster_than_they_can_be_read_back_do_not_pile_up(tmp_path, monkeypatch):
    folder = tmp_path / "c"
    checkpoints = Checkpoints(folder)
    slow = threading.Event()
    right = StepArrays.check

    def check_late(self, *args):
        slow.wait(60)
        return right(self, *args)

    monkeypatch.setattr(StepArrays, "check", check_late)
    for step in range(1, 7):
        checkpoints.save(step, steps.state_of(step), {})
    checkpoints.wait(verified=False)
    assert steps.saved(folder) == [1, 2, 3, 4, 5, 6]
    slow.set()
    checkpoints.wait()
    assert steps.saved(folder)[-1] == 6
    assert len(steps.saved(folder)) == 2
    assert verified(folder) == steps.saved(folder)
    checkpoints.close()


def test_saves_that_never_let_it_catch_up_do_not_pile_up(tmp_path, monkeypatch):
    folder = tmp_path / "c"
    checkpoints = Checkpoints(folder)
    committed, reading = iter(range(2, 12)), threading.Semaphore(0)
    right, most = StepArrays.check, []

    def check_after_another(self, *args):
        reading.release()  # now the next one is saved, and committed before this is read
        deadline = time.monotonic() + 60
        wanted = next(committed, None)
        while wanted and wanted not in steps.saved(folder):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        most.append(len(steps.saved(folder)))
        return right(self, *args)

    monkeypatch.setattr(StepArrays, "check", check_after_another)
    checkpoints.save(1, steps.state_of(1), {})
    for step in range(2, 12):
        assert reading.acquire(timeout=60)
        checkpoints.save(step, steps.state_of(step), {})
    checkpoints.wait()
    checkpoints.close()
    assert len(most) >= 8
    assert max(most) <= 4  # two verified, the one being read, the newest
    assert steps.saved(folder) == [10, 11]


def test_closing_does_not_wait_for_what_is_being_read_back(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "c")
    begun = threading.Event()
    chunks = []

    def check(self, stopped):
        begun.set()
        while not stopped():
            chunks.append(1)
        return False

    monkeypatch.setattr(StepArrays, "check", check)
    checkpoints.save(1, steps.state_of(1), {})
    assert begun.wait(60)
    checkpoints.close()
    assert steps.saved(tmp_path / "c") == [1] and verified(tmp_path / "c") == []


def test_without_verification_the_newest_stay_and_nothing_is_read(
    tmp_path, monkeypatch
):
    def fail(*_):
        raise DamageError("read")

    monkeypatch.setattr(StepArrays, "check", fail)
    folder = steps.fill(tmp_path / "c", (1, 2, 3), verify=False)
    assert steps.saved(folder) == [2, 3]
    assert Checkpoints(folder).restore_latest(ABSTRACT)[0] == 3


def test_the_last_verified_one_is_never_removed(tmp_path):
    folder = steps.fill(tmp_path / "c", (1, 2))
    for step in (3, 4, 5):  # saved by a run that died before it had read them back
        shutil.copytree(folder / "2", folder / str(step))
        (folder / str(step) / "meta" / "metadata").write_text("{}")
    said = []
    checkpoints = Checkpoints(folder, say=said.append)
    step, state, _ = checkpoints.restore_latest(ABSTRACT)
    assert step == 2 and steps.same(state, steps.state_of(2))
    assert len(said) == 3
    checkpoints.save(6, steps.state_of(6), {})
    checkpoints.wait()
    assert steps.saved(folder) == [2, 6]
    checkpoints.close()


def test_removing_asks_the_guard(tmp_path):
    folder = steps.fill(tmp_path / "c")

    def guard():
        if (folder / "3").exists():
            raise RuntimeError("the lock is lost")

    checkpoints = Checkpoints(folder, guard=guard)
    checkpoints.save(3, steps.state_of(3), {})
    with pytest.raises(CheckpointError, match="the lock is lost"):
        checkpoints.wait()
    checkpoints.close()
    assert steps.saved(folder) == [1, 2, 3]


def test_threads_and_files_stay_as_many(tmp_path):
    import os

    checkpoints = Checkpoints(tmp_path / "c")
    counts = []
    for step in range(1, 31):
        checkpoints.save(step, steps.state_of(step % 9), {})
        checkpoints.wait()
        counts.append((threading.active_count(), len(os.listdir("/proc/self/fd"))))
    checkpoints.close()
    assert max(counts[10:20]) >= max(counts[20:])
    assert keeping.__name__ not in str(threading.enumerate())
