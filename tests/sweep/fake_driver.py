"""A driver of fake trials in a process of its own: `fake_driver.py WORKDIR COUNT`."""

import pathlib
import sys

from tests.sweep import fakes
from vit_jax.lock import LockHeldError, WorkdirLock
from vit_jax.stopping import exit_code

if __name__ == "__main__":
    workdir, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    try:
        with WorkdirLock(workdir, say=print):
            made = fakes.prepare(workdir, fakes.make(count))
            number = fakes.runner(workdir, made, retries=9).run()
    except LockHeldError as error:
        sys.exit(str(error))
    sys.exit(exit_code(number) if number else 0)
