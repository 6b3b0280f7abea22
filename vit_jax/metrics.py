"""What a run reports while it trains: its writers, and rates."""

import contextlib
import importlib.util
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vit_jax import storage, wandb_writer
from vit_jax.jsonl import (
    JsonlWriter,
    location,
    open_writer,
    read_rows,
    truncate_after,
)
from vit_jax.progress import Progress
from vit_jax.writers import (
    LazyWriter,
    MultiWriter,
    TerminalWriter,
    Writer,
    tensorboard_writer,
)

__all__ = [
    "JsonlWriter",
    "LazyWriter",
    "MultiWriter",
    "Progress",
    "Rates",
    "TerminalWriter",
    "Writer",
    "create_writer",
    "location",
    "memory_peak",
    "parameter_overview",
    "read_rows",
    "truncate_after",
]


def _missing(names: Sequence[str]) -> list[str]:
    def is_missing(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is None
        except (ImportError, ValueError):
            return True

    return [name for name in names if is_missing(name)]


def create_writer(
    workdir: str | os.PathLike[str],
    *,
    tensorboard: bool,
    progress: Progress,
    after: int | None = None,
    wandb: str = "",
    config: Mapping[str, Any] | None = None,
) -> Writer:
    """The writer of a run: rows of JSON, the terminal, ``tensorboard/`` and W&B.

    The last two are left out where something is missing, which one line says.

    Args:
      workdir: of the run.
      tensorboard: whether to write for TensorBoard as well.
      progress: the terminal, which also receives warnings.
      after: the step that a run resumes from; rows later than that are dropped.
      wandb: a project of Weights & Biases; "" leaves it out.
      config: of the run, shown there.
    """
    writers: dict[str, Writer] = {
        "the file of metrics": open_writer(workdir, after=after, warn=progress.say),
        "the terminal": TerminalWriter(progress),
    }
    if tensorboard:
        reason = _no_tensorboard(workdir)
        if reason:
            progress.say(
                f"TensorBoard is off: {reason}; metrics go to the terminal and "
                f"{location(workdir)}"
            )
        else:
            folder = os.path.join(os.fspath(workdir), "tensorboard")
            writers["TensorBoard"] = LazyWriter(
                lambda: tensorboard_writer(folder), progress.say
            )
    if wandb:
        reason = wandb_writer.unavailable()
        if reason:
            progress.say(f"W&B is off: {reason}")
        else:
            writers["W&B"] = LazyWriter(
                lambda: wandb_writer.WandbWriter(
                    workdir, wandb, config or {}, progress.say
                ),
                progress.say,
                name="W&B",
            )
    return MultiWriter(writers, progress.say)


def _no_tensorboard(workdir: str | os.PathLike[str]) -> str:
    missing = _missing(("clu", "tensorflow", "tensorboard"))
    if missing:
        return f"{', '.join(missing)} not installed"
    if storage.is_bucket(workdir) and os.environ.get("STORAGE_EMULATOR_HOST"):
        return "TensorFlow knows no emulator of buckets"
    return ""


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
        self._flops_per_image, self._peak_flops = flops_per_image, peak_flops
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
        """`img_per_sec`, `data_wait` (a fraction) and, where known, `tflops` and `mfu`.

        They are of the model, whatever is computed twice to save memory, and of all
        devices together. Begins a new window.
        """
        elapsed = self._clock() - self._start - self._paused
        steps, waited = self._steps, self._waited
        self.reset()
        if not steps or elapsed <= 0:
            return {}
        self._all_images += steps * self._batch_size
        self._all_seconds += elapsed
        rate = steps * self._batch_size / elapsed
        scalars = {"img_per_sec": rate, "data_wait": min(1.0, waited / elapsed)}
        if self._flops_per_image is not None:
            scalars["tflops"] = rate * self._flops_per_image / 1e12
            if self._peak_flops is not None:
                scalars["mfu"] = rate * self._flops_per_image / self._peak_flops
        return scalars

    def average(self) -> float:
        """Images per second over all closed windows, 0 before the first."""
        return self._all_images / self._all_seconds if self._all_seconds else 0.0


def memory_peak(devices: Sequence[Any]) -> dict[str, float]:
    """The high-water mark since the process began: the fullest device's, in GiB.

    `memory_peak_gib` where the platform tells; elsewhere (a CPU) `rss_peak_gib`, what
    the process itself held.
    """
    stats = [device.memory_stats() or {} for device in devices]
    peaks = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
    if peaks:
        return {"memory_peak_gib": max(peaks) / 2**30}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"rss_peak_gib": peak * unit / 2**30}


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
