"""Saves that cannot be made: no space, no lock, an error of the disk; all are noticed."""

import errno
import os
import subprocess
import sys
import textwrap
import threading
import time

import jax
import pytest

from tests import training
from tests.checkpoint import steps
from vit_jax.checkpoint import CheckpointError, Checkpoints
from vit_jax.checkpoint.folder import Folder

ABSTRACT = steps.abstract(steps.state_of(0))


def poll_until_error(checkpoints, seconds=60):
    """As the loop does, once a step."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        checkpoints.poll()
        time.sleep(0.01)
    raise AssertionError("no error was raised")


def failing(*args):
    def fail(*_, **__):
        raise OSError(*args)

    return fail


def test_too_little_space_is_known_before_anything_is_written(tmp_path, monkeypatch):
    folder = steps.fill(tmp_path / "c")
    checkpoints = Checkpoints(folder)
    monkeypatch.setattr(Folder, "free_bytes", lambda self: 300 << 10)
    message = (
        r"checkpoint of step 3 could not be written: no space left on .*/c "
        r"\(needs 1\.\d MiB, 0\.3 MiB free\); the newest good one is step 2"
    )
    with pytest.raises(CheckpointError, match=message):
        checkpoints.save(3, steps.state_of(3), {})
    checkpoints.close()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ((errno.ENOSPC, "No space left on device"), r"no space left on .*/c \(needs"),
        ((errno.EDQUOT, "Disk quota exceeded"), r"no space left on .*/c \(needs"),
        ((errno.EIO, "Input/output error"), "could not be written: .*Input/output"),
    ],
)
def test_an_error_in_the_background_is_raised_by_the_next_poll(
    tmp_path, monkeypatch, error, message
):
    folder = steps.fill(tmp_path / "c")
    checkpoints = Checkpoints(folder)
    monkeypatch.setattr(Folder, "write_meta", failing(*error))
    checkpoints.save(3, steps.state_of(3), {})
    with pytest.raises(CheckpointError, match=message + r".*newest good one is step 2"):
        poll_until_error(checkpoints)
    checkpoints.poll()  # raised once
    checkpoints.close()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
    monkeypatch.undo()
    again = Checkpoints(folder)
    assert again.restore_latest(ABSTRACT)[0] == 2
    again.close()


def test_an_error_nobody_polled_for_is_raised_at_the_end(tmp_path, monkeypatch):
    for end in ("wait", "close"):
        checkpoints = Checkpoints(tmp_path / end)
        with monkeypatch.context() as patch:
            patch.setattr(
                Folder, "write_meta", failing(errno.EIO, "Input/output error")
            )
            checkpoints.save(1, steps.state_of(1), {})
            with pytest.raises(CheckpointError, match="there is no older one"):
                getattr(checkpoints, end)()
        checkpoints.close()


def test_a_guard_that_raises_keeps_a_step_from_its_commit(tmp_path):
    folder = steps.fill(tmp_path / "c")
    lost = threading.Event()
    asked = []

    def guard():
        asked.append(sorted(path.name for path in folder.iterdir()))
        if lost.is_set():
            raise RuntimeError("the lock was taken over by pid 7 on elsewhere")

    checkpoints = Checkpoints(folder, guard=guard)
    checkpoints.save(3, steps.state_of(3), {})
    checkpoints.wait()
    assert any("3.orbax-checkpoint-tmp" in seen for seen in asked)
    state = steps.state_of(4)
    release = threading.Event()
    right = Folder.write_meta

    def write_late(self, *args):
        release.wait(60)
        right(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "write_meta", write_late)
        checkpoints.save(4, state, {})
        lost.set()
        release.set()
        with pytest.raises(
            CheckpointError, match=r"step 4 could not.*taken over by pid 7"
        ):
            poll_until_error(checkpoints)
    checkpoints.close()
    assert steps.saved(folder) == [2, 3]


def test_a_step_saved_again_is_left_alone_or_replaced(tmp_path):
    folder = steps.fill(tmp_path / "c")
    before = (folder / "2").stat().st_ino
    checkpoints = Checkpoints(folder)
    checkpoints.save(2, steps.state_of(2), {"val/accuracy": 0.2})
    checkpoints.wait()
    assert (folder / "2").stat().st_ino == before
    other = steps.state_of(9)
    checkpoints.save(2, other, {})
    checkpoints.wait()
    step, state, _ = checkpoints.restore_latest(ABSTRACT)
    assert step == 2 and steps.same(state, other)
    checkpoints.close()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_a_step_that_was_being_replaced_comes_back_after_a_crash(tmp_path):
    folder = steps.fill(tmp_path / "c")
    (folder / "2").rename(folder / "2.replaced")
    (folder / "1.deleted").mkdir()
    (folder / "2.orbax-checkpoint-tmp").mkdir()
    checkpoints = Checkpoints(folder)
    assert checkpoints.restore_latest(ABSTRACT)[0] == 2
    checkpoints.close()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_arrays_given_away_right_after_the_save_are_saved_as_they_were(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    expected = steps.state_of(1)
    step = jax.jit(
        lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0
    )
    state = step(steps.state_of(1))
    expected = jax.tree.map(lambda leaf: leaf + 1, expected)
    checkpoints.save(1, state, {})
    for _ in range(5):
        state = step(state)
    checkpoints.wait()
    assert steps.same(checkpoints.restore_latest(ABSTRACT)[1], expected)
    checkpoints.close()


ON_A_SMALL_DISK = """
    import sys
    from tests.checkpoint import steps
    from vit_jax.checkpoint import CheckpointError, Checkpoints
    from vit_jax.checkpoint.folder import Folder
    if sys.argv[2] == "late":  # as when others fill the disk meanwhile
        Folder.free_bytes = lambda self: None
    checkpoints = Checkpoints(sys.argv[1])
    saved = 0
    try:
        for step in range(1, 99):
            # Every step is kept, so that the disk fills.
            checkpoints._keeper._keep = 99
            checkpoints.save(step, steps.state_of(step), {})
            checkpoints.wait()
            saved = step
    except CheckpointError as error:
        print("error after", saved, error)
    again = Checkpoints(sys.argv[1])
    step, state, _ = again.restore_latest(steps.abstract(steps.state_of(0)))
    print("restored", step, steps.same(state, steps.state_of(step)))
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_disk_that_fills_up_leaves_the_older_steps_readable(tmp_path, when):
    (tmp_path / "disk").mkdir()
    mount = 'mount -t tmpfs -o size=1500k tmpfs "$0" && exec "$@"'
    prefix = ["unshare", "-rm", "sh", "-c", mount, str(tmp_path / "disk")]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    done = subprocess.run(
        [*prefix, sys.executable, "-c", textwrap.dedent(ON_A_SMALL_DISK),
         str(tmp_path / "disk" / "c"), when],
        env=training.environment() | {"JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stdout + done.stderr
    saved = int(lines[0].split()[2])
    assert saved >= 1
    # Or the last bytes went to the step itself, and the mark that it was read back had
    # no room: then it is there, and counts.
    unmarked = f"could not be looked after: [Errno {errno.ENOSPC}]" in lines[0]
    written = f"step {saved + 1} could not be written: no space left on" in lines[0]
    assert written or (when == "late" and unmarked)
    newest = saved + unmarked
    assert lines[0].endswith(f"the newest good one is step {newest}")
    assert lines[1] == f"restored {newest} True"
    assert os.listdir(tmp_path / "disk") == []  # the mount was the other process's
