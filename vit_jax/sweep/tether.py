"""Runs a command that ends with its parent: `tether.py PARENT CORES CLAIM COMMAND...`.

A script of its own, and not a function that `subprocess` calls in the child: there, in
the copy of a process that has threads, Python code may wait for ever for a lock that
one of them held.

What is set here stays with the command, which takes this process's place: the signal
that comes when the parent dies, the cores, and a lock on the file CLAIM, which says
until the command ends that somebody runs this trial. It imports nothing of vit_jax.
"""

import ctypes
import fcntl
import os
import signal
import sys
import time

BUSY = 75  # exit code: another process has the claim
_PR_SET_PDEATHSIG = 1
_PATIENCE = 10.0  # seconds for the last owner of the claim to be gone


def main(parent: str, cores: str, claim: str, *command: str) -> None:
    """Becomes the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before we had asked to be told
        sys.exit(1)
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    if claim:
        file = os.open(claim, os.O_RDWR | os.O_CREAT, 0o666)
        if not locked(file):
            sys.exit(BUSY)
        os.set_inheritable(file, True)
    os.execvp(command[0], list(command))


def locked(file: int) -> bool:
    """Whether the file is ours now; waits a little for it."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
