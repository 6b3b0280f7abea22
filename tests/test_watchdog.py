"""The watchdog: what is too long, what is not, and that stacks are written."""

import subprocess
import sys
import threading
import time

import pytest

from tests import training
from vit_jax.watchdog import EXIT_CODE, Watchdog


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def watchdog(clock, **changes):
    settings = dict(seconds=60.0, factor=10.0, compile_seconds=1800.0, folder="/tmp")
    return Watchdog(**settings | changes, clock=clock)


def loop(dog, clock, *seconds):
    """Passes of the loop, as training makes them: most phases are over at once."""
    for length in seconds:
        dog.beat()
        for phase, spent in (("data", 0.001), ("step", 0.0), ("step", length)):
            dog.enter(phase)
            clock.now += spent
        dog.enter("step")
    dog.beat()


def test_the_least_time_and_ten_times_the_median():
    clock = Clock()
    dog = watchdog(clock)
    loop(dog, clock, *[1.0] * 5)
    dog.enter("step")
    assert dog.limit() == 60.0
    loop(dog, clock, *[30.0] * 11)
    dog.enter("step")
    assert dog.limit() == 300.0
    clock.now += 299.0
    assert dog.overdue() == 0.0
    clock.now += 2.0
    assert dog.overdue() == 301.0
    dog.enter("data")
    assert dog.limit() == 60.0


def test_the_first_steps_are_measured_by_the_compilation():
    clock = Clock()
    dog = watchdog(clock)
    dog.enter("compile")
    clock.now += 70.0
    dog.enter("step")
    loop(dog, clock, 69.0)
    dog.enter("step")
    assert dog.limit() == 700.0
    loop(dog, clock, *[1.0] * 5)
    dog.enter("step")
    assert dog.limit() == 60.0


def test_steps_ten_times_slower_are_no_alarm():
    clock = Clock()
    dog = watchdog(clock, seconds=5.0)
    loop(dog, clock, *[1.0] * 50)
    for _ in range(30):
        dog.beat()
        dog.enter("step")
        clock.now += 9.9
        assert not dog.overdue()


def test_a_beat_is_progress():
    clock = Clock()
    dog = watchdog(clock)
    dog.enter("eval")
    for _ in range(5):
        clock.now += 50.0
        assert not dog.overdue()
        dog.beat()
    clock.now += 501.0  # ten times the median of the beats
    assert dog.overdue()


@pytest.mark.parametrize("phase", ["init", "compile"])
def test_a_compilation_has_a_limit_of_its_own(phase):
    clock = Clock()
    dog = watchdog(clock, compile_seconds=100.0)
    dog.enter(phase)
    clock.now += 99.0
    assert not dog.overdue()
    clock.now += 2.0
    assert dog.overdue()
    assert watchdog(clock, compile_seconds=0.0).limit() == 0.0


def test_what_is_read_and_written_is_progress_of_a_save(tmp_path):
    clock = Clock()
    dog = watchdog(clock)
    dog.enter("save")
    dog.overdue()
    clock.now += 61.0
    (tmp_path / "part").write_bytes(b"x" * 100_000)
    assert not dog.overdue()  # something was written
    dog.enter("step")
    clock.now += 61.0
    (tmp_path / "part").write_bytes(b"x" * 100_000)
    assert dog.overdue()  # in other phases it does not count


def test_looking_is_no_progress_of_a_save():
    clock = Clock()
    dog = watchdog(clock)
    dog.enter("restore")
    dog.overdue()
    for _ in range(2000):  # reads more than a part counts for, in all
        assert not dog._traffic.moved()
    clock.now += 61.0
    assert dog.overdue()


SCRIPT = """
import sys, threading, time
from vit_jax.watchdog import Watchdog

def blocked_thread():
    time.sleep(60)

threading.Thread(target=blocked_thread, daemon=True).start()
with Watchdog(
    seconds=0.5, factor=10.0, compile_seconds=100.0, folder=sys.argv[1],
    on_expire=lambda: print("released", flush=True),
) as dog:
    dog.enter("step")
    time.sleep(60)
"""


def test_a_stuck_process_ends_with_all_its_stacks_in_a_file(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path],
        env=training.environment(),
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == EXIT_CODE == 3
    assert done.stdout == "released\n"
    assert "no progress" in done.stderr and "phase 'step'" in done.stderr
    (stacks,) = tmp_path.glob("stacks-*.txt")
    assert str(stacks) in done.stderr
    assert "blocked_thread" in stacks.read_text()


def test_where_a_process_waits_for_another_one():
    clock = Clock()
    dog = watchdog(clock, waits=("save",))
    dog.enter("save")
    assert dog.limit() == 1800.0
    dog.enter("step")
    assert dog.limit() == 60.0


def test_off_and_closed_leave_no_thread(tmp_path):
    before = threading.active_count()
    with Watchdog(seconds=0.0, factor=1.0, compile_seconds=0.0, folder=tmp_path):
        assert threading.active_count() == before
    with Watchdog(seconds=0.1, factor=1.0, compile_seconds=9.0, folder=tmp_path) as dog:
        dog.enter("step")
    time.sleep(0.3)
    assert threading.active_count() == before and not list(tmp_path.iterdir())
