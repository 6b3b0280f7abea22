"""Starting `vit-jax train` as a user does, and ending it as a user would not."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .core import Context, HangError

SCRIPTS = pathlib.Path(__file__).resolve().parents[1]
ROOT = SCRIPTS.parent
CONFIG = SCRIPTS / "chaos_config.py"
# Programs that run for seconds are compiled quickly rather than well: tests/flags.py.
UNOPTIMISED = "--xla_backend_optimization_level=0"
QUICK = (
    f"{UNOPTIMISED} --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
)
# A run takes seconds; this is for a machine that does much else beside.
PATIENCE = 240.0

_live: set["Process"] = set()
_live_lock = threading.Lock()


def environment(context: Context, *, devices: int = 1, cache: bool = True) -> dict:
    """A CPU with some simulated devices; compiled programs are kept between runs.

    Without ``cache``, compiling takes the time in which something can happen to it.
    """
    flags = QUICK if cache else UNOPTIMISED
    values = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {flags}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(SCRIPTS)]),
        "PYTHONUNBUFFERED": "1",
        "MPLCONFIGDIR": str(context.folder / "matplotlib"),
    }
    if cache:
        values |= {
            "JAX_COMPILATION_CACHE_DIR": str(context.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    return values


class Process:
    """A command in a process group of its own, its output in a file."""

    def __init__(self, command: Sequence[str], env: dict, log: pathlib.Path):
        self.log = log
        self.started = time.monotonic()
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid
        with _live_lock:
            _live.add(self)

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def signal(self, number: int, *, group: bool = False) -> None:
        """Sends a signal, to all that it started as well where asked."""
        if self.running():
            (os.killpg if group else os.kill)(self.pid, number)

    def wait(self, limit: float = PATIENCE) -> int:
        """The exit code.

        Raises:
          HangError: it took longer, and has been killed.
        """
        try:
            code = self._process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise HangError(
                f"still running after {limit:.0f} s; its last lines:\n{self.tail()}"
            ) from None
        with _live_lock:
            _live.discard(self)
        return code

    def kill(self) -> None:
        """SIGKILL to the whole group; nothing happens if it has ended."""
        self.signal(signal.SIGKILL, group=True)
        self._process.wait()
        with _live_lock:
            _live.discard(self)

    def output(self) -> str:
        """All it has printed so far."""
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 15) -> str:
        """The end of what it printed."""
        return "\n".join(self.output().splitlines()[-lines:])


def kill_all() -> None:
    """Ends whatever is left of this script's processes."""
    with _live_lock:
        left = list(_live)
    for process in left:
        process.kill()


def arguments(context: Context, workdir: pathlib.Path, *changes: str) -> list[str]:
    """The arguments of `vit-jax` that train the chaos config."""
    flags = [f"--config.{change}" for change in (*context.data, *changes)]
    return ["train", f"--config={CONFIG}", f"--workdir={workdir}", *flags]


def start(
    context: Context,
    workdir: pathlib.Path,
    *changes: str,
    options: Sequence[str] = (),
    driver: Sequence[str] | None = None,
    log: str = "log.txt",
    devices: int = 1,
    cache: bool = True,
    prefix: Sequence[str] = (),
    rank: int = 0,
) -> Process:
    """Starts a training run; its output goes to a file beside the work directory.

    Args:
      changes: such as ``train.ema=0.9``.
      options: further flags of `vit-jax train`.
      driver: arguments of `driver.py`, which then runs the command in its process;
        ``{rank}`` in them stands for the number of the process.
      prefix: words before the command, such as those of `unshare`.
    """
    module = ["vit_jax.cli"] if driver is None else ["chaos_scenarios.driver"]
    command = [sys.executable, "-m", *module]
    if driver is not None:
        command += [*(word.format(rank=rank) for word in driver), "--"]
    command += [*arguments(context, workdir, *changes), *options]
    return Process(
        [*prefix, *command],
        environment(context, devices=devices, cache=cache),
        workdir.parent / f"{workdir.name}.{log}",
    )


def free_port() -> int:
    """A port of the loopback interface that nobody uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_two(
    context: Context, workdir: pathlib.Path, *changes: str, **how: Any
) -> list[Process]:
    """A run of two processes on this machine."""
    address = f"127.0.0.1:{free_port()}"
    return [
        start(
            context,
            workdir,
            *changes,
            options=[
                f"--coordinator={address}",
                "--num_processes=2",
                f"--process_id={rank}",
            ],
            log=f"log{rank}.txt",
            rank=rank,
            **how,
        )
        for rank in range(2)
    ]


def finish(process: Process, *, code: int = 0, limit: float = PATIENCE) -> None:
    """Waits for the end and checks the exit code."""
    got = process.wait(limit)
    if got != code:
        raise AssertionError(
            f"exit code {got}, not {code}; last lines:\n{process.tail()}"
        )


def wait_until(
    condition: Callable[[], bool],
    processes: Sequence[Process],
    *,
    limit: float = PATIENCE,
    pause: float = 0.002,
) -> bool:
    """Whether the condition came true before a process ended.

    Raises:
      HangError: neither happened in time.
    """
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if condition():
            return True
        if not all(process.running() for process in processes):
            return condition()
        time.sleep(pause)
    for process in processes:
        process.kill()
    raise HangError(f"waited {limit:.0f} s; last lines:\n{processes[0].tail()}")


def steps_shown(text: str) -> int:
    """The newest step in a run's output, 0 without any."""
    found = [
        int(word.split("/")[0].replace(",", ""))
        for line in text.splitlines()
        if line.startswith("step ") and "/" in (word := line.split()[1])
    ]
    return max(found, default=0)


def write_arrays(path: pathlib.Path, *, train: int = 256, test: int = 64) -> None:
    """Images of 10 classes, each a pattern with noise, as arrays in one file."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (10, 8, 8, 1))

    def split(number: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(0, 10, number)
        noise = rng.integers(0, 56, (number, 8, 8, 1))
        return (patterns[labels] + noise).astype(np.uint8), labels.astype(np.int32)

    (images, labels), (test_images, test_labels) = split(train), split(test)
    np.savez(
        path,
        train_image=images,
        train_label=labels,
        test_image=test_images,
        test_label=test_labels,
    )
