"""Rows of a batch by processes of their own, into memory that they share with this one.

A worker is a new interpreter, not a fork: forking a process that runs JAX's threads may
deadlock. It gets the source and the transform pickled, imports no JAX, and ends when
this process does.
"""

import collections
import contextlib
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing import connection
from typing import Any

import numpy as np

from vit_jax.data.errors import DataError
from vit_jax.data.memory import Reusable
from vit_jax.data.prefetch import Stopped
from vit_jax.data.rows import BadExample, Chunk, Label, Row, RowLoader, split
from vit_jax.data.threads import gather, join

_CODE = "from vit_jax.data import workers; workers.main()"


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, number: int, memory: int):
        self.number = number
        self.waiting: collections.deque[int] = collections.deque()  # batches, by serial
        self.pipe, theirs = connection.Pipe()
        environment = dict(
            os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CODE]
            + [str(value) for value in (theirs.fileno(), memory, os.getpid())],
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), memory),
        )
        theirs.close()

    def send(self, message: Any) -> None:
        try:
            self.pipe.send(message)
        except OSError as error:
            raise self.died() from error

    def receive(self) -> Any:
        try:
            return self.pipe.recv()
        except (EOFError, OSError) as error:
            raise self.died() from error

    def died(self) -> DataError:
        """What the end of the process says."""
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        how = f"exited with code {code}"
        if code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                how += " (out of memory, perhaps)"
        return DataError(
            f"data worker {self.number} (process {self.process.pid}) {how}; resume the "
            "run, with fewer data.workers if it happens again (0: threads alone)"
        )


class Workers:
    """Loads rows in processes.

    Args:
      rows: what loads a row; pickled.
      workers: how many processes.
    """

    def __init__(self, rows: RowLoader, *, workers: int):
        self._file = _shared_file()
        self._offsets: dict[int, int] = {}  # in the file, by address
        self._end = 0
        # A block for each batch that is alive; given back by whoever holds it.
        self._memory = Reusable(self._map, most=1 << 30)
        self._shape: tuple[int, ...] | None = None
        self._serial = 0
        self._busy: dict[int, np.ndarray | None] = {}  # batches that are being written
        setting = pickle.dumps(rows)
        # All start before one is sent anything: a pipe holds little, so that sending
        # waits until the other side has started and reads.
        self._workers = [_Worker(number, self._file) for number in range(workers)]
        for worker in self._workers:
            worker.send(setting)

    def _map(self, size: int) -> np.ndarray:
        offset = self._end
        self._end += -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        os.ftruncate(self._file, self._end)
        block = _block(self._file, offset, size)
        self._offsets[block.ctypes.data] = offset
        return block

    def load(
        self, rows: Sequence[Row], stopped: threading.Event
    ) -> tuple[np.ndarray | None, list[Label], list[BadExample | None]]:
        """As `threads.Threads.load`."""
        out = place = None
        if self._shape is not None:
            shape = (len(rows), *self._shape)
            out = self._memory.take(shape)
            place = (self._offsets[out.ctypes.data], shape)
        self._serial += 1
        # Held until no worker writes to it any more, even if this batch is given up.
        self._busy[self._serial] = out
        parts = list(enumerate(split(len(rows), len(self._workers))))
        chunks: dict[int, Chunk] = {}
        todo = collections.deque(parts)
        # Two ahead, where answers are short: neither side may wait for the other.
        ahead = 1 if out is None else 2
        while len(chunks) < len(parts):
            for worker in self._workers:
                while todo and len(worker.waiting) < ahead:
                    number, part = todo.popleft()
                    worker.waiting.append(self._serial)
                    worker.send((number, rows[part], place, part))
            self._receive(chunks)
            if stopped.is_set():
                raise Stopped
        chunk = join([chunks[number] for number, _ in parts])
        if out is None:
            out, self._shape = gather(
                chunk.pixels, lambda shape: np.empty(shape, np.uint8)
            )
        return out, chunk.labels, chunk.bad

    def _receive(self, chunks: dict[int, Chunk]) -> None:
        """Takes answers for up to a moment; keeps those to this batch."""
        by_pipe: dict[Any, _Worker] = {worker.pipe: worker for worker in self._workers}
        for pipe in connection.wait(list(by_pipe), timeout=0.1):
            worker = by_pipe[pipe]
            number, answer = worker.receive()
            serial = worker.waiting.popleft()
            if serial == self._serial:
                if isinstance(answer, BaseException):
                    raise answer
                chunks[number] = answer
        alive = {serial for worker in self._workers for serial in worker.waiting}
        for serial in set(self._busy) - alive - {self._serial}:
            del self._busy[serial]

    def close(self) -> None:
        """Ends the processes; one that does not end by itself is killed."""
        for worker in self._workers:
            worker.pipe.close()
        limit = time.monotonic() + 1
        for worker in self._workers:
            try:
                worker.process.wait(timeout=max(0.0, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        if self._workers:
            os.close(self._file)  # what is mapped stays
        self._workers = []


def _shared_file() -> int:
    """A file in memory without a name: nothing of it stays, however a process ends."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vit_jax-batches")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _block(file: int, offset: int, size: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(file, size, offset=offset), np.uint8)


def main() -> None:
    """A worker: answers tasks until the pipe is closed."""
    pipe_number, memory, parent = map(int, sys.argv[1:])
    # Meant for the trainer, which closes the pipe when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    pipe = connection.Connection(pipe_number)
    with contextlib.suppress(EOFError, OSError):  # the trainer closed it, or is gone
        _serve(pipe, memory)
    os._exit(0)


def _serve(pipe: Any, memory: int) -> None:
    setting = pipe.recv()
    try:
        rows: RowLoader = pickle.loads(setting)
        failure = None
    except Exception as error:
        rows, failure = None, error  # type: ignore
    blocks: dict[tuple, np.ndarray] = {}
    while True:
        number, chunk, place, part = pipe.recv()
        try:
            if failure is not None:
                raise failure
            out = None
            if place is not None:
                if place not in blocks:
                    offset, shape = place
                    size = int(np.prod(shape))
                    blocks[place] = _block(memory, offset, size).reshape(shape)
                out = blocks[place][part]
            answer = rows.chunk(chunk, out)
        except Exception as error:
            answer = _portable(error)
        pipe.send((number, answer))


def _portable(error: Exception) -> Exception:
    """The error, or one that says the same if it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        text = "\n".join([str(error), *getattr(error, "__notes__", ())])
        return RuntimeError(f"{type(error).__name__}: {text}")
    return error


def _end_with(parent: int) -> None:
    """Ends this process when its parent has ended, even in the middle of a read."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
