"""A command that ends with its parent, on its cores, with its claim."""

import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from vit_jax.sweep import tether

TIED = [sys.executable, "-I", "-S", tether.__file__]
# Starts a tied command that sleeps, says its process, and sleeps itself.
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([*sys.argv[1:], str(os.getpid()), "", "", "sleep", "60"])
time.sleep(0.5)
print(child.pid, flush=True)
time.sleep(60)
"""


def gone(pid, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return True
        if stat.rpartition(")")[2].split()[0] in "ZX":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_parent(number):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *TIED], stdout=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    assert not gone(child, seconds=0.2)
    parent.send_signal(number)
    parent.wait()
    parent.stdout.close()
    assert gone(child)


def test_it_does_not_begin_without_its_parent():
    done = subprocess.run(
        [*TIED, "1", "", "", "echo", "ran"], capture_output=True, text=True
    )
    assert done.returncode == 1 and not done.stdout


def test_the_command_has_the_cores_and_the_claim(tmp_path):
    core = min(os.sched_getaffinity(0))
    claim = tmp_path / "claim"
    program = "import os; print(*os.sched_getaffinity(0), flush=True); input()"
    child = subprocess.Popen(
        [*TIED, str(os.getpid()), str(core), str(claim), sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == f"{core}\n"
    with open(claim) as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        child.communicate("\n")
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_a_claim_of_another_is_respected(tmp_path):
    claim = tmp_path / "claim"
    patient = tether._PATIENCE
    with open(claim, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        program = (
            f"import sys; sys.path.insert(0, {os.path.dirname(tether.__file__)!r}); "
            "import tether; tether._PATIENCE = 0.1; tether.main(*sys.argv[1:])"
        )
        words = [str(os.getpid()), "", str(claim), "echo", "ran"]
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program, *words], capture_output=True
        )
    assert patient > 1
    assert done.returncode == tether.BUSY and not done.stdout
