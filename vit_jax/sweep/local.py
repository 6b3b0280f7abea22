"""Trials on this machine, some at a time, each a process that dies with this one."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from vit_jax import storage
from vit_jax.sweep import tether, trials
from vit_jax.sweep.places import Place
from vit_jax.sweep.signals import Signals
from vit_jax.sweep.trials import Trial

_POLL_SECONDS = 0.05
_LOOK_SECONDS = 1.0  # between two looks at what running trials have reported
_LOCKED_SECONDS = 90.0  # the lease of an owner on another host that died, and more
_LOCKED_PAUSE = 5.0


@runtime_checkable
class Source(Protocol):
    """Where the trials come from."""

    def take(self) -> Trial | None:
        """The next one to run, None if there is none now."""
        ...

    def ended(self, trial: Trial, result: dict[str, Any]) -> None:
        """Learns how a trial ended."""
        ...

    def hopeless(self, trial: Trial, rows: Callable[[], list[dict[str, Any]]]) -> bool:
        """Whether to stop a trial, by what it has reported."""
        ...


class Listed:
    """Trials that are all known beforehand."""

    def __init__(self, unfinished: Iterable[Trial]):
        self._waiting = deque(unfinished)

    def take(self) -> Trial | None:
        return self._waiting.popleft() if self._waiting else None

    def ended(self, trial: Trial, result: dict[str, Any]) -> None:
        """Nothing depends on it."""

    def hopeless(self, trial: Trial, rows: Callable[[], list[dict[str, Any]]]) -> bool:
        return False


@dataclasses.dataclass
class _Running:
    trial: Trial
    folder: Any
    place: Place
    process: subprocess.Popen
    log: pathlib.Path
    began: float
    looked: float
    pruned: bool = False


@dataclasses.dataclass
class Runner:
    """Runs trials until there are none left, or a signal comes.

    Args:
      workdir: of the sweep.
      source: of the trials.
      places: where they run, one at a time in each.
      retries: attempts after a first one that failed, anew whenever a trial has saved a
        later step than the attempt before.
      command: of a trial.
      told: learns of every trial that ended.
    """

    workdir: Any
    source: Source
    places: Sequence[Place]
    retries: int
    command: Callable[[Trial, Any], list[str]]
    told: Callable[[Trial, dict[str, Any]], object]

    def __post_init__(self) -> None:
        self._free = list(self.places)
        self._running: list[_Running] = []
        self._again: list[tuple[float, Trial]] = []  # when, at the earliest
        self._locked: dict[str, float] = {}  # since when another host may have it
        self.elsewhere: list[Trial] = []  # some other process is at them

    def run(self) -> int:
        """Returns the signal that ended it, 0 when all trials are over."""
        with Signals(self._stop, self._kill) as signals:
            while True:
                for running in list(self._running):
                    self._look(running, stopping=bool(signals.first))
                if not signals.first:
                    self._start_some()
                if not self._running and (signals.first or not self._again):
                    return signals.first
                time.sleep(_POLL_SECONDS)

    def _start_some(self) -> None:
        while self._free:
            due = [item for item in self._again if item[0] <= time.monotonic()]
            if due:
                self._again.remove(due[0])
                trial = due[0][1]
            elif (trial := self.source.take()) is None:
                return
            self._start(trial)

    def _start(self, trial: Trial) -> None:
        folder = trials.folder(self.workdir, trial.id)
        place = self._free.pop(0)
        local = not storage.is_bucket(folder)
        log = pathlib.Path(folder / trials.LOG) if local else _temporary_log(trial)
        cores = ",".join(map(str, place.cores))
        claim = os.fspath(folder / trials.CLAIM) if local else ""
        tied = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid())]
        with open(log, "ab") as file:
            process = subprocess.Popen(
                [*tied, cores, claim, *self.command(trial, folder)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | place.environment(),
                start_new_session=True,  # Ctrl-C reaches this process alone
            )
        now = time.monotonic()
        self._running.append(
            _Running(trial, folder, place, process, log, began=now, looked=now)
        )

    def _look(self, running: _Running, *, stopping: bool) -> None:
        """Whether a trial has ended, or should."""
        code = running.process.poll()
        if code is None:
            now = time.monotonic()
            if running.pruned or now < running.looked + _LOOK_SECONDS:
                return
            running.looked = now
            rows = lambda: trials.rows_of(running.folder)  # noqa: E731
            if self.source.hopeless(running.trial, rows):
                running.pruned = True
                running.process.send_signal(signal.SIGTERM)
            return
        self._running.remove(running)
        self._free.insert(0, running.place)
        words = _last_words(running.log)
        if storage.is_bucket(running.folder):
            _keep_log(running.log, running.folder / trials.LOG)
        if code == 0:
            self._end(running, trials.DONE, code, "")
        elif running.pruned:
            self._end(running, trials.PRUNED, code, "")
        elif code == tether.BUSY:
            self.elsewhere.append(running.trial)
        elif not stopping:
            self._failed(running, code, words)

    def _failed(self, running: _Running, code: int, words: str) -> None:
        """Another attempt, or the end of the trial."""
        trial, folder = running.trial, running.folder
        if code == 2 and (folder / "lock").exists():  # its last host may have died
            since = self._locked.setdefault(trial.id, time.monotonic())
            if time.monotonic() < since + _LOCKED_SECONDS:
                self._again.append((time.monotonic() + _LOCKED_PAUSE, trial))
                return
        step = trials.saved_step(folder)
        seconds = round(time.monotonic() - running.began, 3)
        attempt = {"exit_code": code, "step": step, "seconds": seconds, "said": words}
        attempts = [*trials.read_attempts(folder), attempt]
        trials.write_attempts(folder, attempts)
        if code != 2 and in_vain(attempts) <= self.retries:
            self._again.append((time.monotonic(), trial))
        else:
            self._end(running, trials.FAILED, code, words)

    def _end(self, running: _Running, status: str, code: int, said: str) -> None:
        attempts = trials.read_attempts(running.folder)
        over = attempts if status == trials.FAILED else [*attempts, {}]
        seconds = sum(attempt["seconds"] for attempt in attempts)
        if status != trials.FAILED:
            seconds += time.monotonic() - running.began
        result = trials.write_result(
            running.folder,
            status=status,
            exit_code=code,
            attempts=len(over),
            seconds=round(seconds, 3),
            said=said,
        )
        self.source.ended(running.trial, result)
        self.told(running.trial, result)

    def _stop(self) -> None:
        """The first signal: the trials save and end."""
        for running in self._running:
            running.process.send_signal(signal.SIGTERM)

    def _kill(self) -> None:
        """The second one."""
        for running in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.process.pid, signal.SIGKILL)


def in_vain(attempts: Sequence[dict[str, Any]]) -> int:
    """How many attempts, up to the last one, have brought the trial no further."""
    last = attempts[-1]["step"]
    count = 0
    for attempt in reversed(attempts):
        if attempt["step"] != last:
            break
        count += 1
    return count


def _last_words(log: pathlib.Path) -> str:
    """The last line that a trial said."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    ours = [line for line in said if line.startswith("vit-jax: ")]
    return (ours or said or [""])[-1].removeprefix("vit-jax: ")[:500]


def _temporary_log(trial: Trial) -> pathlib.Path:
    handle, name = tempfile.mkstemp(prefix=f"{trial.id}-", suffix=".log")
    os.close(handle)
    return pathlib.Path(name)


def _keep_log(log: pathlib.Path, kept: Any) -> None:
    """Adds a log to the one in a bucket, where nothing can be appended to."""
    before = kept.read_text() if kept.exists() else ""
    kept.write_text(before + log.read_text(errors="replace"))
    log.unlink()
