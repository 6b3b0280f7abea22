"""Several processes as one run: their start, and noticing those that are gone.

JAX's own health check ends the others after 100 s without saying which process it was
(and at once, by SIGABRT, when the coordinator goes). Here each process says that it is
alive through the coordinator's key-value store; the first to be missed is named, and
all leave with `EXIT_CODE`.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from vit_jax import aborts, cluster
from vit_jax.cluster import Cluster, StartError

EXIT_CODE = 4

_MISSED_SECONDS = 10.0  # without a sign of life
_LEAVING_SECONDS = 10.0
_NAME_SECONDS = 60.0  # in which the coordinator's name gets an address
_DONE = "done"
_PREFIX = "vit_jax"


class PeerError(RuntimeError):
    """Another process of the run is gone; the message names it."""


class PeersRefused(RuntimeError):
    """The first process cannot start; it says why itself."""


def initialize(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    say: Callable[[str], object] = lambda line: None,
    environ: Mapping[str, str] = os.environ,
    seconds: int = 300,
) -> "Peers | None":
    """Joins the processes of a run; returns None where there is only one.

    What the arguments do not say, the variables of a scheduler do (`cluster`); the
    first process says where it is from. They wait ``seconds`` for each other.

    Raises:
      StartError: what is known does not fit together, or nobody came.
    """
    if None in (coordinator, num_processes, process_id):
        environ = {**cluster.variables(environ), **environ}
    place = cluster.resolve(coordinator, num_processes, process_id, environ)
    if place is None:
        return None
    if place.process_id == 0:
        say(str(place))
    if place.num_processes == 1:
        return None
    _own_signals()
    _find_host(place)
    if place.process_id == 0:
        _find_port(place)
    chosen = place.local_device_ids
    try:
        with aborts.explained(f"{place}: not all came within {seconds} s"):
            jax.distributed.initialize(
                place.coordinator,
                place.num_processes,
                place.process_id,
                local_device_ids=None if "JAX_LOCAL_DEVICE_IDS" in environ else chosen,
                cluster_detection_method="deactivate",  # it would fill in other devices
                initialization_timeout=seconds,
            )
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise StartError(f"{place}, could not join: {reason}") from error
    return Peers(_client(), place.process_id, place.num_processes)


def _find_host(place: Cluster) -> None:
    """Waits until the coordinator's name has an address: JAX would abort.

    The names of pods appear when these start.
    """
    host = place.coordinator.rpartition(":")[0].strip("[]")
    deadline = time.monotonic() + _NAME_SECONDS
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except socket.gaierror as error:
            if time.monotonic() > deadline:
                raise StartError(
                    f"{place}: its host {host!r} has no address here "
                    f"({error.strerror}); give one that every host knows with "
                    "--coordinator=HOST:PORT"
                ) from error
        time.sleep(1.0)


def _find_port(place: Cluster) -> None:
    """Looks whether the coordinator's port is free here: JAX would crash."""
    port = int(place.coordinator.rpartition(":")[2])
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind(("", port))
    except OSError as error:
        raise StartError(
            f"{place}: port {port} of this host cannot be used ({error.strerror}); "
            "give all processes another with JAX_COORDINATOR_PORT or --coordinator"
        ) from error


def _own_signals() -> None:
    """SIGTERM is ours (stopping.py), not that of JAX's preemption service."""
    with contextlib.suppress(AttributeError):
        jax.config.update("jax_enable_preemption_service", False)


def _client() -> Any:
    from jax._src import distributed  # no public name for the key-value store

    return distributed.global_state.client


class Peers:
    """The other processes: signs of life, stops and messages between them.

    Used as a context manager around the run.

    Args:
      client: JAX's key-value store.
      process_id: of this process.
      num_processes: of the run.
      leave: ends this process.
    """

    def __init__(
        self,
        client: Any,
        process_id: int,
        num_processes: int,
        *,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._client, self._leave = client, leave
        self.process_id, self.num_processes = process_id, num_processes
        self._release: Callable[[], object] = lambda: None
        self._refused = False  # to start: all know, and leave by themselves
        self._failed = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)
        self._seen: dict[int, tuple[str, float]] = {}

    def __enter__(self) -> "Peers":
        self._set(f"host/{self.process_id}", socket.gethostname())
        now = time.monotonic()  # all have joined: one never heard of is gone, too
        self._seen = {rank: ("", now) for rank in range(self.num_processes)}
        self._thread.start()
        self._explain_abort()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()
        self._thread.join(5)
        with contextlib.suppress(Exception):
            self._set(f"alive/{self.process_id}", _DONE)
            if not self._failed:
                self._wait_for_the_others()
        signal.signal(signal.SIGABRT, signal.SIG_DFL)

    def _wait_for_the_others(self) -> None:
        """The store goes with the first process, and the last save is its work.

        So it leaves last, though not for ever later; the others wait for its end.
        """
        ranks = range(1, self.num_processes) if self.process_id == 0 else [0]
        deadline = time.monotonic() + _LEAVING_SECONDS
        while not all(self._get(f"alive/{rank}") == _DONE for rank in ranks):
            if self._get("gone"):
                return
            if self.process_id == 0 and time.monotonic() > deadline:
                return
            time.sleep(0.2)
        if self.process_id == 0:
            time.sleep(1.0)  # in which they read that it is done, and leave

    def releases(self, release: Callable[[], object]) -> None:
        """What to call before leaving: frees the work directory."""
        self._release = release

    # What `stopping.Stop` asks for.

    def announce_stop(self, number: int) -> None:
        """Tells all other processes of a signal."""
        self._set("stop", str(number))

    def announced_stop(self) -> int:
        """The signal that some process was sent, or 0."""
        return int(self._get("stop") or 0)

    def post_count(self, count: int) -> None:
        """Says how far this process came; -1: it has nothing to save."""
        self._set(f"count/{self.process_id}", str(count))

    def counts(self) -> list[int]:
        """How far each process came; waits for all, or is ended by `_watch`."""
        wait = int(1e3 * 60)
        return [
            int(self._client.blocking_key_value_get(f"{_PREFIX}/count/{rank}", wait))
            for rank in range(self.num_processes)
        ]

    def tell(self, message: str) -> None:
        """The first process tells the others whether it starts: why not, or nothing."""
        self._refused = bool(message)
        self._set("word", f"{message} ")

    def told(self, seconds: float = 300.0) -> str:
        """Waits for what the first process tells."""
        key = f"{_PREFIX}/word"
        word = self._client.blocking_key_value_get(key, int(1e3 * seconds))[:-1]
        self._refused = bool(word)
        return word

    # Who is gone.

    def fail(self, reason: str) -> None:
        """Tells the others why this process is about to leave, if they do not know."""
        self._closed.set()  # what it tells is no news to itself
        if self._refused:
            return
        self._failed = True
        with contextlib.suppress(Exception):
            self._set("gone", f"process {self.process_id}: {reason}")
            time.sleep(2.0)  # they read it before the coordinator may go

    def verdict(self, seconds: float = 2.5 * _MISSED_SECONDS) -> str | None:
        """Waits for a process to be found gone, after a collective failed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(Exception):
                if gone := self._get("gone"):
                    return gone
            time.sleep(0.2)
        return None

    def _watch(self) -> None:
        number, failing_since = 0, 0.0
        while not self._closed.wait(1.0):
            number += 1
            try:
                self._set(f"alive/{self.process_id}", str(number))
                gone = self._get("gone") or self._missed()
                failing_since = 0.0
            except Exception:
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since < _MISSED_SECONDS:
                    continue
                gone = "process 0 (the coordinator) does not answer"
            if gone and not self._closed.is_set():
                self._end(gone)
                return

    def _missed(self) -> str:
        """On the first process: who has not said for too long that it is alive."""
        if self.process_id:
            return ""
        now = time.monotonic()
        for key, value in self._client.key_value_dir_get(f"{_PREFIX}/alive/"):
            rank = int(key.rpartition("/")[2])
            if self._seen.get(rank, ("", 0.0))[0] != value:
                self._seen[rank] = (value, now)
        for rank, (value, since) in self._seen.items():
            if value != _DONE and now - since > _MISSED_SECONDS:
                host = self._get(f"host/{rank}") or "an unknown host"
                gone = (
                    f"process {rank} on {host} is gone: no sign of life for "
                    f"{now - since:.0f} s"
                )
                self._set("gone", gone)
                return gone
        return ""

    def _end(self, gone: str) -> None:
        print(
            f"vit-jax: {gone}; process {self.process_id} leaves; the same command "
            "resumes from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        with contextlib.suppress(Exception):
            self._release()
        if self.process_id == 0:
            time.sleep(3.0)  # the store goes with this process: the others read first
        self._leave(EXIT_CODE)

    def _explain_abort(self) -> None:
        """JAX aborts this process when the coordinator goes: says so, and leaves."""
        if self.process_id:
            aborts.on_abort(lambda: self._end("process 0 (the coordinator) is gone"))

    def _set(self, name: str, value: str) -> None:
        self._client.key_value_set(f"{_PREFIX}/{name}", value, allow_overwrite=True)

    def _get(self, name: str) -> str:
        with contextlib.suppress(Exception):
            return self._client.key_value_try_get(f"{_PREFIX}/{name}")
        return ""
