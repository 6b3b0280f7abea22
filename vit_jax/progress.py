"""A run's place on the terminal: a live line, or plain lines where there is none."""

import contextlib
import io
import math
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO


class Progress:
    """The run's place on the terminal: a live line, or plain lines elsewhere.

    `advance` only stores a number; the live line is drawn by a thread of its own, at
    most four times a second. Scalars named `train/...` update the line, all others
    (evaluations) are printed above it.

    Args:
      total_steps: steps of the whole run.
      batch_size: global batch size, for the time left.
      stream: where to write; standard output by default.
      live: whether to draw a live line; None asks the stream.
      quiet: writes nothing at all (processes other than the first).
    """

    def __init__(
        self,
        total_steps: int,
        batch_size: int,
        *,
        stream: TextIO | io.TextIOBase | None = None,
        live: bool | None = None,
        quiet: bool = False,
    ) -> None:
        self._total_steps, self._batch_size = total_steps, batch_size
        self._stream: Any = sys.stdout if stream is None else stream
        if live is None:
            dumb = os.environ.get("TERM", "") in ("dumb", "unknown")
            live = self._stream.isatty() and not dumb
        self._wants_live, self._quiet = live, quiet
        self._live: Any = None
        self._step = 0
        self._latest: dict[str, float] = {}

    def __enter__(self) -> "Progress":
        if self._wants_live and not self._quiet:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream, force_terminal=True)
            self._live = Live(
                get_renderable=self._render, console=console, refresh_per_second=4
            )
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError, ValueError):
                self._live.stop()
            self._live = None

    def advance(self, step: int) -> None:
        """Notes that `step` steps are done. Called every step: must stay this cheap."""
        self._step = step

    def show(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Shows logged scalars: training ones on the line, results above it."""
        train: dict[str, float] = {}
        results: dict[str, float] = {}
        for name, value in scalars.items():
            if name.startswith(_UNSEEN):
                continue
            kind = train if name.startswith("train/") else results
            kind[name.removeprefix("train/")] = float(value)
        place = f"step {step}/{self._total_steps}"
        if train:
            self._step = step
            self._latest = self._latest | train
            if self._live is None:
                self.say("  ".join([place, *_fields(train), *self._eta(step)]))
        if results:
            self.say("  ".join([place, *_fields(results)]))

    def say(self, line: str) -> None:
        """Prints a line, above the live one where there is one."""
        if self._quiet:
            return
        try:
            if self._live is None:
                print(line, file=self._stream, flush=True)
            else:
                self._live.console.print(line, markup=False, highlight=False)
        except (OSError, ValueError):  # closed by whoever read it: train on
            self._quiet = True

    def _eta(self, step: int) -> list[str]:
        rate = self._latest.get("img_per_sec", 0.0)
        if not rate > 0 or not math.isfinite(rate):
            return []
        seconds = round(max(0, self._total_steps - step) * self._batch_size / rate)
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02}" if hours else f"{minutes}"
        return [f"ETA {clock}:{seconds:02}"]

    def _render(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        step, latest, total = self._step, self._latest, max(1, self._total_steps)
        shown = ("loss", "accuracy", "img_per_sec", "mfu", "data_wait", "tflops")
        parts = [f"{100 * step // total:3} %", f"{step}/{self._total_steps}"]
        parts += [_field(name, latest[name]) for name in shown if name in latest]
        bar = 24 if self._live is None or self._live.console.width >= 120 else 12
        room = (self._live.console.width if self._live else 80) - bar - 2
        eta = self._eta(step)
        while len(parts) > 2 and len("  ".join(parts + eta)) > room:
            parts.pop()  # a narrow terminal keeps one line and loses the last fields
        line = Table.grid(padding=(0, 1))
        text = Text("  ".join(parts), no_wrap=True, overflow="ellipsis")
        text.append("  " + "".join(eta), style="dim")
        line.add_row(ProgressBar(total, step, width=bar), text)
        return line


_ORDER = (
    "loss",
    "accuracy",
    "",
    "learning_rate",
    "img_per_sec",
    "data_wait",
    "tflops",
    "mfu",
    "memory_peak_gib",
    "rss_peak_gib",
)
_UNSEEN = ("goodput/", "data/")  # only in the file and TensorBoard
_HIDDEN = ("grad_norm", "param_norm", "nonfinite")  # in the file and TensorBoard


def _fields(scalars: Mapping[str, float]) -> list[str]:
    """Scalars as words: losses first, then results by any name, then rates."""

    def place(name: str) -> int:
        return _ORDER.index(name if name in _ORDER else "")

    names = sorted((n for n in scalars if n not in _HIDDEN), key=place)
    return [_field(name, scalars[name]) for name in names]


def _field(name: str, value: float) -> str:
    if name == "img_per_sec":
        return f"{value:,.{0 if abs(value) >= 10 else 1}f} img/s"
    if name in ("data_wait", "mfu"):
        label = {"data_wait": "data-wait", "mfu": "MFU"}[name]
        return f"{label} {100 * value:.0f} %"
    if name == "tflops":
        return f"{value:.3g} TFLOP/s" if value < 1e3 else f"{value:,.0f} TFLOP/s"
    if name in ("memory_peak_gib", "rss_peak_gib"):
        return f"{'memory' if name[0] == 'm' else 'RSS'} peak {value:.2f} GiB"
    if name == "learning_rate":
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"lr {mantissa.removesuffix('.0')}e{int(exponent)}" if value else "lr 0"
    if len(name) > 28:
        name = "…" + name[-27:]
    ordinary = value == 0 or 1e-3 <= abs(value) < 1e4 or not math.isfinite(value)
    return f"{name} {value:.3f}" if ordinary else f"{name} {value:.2e}"
