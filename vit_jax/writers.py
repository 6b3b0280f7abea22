"""Writers of metrics: their interface, the terminal, TensorBoard behind the run.

They follow the interface of clu's `MetricWriter`. clu's writers import TensorFlow,
which takes seconds, so only the TensorBoard one is clu's, made on another thread. What
goes wrong in one ends that writer with a warning, and never the run.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vit_jax.progress import Progress


def _forwarding(method: str) -> Callable[..., None]:
    def write(self: "Writer", *args: Any, **kwargs: Any) -> None:
        self._forward(method, *args, **kwargs)

    write.__name__ = method
    return write


class Writer:
    """clu's `MetricWriter` without clu; what a subclass does not handle is dropped."""

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes flat names and their numbers at a step."""
        self._forward("write_scalars", step, scalars)

    # The arguments are those of clu's methods of the same names.
    write_summaries = _forwarding("write_summaries")
    write_images = _forwarding("write_images")
    write_videos = _forwarding("write_videos")
    write_audios = _forwarding("write_audios")
    write_texts = _forwarding("write_texts")
    write_histograms = _forwarding("write_histograms")
    write_hparams = _forwarding("write_hparams")

    def rewind(self, step: int) -> None:
        """Drops what is later than a step, which the run is about to write again."""

    def flush(self) -> None:
        """Writes out what is still held back."""

    def close(self) -> None:
        """Flushes and releases; nothing may be written afterwards."""

    def _forward(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Receives every write that a subclass does not override."""


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class MultiWriter(Writer):
    """Passes every call to each of the writers; with none of them, drops it.

    Args:
      writers: by what a warning calls them. One that raises is left out from then on.
      warn: receives one line for each that is.
    """

    def __init__(
        self,
        writers: Mapping[str, Writer] | None = None,
        warn: Callable[[str], Any] = print,
    ) -> None:
        self._writers, self._warn = dict(writers or {}), warn

    def _forward(self, method: str, *args: Any, **kwargs: Any) -> None:
        for name, writer in list(self._writers.items()):
            try:
                getattr(writer, method)(*args, **kwargs)
            except Exception as error:
                del self._writers[name]
                with contextlib.suppress(Exception):  # closed and warned of at best
                    self._warn(f"warning: {name} is off: {first_line(error)}")
                with contextlib.suppress(Exception):
                    writer.close()

    def rewind(self, step: int) -> None:
        self._forward("rewind", step)

    def flush(self) -> None:
        self._forward("flush")

    def close(self) -> None:
        self._forward("close")


class TerminalWriter(Writer):
    """Shows scalars through a `Progress`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        self._progress.show(step, scalars)


class LazyWriter(Writer):
    """A writer that is slow: made and used on a thread of its own.

    An error, in making or in writing, ends this writer with one warning and never the
    run; so does a writer that hangs.

    Args:
      make: makes the writer.
      warn: receives the warning.
      name: what it calls the writer.
      patience: seconds that `close` waits for what is still to be written.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        warn: Callable[[str], Any],
        *,
        name: str = "TensorBoard",
        patience: float = 60.0,
    ) -> None:
        self._make, self._warn = make, warn
        self._name, self._patience = name, patience
        self._queue: queue.Queue[tuple[str, Sequence[Any], Mapping[str, Any]]] = (
            queue.Queue(100_000)
        )
        self._off = False
        self._thread = threading.Thread(
            target=self._run, name="LazyWriter", daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        writer = None
        try:
            writer = self._make()
            method = ""
            while method != "close":
                method, args, kwargs = self._queue.get()
                getattr(writer, method)(*args, **kwargs)
        except Exception as error:
            self._turn_off(first_line(error))

    def _turn_off(self, reason: str) -> None:
        if not self._off:
            self._off = True
            with contextlib.suppress(Exception):
                self._warn(f"warning: {self._name} is off: {reason}")

    def _forward(self, method: str, *args: Any, **kwargs: Any) -> None:
        if not self._off:
            try:
                self._queue.put_nowait((method, args, kwargs))
            except queue.Full:
                self._turn_off("it is too slow")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        # Numbers now: an array may be donated to the next step.
        numbers = {name: float(value) for name, value in scalars.items()}
        self._forward("write_scalars", int(step), numbers)

    def flush(self) -> None:
        self._forward("flush")

    def close(self) -> None:
        self._forward("close")
        if not self._off:
            self._thread.join(self._patience)
            if self._thread.is_alive():
                self._turn_off(f"not all was written within {self._patience:.0f} s")


def tensorboard_writer(folder: str) -> Any:
    """Makes clu's TensorBoard writer; TensorFlow sees no chip."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its notice heeds no log level
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        with contextlib.suppress(RuntimeError, ValueError):  # already in use: too late
            tf.config.set_visible_devices([], kind)
    from clu import metric_writers

    return metric_writers.SummaryWriter(folder)
