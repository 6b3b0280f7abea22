"""Processes that do one trial after another, so that a crash or a hang is counted."""

import json
import queue
import select
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from . import runs
from .core import Context


def command(module: str, *arguments: str) -> list[str]:
    """The command of a module of this package."""
    return [sys.executable, "-m", f"chaos_scenarios.{module}", *arguments]


def answer_of(process: subprocess.Popen, limit: float) -> dict | None:
    """The next line of a worker, None if it dies or says nothing in time."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], limit)
    line = process.stdout.readline() if ready else b""
    return json.loads(line) if line.strip() else None


class Worker:
    """A process that answers a JSON line with a JSON line; replaced if it dies."""

    def __init__(self, context: Context, words: Sequence[str], limit: float):
        self._context, self._words, self._limit = context, words, limit
        self._process: subprocess.Popen | None = None

    def _start(self) -> subprocess.Popen:
        process = subprocess.Popen(
            self._words,
            env=runs.environment(self._context),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        self._process = process
        if answer_of(process, runs.PATIENCE) is None:
            self.close()
            raise AssertionError(f"did not start: {' '.join(self._words)}")
        return process

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer; a crash or a hang is an answer too."""
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        answer = answer_of(process, self._limit)
        if answer is not None:
            return answer
        code = process.poll()
        self.close()
        if code is None:
            return {"kind": "hang", "detail": f"no answer in {self._limit:.0f} s"}
        return {"kind": "crash", "detail": f"the process died with {code}"}

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Workers:
    """Several of them; whoever asks gets a free one."""

    def __init__(
        self, context: Context, words: Sequence[str], *, number: int, limit: float
    ):
        self._all = [Worker(context, words, limit) for _ in range(number)]
        self._free: queue.Queue[Worker] = queue.Queue()
        for worker in self._all:
            self._free.put(worker)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Asks a free worker."""
        worker = self._free.get()
        try:
            return worker.ask(request)
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """Ends all processes."""
        for worker in self._all:
            worker.close()
