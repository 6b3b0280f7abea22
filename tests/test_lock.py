"""The lock of a work directory, with real processes that race, die and stop."""

import contextlib
import json
import os
import signal
import socket
import threading
import time

import pytest

from tests.lock_worker import Worker
from vit_jax import lock as locks
from vit_jax.lock import (
    LockError,
    LockHeldError,
    LockLostError,
    WorkdirLock,
    files,
    owner,
    workdir,
)


@pytest.fixture
def start():
    """Starts workers, and ends them."""
    with contextlib.ExitStack() as stack:

        def start(*arguments):
            worker = Worker(*arguments)
            stack.callback(worker.kill)
            return worker

        yield start


def _write(folder, *, age=0.0, **changes):
    """A lock file that no process holds, as of some other machine."""
    folder.mkdir(exist_ok=True)
    other = {"host": "elsewhere", "boot": "another", "pid": 7, "user": "ada"} | changes
    fields = json.loads(owner.Owner.here().to_json()) | other
    path = folder / "lock"
    path.write_text(json.dumps(fields))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_owner_is_written_and_released(tmp_path):
    folder = tmp_path / "run"
    with WorkdirLock(folder) as held:
        found = json.loads((folder / "lock").read_text())
        assert found["pid"] == os.getpid()
        assert {"user", "host", "since", "process_start", "token"} < set(found)
        assert [path.name for path in folder.iterdir()] == ["lock"]
        held.check()
        held.check(timeout=0)
    assert list(folder.iterdir()) == []
    held.release()
    with pytest.raises(LockLostError, match="not held"):
        held.check()
    with held:  # it can be taken again
        held.check()


def test_second_owner_is_told_who_is_first(tmp_path, start):
    first, second = start(), start()
    assert first.ask("acquire", str(tmp_path), 0) == ["ok", []]
    kind, message = second.ask("acquire", str(tmp_path), 0)
    assert kind == "LockHeldError"
    assert f"process {first.process.pid}," in message
    assert "another --workdir" in message and "\n" not in message
    assert first.ask("check")[0] == "ok"
    assert first.ask("release")[0] == "ok"
    assert second.ask("acquire", str(tmp_path), 0) == ["ok", []]


def test_same_process_cannot_have_it_twice(tmp_path):
    with WorkdirLock(tmp_path), pytest.raises(LockHeldError, match=str(os.getpid())):
        WorkdirLock(tmp_path).acquire()


@pytest.mark.parametrize("before", ["nothing", "killed", "expired"])
def test_of_four_starters_one_wins(tmp_path, start, before):
    workers = [start() for _ in range(4)]
    for turn in range(8):
        folder = tmp_path / str(turn)
        if before == "killed":  # by any of the ways to leave a file behind
            _write(folder, boot=owner._boot(), host=socket.gethostname())
        elif before == "expired":
            _write(folder, age=100)
        _race(workers, folder)


def test_of_four_starters_on_hosts_without_a_common_kernel_one_wins(tmp_path, start):
    workers = [start("elsewhere") for _ in range(4)]
    for turn in range(8):
        folder = tmp_path / str(turn)
        if turn % 2:
            _write(folder, age=100)
        _race(workers, folder)


def _race(workers, folder):
    at = time.time() + 0.05
    for worker in workers:
        worker.tell("acquire", str(folder), at)
    answers = [worker.hear() for worker in workers]
    winners = [i for i, (kind, _) in enumerate(answers) if kind == "ok"]
    assert len(winners) == 1, answers
    winner = workers[winners[0]]
    pid = json.loads((folder / "lock").read_text())["pid"]
    assert pid == winner.process.pid
    assert all(f"process {pid}," in m for kind, m in answers if kind != "ok"), answers
    assert [path.name for path in folder.iterdir()] == ["lock"]
    assert winner.ask("check")[0] == "ok"
    assert winner.ask("release")[0] == "ok"


def test_race_while_the_owner_leaves(tmp_path, start):
    """The file is unlinked under those who try: still at most one has it."""
    workers = [start() for _ in range(3)]
    holder = workers[0]
    assert holder.ask("acquire", str(tmp_path), 0)[0] == "ok"
    for _ in range(20):
        for worker in workers:
            worker.tell("release" if worker is holder else "acquire", str(tmp_path), 0)
        answers = {worker: worker.hear()[0] for worker in workers}
        winners = [w for w in workers if w is not holder and answers[w] == "ok"]
        assert len(winners) <= 1
        if not winners:
            assert holder.ask("acquire", str(tmp_path), 0)[0] == "ok"
        else:
            holder = winners[0]
        assert holder.ask("check")[0] == "ok"


def test_lock_of_a_killed_owner_is_free_at_once(tmp_path, start):
    first, second = start(), start()
    assert first.ask("acquire", str(tmp_path), 0)[0] == "ok"
    first.kill()
    assert (tmp_path / "lock").exists()
    kind, (line,) = second.ask("acquire", str(tmp_path), 0)
    assert kind == "ok"
    assert "taking over" in line and f"process {first.process.pid}" in line


def test_forked_child_of_a_killed_owner_does_not_keep_it(tmp_path, start):
    first, second = start(), start()
    assert first.ask("acquire", str(tmp_path), 0)[0] == "ok"
    (child,) = first.ask("fork")[1]
    first.process.kill()
    first.process.wait()
    try:
        assert second.ask("acquire", str(tmp_path), 0)[0] == "ok"
    finally:
        os.kill(child, signal.SIGKILL)


def test_forked_child_leaves_the_file_to_its_parent(tmp_path, start):
    first = start()
    assert first.ask("acquire", str(tmp_path), 0)[0] == "ok"
    (child,) = first.ask("fork", "release")[1]
    deadline = time.monotonic() + 100
    while owner._process_start(child):  # until it has ended
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (tmp_path / "lock").exists()
    assert first.ask("check")[0] == "ok"


def test_stopped_owner_keeps_it(tmp_path, start):
    first, second = start(), start()
    assert first.ask("acquire", str(tmp_path), 0)[0] == "ok"
    os.kill(first.process.pid, signal.SIGSTOP)
    try:
        old = time.time() - 1000
        os.utime(tmp_path / "lock", (old, old))
        assert second.ask("acquire", str(tmp_path), 0)[0] == "LockHeldError"
    finally:
        os.kill(first.process.pid, signal.SIGCONT)
    assert first.ask("check")[0] == "ok"


def test_owner_on_another_host_is_respected_while_it_gives_signs_of_life(tmp_path):
    _write(tmp_path, age=40)
    with pytest.raises(LockHeldError) as caught:
        WorkdirLock(tmp_path).acquire()
    assert "ada on elsewhere, process 7" in str(caught.value)
    assert "last sign of life 40 s ago" in str(caught.value)
    assert "taken over in 20 s" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_owner_on_another_host_is_succeeded_once_it_is_silent(tmp_path):
    _write(tmp_path, age=61)
    said = []
    with WorkdirLock(tmp_path, say=said.append) as held:
        held.check()
    (line,) = said
    assert "ada on elsewhere" in line


def test_a_file_that_nobody_wrote_expires_too(tmp_path):
    path = _write(tmp_path)
    path.write_text("not ours")
    with pytest.raises(LockHeldError, match="just starting"):
        WorkdirLock(tmp_path).acquire()
    _write(tmp_path, age=61).write_text("")
    os.utime(path, (1, 1))
    with WorkdirLock(tmp_path, say=[].append) as held:
        held.check()


@pytest.mark.parametrize("how", ["removed", "replaced", "rewritten"])
def test_check_notices_a_lock_that_is_gone(tmp_path, how):
    with WorkdirLock(tmp_path) as held:
        path = tmp_path / "lock"
        if how == "removed":
            path.unlink()
        elif how == "replaced":
            path.rename(tmp_path / "old")
            _write(tmp_path)
        else:
            path.write_bytes(owner.Owner.here().to_json())
        with pytest.raises(LockLostError, match="lock"):
            held.check()
        with pytest.raises(LockLostError):
            held.check(timeout=0)
        theirs = path.read_text() if path.exists() else None
    assert (path.read_text() if path.exists() else None) == theirs or how == "rewritten"


def test_heartbeat_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir, "RENEWED_SECONDS", 0.05)
    with WorkdirLock(tmp_path):
        os.utime(tmp_path / "lock", (1, 1))
        deadline = time.monotonic() + 100
        while (tmp_path / "lock").stat().st_mtime < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)


class SlowPlace:
    """A storage that fails or hangs when told to."""

    def __init__(self):
        self.error, self.answer = None, threading.Event()
        self.answer.set()

    def acquire(self, owner):
        return None

    def renew(self):
        assert self.answer.wait(100)
        if self.error:
            raise self.error

    def release(self):
        pass


@pytest.fixture
def slow(monkeypatch):
    place, clock = SlowPlace(), [1000.0]
    monkeypatch.setattr(workdir, "_place_for", lambda folder: place)
    monkeypatch.setattr(workdir, "_clock", lambda: clock[0])
    return place, clock


def test_lease_holds_while_the_storage_fails_and_then_ends(slow):
    place, clock = slow
    with WorkdirLock("gs://bucket/run") as held:
        place.error = ConnectionError("no route\nto host")
        clock[0] += 40
        held.check()
        held.check(timeout=0)
        clock[0] += 25
        with pytest.raises(
            LockLostError, match=r"for 65 s .ConnectionError: no route.;"
        ):
            held.check()
        place.error = None
        held.check()  # nobody took it meanwhile: it is renewed


def test_check_does_not_wait_for_a_hung_storage(slow):
    place, _ = slow
    with WorkdirLock("gs://bucket/run") as held:
        place.answer.clear()
        held.check(timeout=0.1)  # these would wait for the answer for ever
        held.check(timeout=0)
        assert not place.answer.is_set()
        place.answer.set()


def test_resumed_process_renews_before_it_decides(slow):
    """After a pause longer than the lease, a look costs a question, not the run."""
    _, clock = slow
    with WorkdirLock("gs://bucket/run") as held:
        clock[0] += 500
        held.check(timeout=0)


@pytest.mark.skipif(os.getuid() == 0, reason="root writes anywhere")
def test_folder_that_cannot_be_written_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(LockError, match="Permission denied"):
        WorkdirLock(tmp_path).acquire()


def test_path_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(LockError, match="run cannot be used as a work directory"):
        WorkdirLock(tmp_path / "run").acquire()


def test_without_hard_links(tmp_path, monkeypatch, start):
    def refuse(source, target):
        raise OSError(files.errno.EPERM, "no links here")

    monkeypatch.setattr(files.os, "link", refuse)
    with WorkdirLock(tmp_path) as held:
        held.check()
        with pytest.raises(LockHeldError):
            WorkdirLock(tmp_path).acquire()
        assert start().ask("acquire", str(tmp_path), 0)[0] == "LockHeldError"
    _write(tmp_path, age=61)
    with WorkdirLock(tmp_path, say=[].append) as held:
        held.check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("alive", [True, False])
def test_without_kernel_locks_the_process_is_looked_up(tmp_path, monkeypatch, alive):
    monkeypatch.setattr(files, "try_lock", lambda file: None)
    here = owner.Owner.here()
    fields = dict(host=here.host, boot=here.boot, pid=os.getppid())
    started = owner._process_start(os.getppid()) if alive else "1"
    _write(tmp_path, **fields, process_start=started)
    if alive:
        with pytest.raises(LockHeldError):
            WorkdirLock(tmp_path).acquire()
    else:
        with WorkdirLock(tmp_path, say=[].append) as held:
            held.check()


def test_starter_that_was_killed_as_it_took_over_blocks_nobody(tmp_path):
    here = {"boot": owner._boot(), "host": socket.gethostname()}
    path = _write(tmp_path, **here)
    token = json.loads(path.read_text())["token"]
    (tmp_path / f"lock.{token}.claim").write_bytes(path.read_bytes())
    with WorkdirLock(tmp_path, say=[].append) as held:
        held.check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"token": "../up"}, {"pid": "7"}, {"user": 1}])
def test_what_we_would_not_write_is_not_read(change):
    fields = json.loads(owner.Owner.here().to_json())
    assert owner.Owner.from_json(json.dumps(fields)) is not None
    assert owner.Owner.from_json(json.dumps(fields | change)) is None
    assert owner.Owner.from_json("[1]") is None


def test_leftovers_of_killed_starters_are_removed(tmp_path):
    old, new = tmp_path / "lock.abc", tmp_path / "lock.def"
    old.touch(), new.touch()
    os.utime(old, (1, 1))
    with WorkdirLock(tmp_path):
        assert not old.exists() and new.exists()


def test_errors_end_as_the_command_line_expects():
    assert issubclass(LockHeldError, LockError) and issubclass(LockError, ValueError)
    assert not issubclass(LockLostError, ValueError)
    assert "LockHeldError" in locks.__all__
