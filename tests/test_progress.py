"""The live view on a real terminal (a pseudo-terminal, and a screen to look at)."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

import pytest

from tests import training

pyte = pytest.importorskip("pyte")

SETTLED = 0.05  # seconds without a write; a drawing is one, or a few at once

RUN = """
import logging, sys, time
from vit_jax.progress import Progress

phase = ["compile"]
with Progress(1684, 256, phase=lambda: phase[0]) as progress:
    print("supervised ViT B/16", flush=True)
    time.sleep(0.6)
    phase[0] = "step"
    logging.warning("a library's warning")
    for step in (50, 100):
        progress.advance(step)
        progress.show(step, {
            "train/loss": 1.5, "train/accuracy": 0.4, "train/learning_rate": 1e-3,
            "train/img_per_sec": 7512.0, "train/mfu": 0.41, "train/data_wait": 0.03,
        })
    progress.show(100, {"val/accuracy": 0.5, "val/loss": 1.25})
    progress.saved(100)
    phase[0] = "eval"
    time.sleep(WAIT)
    phase[0] = "step"
    progress.advance(120)
print("the end")
"""


def screens(columns, *, resize_to=None, wait=0.8, rows=24):
    """Every picture that the terminal showed, as lines."""
    terminal, other = pty.openpty()
    size(terminal, rows, columns)
    environment = training.environment() | {"TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    child = subprocess.Popen(
        [sys.executable, "-c", RUN.replace("WAIT", str(wait))],
        env=environment,
        stdin=other,
        stdout=other,
        stderr=other,
    )
    os.close(other)
    screen = pyte.Screen(columns, rows)
    stream = pyte.ByteStream(screen)
    shown = []
    while data := read(terminal):
        # A read may end in the middle of a drawing, which nobody sees standing.
        while select.select([terminal], [], [], SETTLED)[0]:
            if not (more := read(terminal)):
                break
            data += more
        stream.feed(data)
        shown.append([line.rstrip() for line in screen.display if line.strip()])
        if resize_to and any("evaluating" in line for line in shown[-1]):
            time.sleep(0.1)
            size(terminal, rows, resize_to)
            screen.resize(rows, resize_to)
            resize_to = None
    os.close(terminal)
    assert child.wait(60) == 0
    return shown


def read(terminal):
    """What was written since; nothing at the end."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux: the other end is closed
        return b""


def size(terminal, rows, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def test_the_view_is_calm_and_complete():
    shown = screens(100)
    assert any("compiling" in line for lines in shown for line in lines)
    evaluating = next(s for s in shown if any("evaluating" in line for line in s))
    assert "step 100/1,684   ETA 0:54   evaluating" in evaluating[-3]
    last = shown[-1]
    assert last[0] == "supervised ViT B/16"
    assert last[1] == "WARNING:root:a library's warning"
    assert last[2] == "step 100/1684  val/accuracy 0.500  val/loss 1.250"
    assert "7 %   step 120/1,684   ETA 0:53" in last[3]
    assert last[4] == (
        "loss 1.500   accuracy 0.400   val/accuracy 0.500 at step 100   lr 1e-3"
    )
    assert last[5].startswith(
        "7,512 img/s   MFU 41 %   data-wait 3 %   saved step 100, "
    )
    assert last[6:] == ["the end"]


@pytest.mark.parametrize("columns", [60, 40])
def test_a_narrow_terminal_loses_nothing_that_matters(columns):
    last = screens(columns, wait=0.3)[-1]
    text = "\n".join(last)
    for words in (
        "step 120/1,684",
        "ETA 0:53",
        "loss 1.500",
        "val/accuracy 0.500 at step 100",
        "7,512 img/s",
        "MFU 41 %",
        "data-wait 3 %",
        "saved step 100, ",
    ):
        assert words in text
    assert text.count("step 120/1,684") == 1  # drawn in place, not line after line


def test_another_size_on_the_way():
    last = screens(100, resize_to=60, wait=1.2)[-1]
    assert last[-1] == "the end"
    assert sum("step 120/1,684" in line for line in last) == 1
    assert all(len(line) <= 60 for line in last)


def test_the_view_is_drawn_at_most_a_few_times_a_second():
    began = time.monotonic()
    shown = screens(100, wait=2.0)
    seconds = time.monotonic() - began
    assert len(shown) < 12 * seconds + 20  # a picture may come in several pieces
