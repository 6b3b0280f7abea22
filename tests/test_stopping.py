"""Signals: where a run stops, at once or together with other processes."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests import training
from vit_jax.stopping import Stop, Stopping, exit_code


@pytest.fixture
def left():
    return []


def stop(left):
    """A Stop that notes the code instead of leaving."""
    return Stop(say=lambda line: None, leave=left.append)


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_at_the_next_place(left, number):
    with stop(left) as stopping:
        stopping.tick()
        stopping.from_now_on_save()
        stopping.tick()
        os.kill(os.getpid(), number)
        wait_for(lambda: stopping.signal)
        with pytest.raises(Stopping):
            for _ in range(2):
                time.sleep(0.05)
                stopping.tick()
        assert stopping.signal == number
    assert left == []


def test_a_second_signal_leaves_at_once(left):
    released = []
    with stop(left) as stopping:
        stopping.releases(lambda: released.append(True))
        stopping.from_now_on_save()
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: stopping.signal)
        assert left == []
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: left)
    assert left == [130] and released == [True]


def test_with_nothing_to_save_the_first_leaves_at_once(left):
    with stop(left):
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: left)
    assert left == [143] == [exit_code(signal.SIGTERM)]


def test_waiting_for_data_is_interrupted(left):
    with stop(left) as stopping:
        stopping.from_now_on_save()
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        begun = time.monotonic()
        with pytest.raises(Stopping), stopping.interruptible():
            time.sleep(30)
        assert time.monotonic() - begun < 10
        with pytest.raises(Stopping), stopping.interruptible():
            pytest.fail("a signal that came before is heeded, too")
    assert left == []


def test_the_old_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with Stop():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert after == before


def test_in_another_thread_handlers_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def run():
        with Stop() as stopping:
            stopping.tick()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


SCRIPT = """
import hashlib
from vit_jax.stopping import Stop

with Stop() as stop:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # in C: no handler runs meanwhile
"""


def test_the_main_thread_need_not_listen():
    """As during a compilation; only a thread that waits can leave then."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        env=training.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(timeout=40) == 143
    finally:
        process.kill()
        process.communicate()


class Store:
    """What processes tell each other, for several Stops in one process."""

    def __init__(self, number):
        self.signal, self.posted, self.number = 0, {}, number


class Agreement:
    def __init__(self, store, rank):
        self._store, self._rank = store, rank

    def announce_stop(self, number):
        self._store.signal = number

    def announced_stop(self):
        return self._store.signal

    def post_count(self, count):
        self._store.posted[self._rank] = count

    def counts(self):
        wait_for(lambda: len(self._store.posted) == self._store.number)
        return list(self._store.posted.values())


def follow(store, rank, left, ticks):
    """A Stop as in another process, which came this far."""
    stopping = Stop(say=lambda line: None, leave=left.append)
    for _ in range(ticks):
        stopping.tick()
    stopping.connect(Agreement(store, rank))
    return stopping


def where_it_stops(stopping, ticks):
    while True:
        try:
            stopping.tick()
        except Stopping:
            return ticks + 1
        ticks += 1


def test_processes_stop_at_the_first_place_that_none_has_passed(left):
    store = Store(3)
    far = [4, 6, 5]
    stops = [follow(store, rank, left, ticks) for rank, ticks in enumerate(far)]
    for stopping in stops:
        stopping.from_now_on_save()
    store.signal = signal.SIGTERM  # one of them was told
    wait_for(lambda: all(stopping._target for stopping in stops))
    assert [where_it_stops(*pair) for pair in zip(stops, far, strict=True)] == [7, 7, 7]
    assert left == []


def test_if_one_has_nothing_to_save_all_leave(left):
    store = Store(2)
    stops = [follow(store, rank, left, 3) for rank in range(2)]
    stops[0].from_now_on_save()
    store.signal = signal.SIGINT
    wait_for(lambda: len(left) == 2)
    assert left == [130, 130]
