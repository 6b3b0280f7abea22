"""Where numbers go while training runs: JSONL, terminal, TensorBoard; and rates.

Writers follow the interface of clu's `MetricWriter`. clu's writers import TensorFlow,
which takes seconds, so only the TensorBoard one is clu's, made on another thread.
"""

import contextlib
import importlib.util
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_jax.progress import Progress

PathLike = str | os.PathLike[str]


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

    def flush(self) -> None:
        """Writes out what is still held back."""

    def close(self) -> None:
        """Flushes and releases; nothing may be written afterwards."""

    def _forward(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Receives every write that a subclass does not override."""


class MultiWriter(Writer):
    """Passes every call to each of the writers; with none of them, drops it."""

    def __init__(self, writers: Sequence[Writer] = ()) -> None:
        self._writers = tuple(writers)

    def _forward(self, method: str, *args: Any, **kwargs: Any) -> None:
        for writer in self._writers:
            getattr(writer, method)(*args, **kwargs)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # one that fails must not stop the rest
            for writer in reversed(self._writers):
                stack.callback(writer.close)


class JsonlWriter(Writer):
    """Appends one JSON object a line for each `write_scalars`; non-finite is null."""

    def __init__(self, path: PathLike) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        content = path.read_bytes()
        self._file.truncate(content.rfind(b"\n") + 1)  # a line cut short by a crash

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        row: dict[str, float | None] = {"step": int(step)}
        for name, value in scalars.items():
            number = float(value)
            row[name] = number if math.isfinite(number) else None
        self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if not self._file.closed:
            self.flush()
            self._file.close()


def read_rows(path: PathLike) -> list[dict[str, Any]]:
    """The rows of a metrics file, without lines that are cut short or no object."""
    rows = []
    for line in Path(path).read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and "step" in row:
                rows.append(row)
    return rows


def truncate_after(path: PathLike, step: int) -> None:
    """Drops the rows later than `step`, which a resumed run is about to write again.

    The file is replaced in one move: it is the old or the new one at any moment.
    """
    path = Path(path)
    if not path.exists():
        return
    rows = [row for row in read_rows(path) if row["step"] <= step]
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.writelines(json.dumps(row).encode() + b"\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class TerminalWriter(Writer):
    """Shows scalars through a `Progress`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        self._progress.show(step, scalars)


class LazyWriter(Writer):
    """A writer slow to make: made on a thread, while the calls to it queue up.

    An error, in making or in writing, ends this writer with one warning and never the
    run. `close` waits until everything is written.
    """

    def __init__(self, make: Callable[[], Any], warn: Callable[[str], None]) -> None:
        self._make, self._warn = make, warn
        self._lock = threading.Lock()
        self._queue: list[tuple[str, tuple[Any, ...], dict[str, Any]]] | None = []
        self._writer: Any = None
        self._thread = threading.Thread(target=self._start, name="LazyWriter")
        self._thread.start()

    def _start(self) -> None:
        with self._guarded():
            writer = self._make()
            with self._lock:
                self._writer, queue = writer, self._queue or []
                self._queue = None
                for method, args, kwargs in queue:
                    getattr(writer, method)(*args, **kwargs)

    def _forward(self, method: str, *args: Any, **kwargs: Any) -> None:
        with self._guarded(), self._lock:
            if self._queue is not None:
                self._queue.append((method, args, kwargs))
            elif self._writer is not None:
                getattr(self._writer, method)(*args, **kwargs)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        numbers = {name: float(value) for name, value in scalars.items()}
        self._forward("write_scalars", int(step), numbers)

    def flush(self) -> None:
        with self._guarded(), self._lock:
            if self._writer is not None:
                self._writer.flush()

    def close(self) -> None:
        self._thread.join()
        with self._guarded(), self._lock:
            if self._writer is not None:
                self._writer.close()
            self._writer = self._queue = None

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._writer = self._queue = None
            reason = (str(error).splitlines() or [""])[0]
            self._warn(f"warning: TensorBoard is off: {type(error).__name__}: {reason}")


def _tensorboard_writer(folder: str) -> Any:
    """Makes clu's TensorBoard writer, asynchronous; TensorFlow sees no chip."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its notice heeds no log level
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        with contextlib.suppress(RuntimeError, ValueError):  # already in use: too late
            tf.config.set_visible_devices([], kind)
    from clu import metric_writers

    return metric_writers.AsyncMultiWriter([metric_writers.SummaryWriter(folder)])


def _missing(names: Sequence[str]) -> list[str]:
    def is_missing(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is None
        except (ImportError, ValueError):
            return True

    return [name for name in names if is_missing(name)]


def create_writer(
    workdir: PathLike, *, tensorboard: bool, progress: Progress
) -> Writer:
    """The writer of a run: `metrics.jsonl`, the terminal and `tensorboard/`.

    Without clu or TensorFlow the third is left out, which one line says.
    """
    workdir = Path(workdir)
    writers = [JsonlWriter(workdir / "metrics.jsonl"), TerminalWriter(progress)]
    missing = _missing(("clu", "tensorflow", "tensorboard")) if tensorboard else []
    if missing:
        progress.say(
            f"TensorBoard is off: {', '.join(missing)} not installed; metrics go to "
            f"the terminal and {workdir / 'metrics.jsonl'}"
        )
    elif tensorboard:
        folder = str(workdir / "tensorboard")
        writers.append(LazyWriter(lambda: _tensorboard_writer(folder), progress.say))
    return MultiWriter(writers)


class Rates:
    """Throughput between two logs, without the time spent in `pause()`.

    Args:
      batch_size: images per step, over all devices.
      flops_per_image: model FLOPs of a training step per image, if known.
      peak_flops: FLOP/s of all devices together, if known.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        batch_size: int,
        flops_per_image: float | int | None = None,
        peak_flops: float | int | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._batch_size, self._clock = batch_size, clock
        self._mfu_per_rate: float | None = None
        if flops_per_image is not None and peak_flops is not None:
            self._mfu_per_rate = flops_per_image / peak_flops
        self._all_images, self._all_seconds = 0, 0.0
        self.reset()

    def reset(self) -> None:
        """Starts a new window, such as after the step that compiled."""
        self._start, self._steps = self._clock(), 0
        self._waited = self._paused = 0.0

    def step(self, data_wait_seconds: float) -> None:
        """Counts a step, which waited this long for its batch."""
        self._steps += 1
        self._waited += data_wait_seconds

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves its block (an evaluation, a save) out of the window."""
        start = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - start

    def scalars(self) -> dict[str, float]:
        """`img_per_sec`, `data_wait` (a fraction), `mfu` if known; a new window."""
        elapsed = self._clock() - self._start - self._paused
        steps, waited = self._steps, self._waited
        self.reset()
        if not steps or elapsed <= 0:
            return {}
        self._all_images += steps * self._batch_size
        self._all_seconds += elapsed
        rate = steps * self._batch_size / elapsed
        scalars = {"img_per_sec": rate, "data_wait": min(1.0, waited / elapsed)}
        if self._mfu_per_rate is not None:
            scalars["mfu"] = rate * self._mfu_per_rate
        return scalars

    def average(self) -> float:
        """Images per second over all closed windows, 0 before the first."""
        return self._all_images / self._all_seconds if self._all_seconds else 0.0


def parameter_overview(params: dict[str, Any]) -> str:
    """A table of a plain dict of parameters (clu's), or their count without clu."""
    try:
        from clu import parameter_overview as overview
    except ImportError:
        sizes = _sizes(params)
        return f"{sum(sizes):,} parameters in {len(sizes)} arrays"
    return overview.get_parameter_overview(params, include_stats=False)


def _sizes(params: Mapping[str, Any]) -> list[int]:
    sizes: list[int] = []
    for value in params.values():
        sizes += _sizes(value) if isinstance(value, Mapping) else [int(value.size)]
    return sizes
