"""A run's place on the terminal: a live view, or plain lines where there is none."""

import contextlib
import io
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO


class Progress:
    """The run's place on the terminal: a live view, or plain lines elsewhere.

    `advance` only stores a number; the live view is drawn by a thread of its own, at
    most four times a second, from what was logged last. Scalars named `train/...`
    update it; all others (evaluations) do too, and are printed above it.

    Args:
      total_steps: steps of the whole run.
      batch_size: global batch size, for the time left.
      start: the step that the run begins with, which is saved unless it is 0.
      phase: says what goes on (`goodput.PHASES`), for when no step is done.
      stream: where to write; standard output by default.
      live: whether to draw a live view; None asks the stream.
      quiet: writes nothing at all (processes other than the first).
    """

    def __init__(
        self,
        total_steps: int,
        batch_size: int,
        *,
        start: int = 0,
        phase: Callable[[], str] = lambda: "step",
        stream: TextIO | io.TextIOBase | None = None,
        live: bool | None = None,
        quiet: bool = False,
    ) -> None:
        self._total_steps, self._batch_size = total_steps, batch_size
        self._phase, self._clock = phase, time.monotonic
        self._stream: Any = sys.stdout if stream is None else stream
        if live is None:
            dumb = os.environ.get("TERM", "") in ("dumb", "unknown")
            live = self._stream.isatty() and not dumb
        self._wants_live, self._quiet = live, quiet
        self._live: Any = None
        self._step = start
        self._latest: dict[str, float] = {}
        self._results: dict[str, tuple[int, float]] = {}
        self._saved: tuple[int, float | None] | None = (start, None) if start else None

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

    def saved(self, step: int) -> None:
        """Notes that a step is being saved, which goes on in the background."""
        self._saved = step, self._clock()

    def show(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Shows logged scalars: training ones in the view, results above it as well."""
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
            self._results |= {name: (step, v) for name, v in results.items()}
            self.say("  ".join([place, *_fields(results)]))

    def say(self, line: str) -> None:
        """Prints a line, above the live view where there is one."""
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
        return [f"ETA {clock(seconds)}"]

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        step, total = self._step, max(1, self._total_steps)
        width = self._live.console.width if self._live else 80
        doing = _DOING.get(self._phase(), "") if step < total else ""
        head = [f"{100 * step // total:3} %", f"step {step:,}/{total:,}"]
        head += [*self._eta(step), *([doing] if doing else [])]
        first = _lines(head, width)[0]
        room = min(40, width - len(first) - 3)
        if room >= 8:
            line = Table.grid(padding=(0, 3, 0, 0))
            line.add_row(ProgressBar(total, step, width=room), first)
            first = line
        learnt = _lines(self._learnt(), width, self._fields("learning_rate"))
        optional = self._fields("tflops", "memory_peak_gib", "rss_peak_gib")
        return Group(first, *learnt, *_lines(self._speed(), width, optional))

    def _learnt(self) -> list[str]:
        """The newest losses, and the newest result of an evaluation."""
        fields = self._fields("loss", "accuracy")
        for name in _results_first(self._results)[:1]:  # all are printed above
            step, value = self._results[name]
            fields.append(f"{_field(name, value)} at step {step:,}")
        return fields

    def _speed(self) -> list[str]:
        """Rates, and what a crash now would cost."""
        fields = self._fields("img_per_sec", "mfu", "data_wait")
        if self._saved is not None:
            saved, since = self._saved
            age = "" if since is None else f", {ago(self._clock() - since)} ago"
            fields.append(f"saved step {saved:,}{age}")
        return fields

    def _fields(self, *names: str) -> list[str]:
        latest = self._latest
        return [_field(name, latest[name]) for name in names if name in latest]


def clock(seconds: float) -> str:
    """``"0:52"`` or ``"1:02:03"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ago(seconds: float) -> str:
    """An age in one unit, such as ``"12 s"`` or ``"3 h"``."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _lines(fields: list[str], width: int, optional: Sequence[str] = ()) -> list[Any]:
    """Fields in as many lines as they need; the optional ones only where there is room.

    Values stand out from their names.
    """
    from rich.text import Text

    lines: list[Text] = []
    for index, field in enumerate([*fields, *optional]):
        fits = lines and len(lines[-1]) + 3 + len(field) <= width
        if not fits and index >= len(fields) and lines:
            break
        if not fits:
            lines.append(Text(no_wrap=True, overflow="ellipsis"))
        line = lines[-1]
        line.append("   " if line else "")
        for place, word in enumerate(field.split(" ")):
            line.append(" " if place else "")
            line.append(word, "" if _is_value(word) else "dim")
    return lines


def _is_value(word: str) -> bool:
    return word[:1].isdigit() or word[:1] == "-" or word in ("nan", "inf", "%")


def _results_first(results: Mapping[str, Any]) -> list[str]:
    """Names of results, accuracies before losses before others."""

    def rank(name: str) -> int:
        last = name.rpartition("/")[2]
        return {"accuracy": 0, "loss": 1}.get(last, 2)

    return sorted(results, key=rank)


# What goes on while no step is done, by `goodput.PHASES`.
_DOING = {
    "init": "starting",
    "restore": "restoring",
    "compile": "compiling",
    "eval": "evaluating",
    "save": "saving",
}
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
