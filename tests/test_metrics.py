"""Writers, the terminal, rates: rows and lines as a reader of a run finds them."""

import contextlib
import importlib.abc
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from vit_jax import jsonl, metrics
from vit_jax.metrics import JsonlWriter, Progress, Rates, TerminalWriter, memory_peak


def _rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def _write(path, *steps):
    writer = JsonlWriter(path)
    for step in steps:
        writer.write_scalars(step, {"train/loss": float(step)})
    writer.close()


def test_jsonl_is_a_row_per_call_and_valid_json(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    writer = JsonlWriter(path)
    writer.write_scalars(1, {"train/loss": np.float32(0.5), "val/n": 3})
    writer.write_scalars(2, {"train/loss": float("nan"), "val/n": float("inf")})
    writer.write_texts(2, {"ignored": "text"})
    writer.flush()
    assert _rows(path) == [
        {"step": 1, "train/loss": 0.5, "val/n": 3.0},
        {"step": 2, "train/loss": None, "val/n": None},
    ]
    writer.close()
    writer.close()


def test_jsonl_appends_and_mends_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    _write(path, 1, 2)
    with path.open("a") as file:
        file.write('{"step": 3, "trai')
    _write(path, 3)
    assert [row["step"] for row in _rows(path)] == [1, 2, 3]


@pytest.mark.parametrize(("step", "kept"), [(2, [1, 2]), (0, []), (9, [1, 2, 3])])
def test_truncate_after_drops_later_rows_and_a_torn_line(tmp_path, step, kept):
    path = tmp_path / "metrics.jsonl"
    _write(path, 1, 2, 3)
    with path.open("ab") as file:
        file.write(b'{"step": 4, "train/lo')
    metrics.truncate_after(path, step)
    assert [row["step"] for row in _rows(path)] == kept
    assert list(tmp_path.iterdir()) == [path]


def test_truncate_after_without_a_file_is_nothing_to_do(tmp_path):
    metrics.truncate_after(tmp_path / "metrics.jsonl", 3)
    assert not list(tmp_path.iterdir())


def test_truncate_after_takes_rows_out_of_any_place(tmp_path):
    path = tmp_path / "metrics.jsonl"
    _write(path, 1, 5, 2)
    metrics.truncate_after(tmp_path, 3)  # the work directory will do
    assert [row["step"] for row in metrics.read_rows(tmp_path)] == [1, 2]
    assert list(tmp_path.iterdir()) == [path]


def test_rows_of_an_earlier_life_go_before_the_first_new_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    _write(path, 1, 2, 3)
    writer = JsonlWriter(path, after=2)
    assert [row["step"] for row in _rows(path)] == [1, 2]
    writer.write_scalars(3, {"train/loss": 0.5})
    writer.rewind(1)
    writer.write_scalars(2, {"train/loss": 0.25})
    writer.close()
    assert _rows(path) == [
        {"step": 1, "train/loss": 1.0},
        {"step": 2, "train/loss": 0.25},
    ]


def test_rows_wait_in_memory_for_a_full_disk(tmp_path, monkeypatch):
    path, said = tmp_path / "metrics.jsonl", []
    writer = JsonlWriter(path, warn=said.append)
    writer.write_scalars(1, {"a": 1.0})
    real = os.pwrite

    def half(file, data, offset):
        """Half a row fits, as on a disk that fills up."""
        if not path.read_bytes().endswith(b"\n"):
            raise OSError(28, "No space left on device")
        return real(file, data[: len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", half)
    for step in (2, 3):
        writer.write_scalars(step, {"a": 1.0})
        writer.flush()
        assert [row["step"] for row in _rows(path)] == [1]  # and no torn one
    monkeypatch.setattr(os, "pwrite", real)
    writer.write_scalars(4, {"a": 1.0})
    writer.close()
    assert [row["step"] for row in _rows(path)] == [1, 2, 3, 4]
    assert [line.partition(str(path))[2] for line in said] == [
        ": rows wait in memory (OSError: [Errno 28] No space left on device)",
        ": written again",
    ]


def test_rows_wait_for_a_folder_that_cannot_be_made_yet(tmp_path):
    (tmp_path / "run").touch()
    path, said = tmp_path / "run" / "metrics.jsonl", []
    writer = JsonlWriter(path, after=0, warn=said.append)
    writer.write_scalars(1, {"a": 1.0})
    (tmp_path / "run").unlink()
    writer.write_scalars(2, {"a": 1.0})
    writer.close()
    assert [row["step"] for row in _rows(path)] == [1, 2]
    assert len(said) == 2


def test_waiting_rows_are_bounded_and_the_loss_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "KEPT_ROWS", 3)
    (tmp_path / "run").touch()
    path, said = tmp_path / "run" / "metrics.jsonl", []
    writer = JsonlWriter(path, warn=said.append)
    for step in range(5):
        writer.write_scalars(step, {"a": 1.0})
    (tmp_path / "run").unlink()
    writer.close()
    assert [row["step"] for row in _rows(path)] == [2, 3, 4]
    assert said[-1].endswith("written again; 2 rows are lost")


FILE_SIZE_LIMIT = """
import resource, sys
from vit_jax.metrics import JsonlWriter
path, said = sys.argv[1], []
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
writer = JsonlWriter(path, warn=said.append)
for step in range(100):
    writer.write_scalars(step, {"train/loss": 1.0})
    writer.flush()
complete = open(path).read().endswith("\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
writer.close()
print(complete, len(said))
"""


def test_a_file_that_may_not_grow(tmp_path):
    path = tmp_path / "metrics.jsonl"
    command = [sys.executable, "-c", FILE_SIZE_LIMIT, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "2"]
    assert [row["step"] for row in _rows(path)] == list(range(100))


TRAIN = {
    "train/loss": 0.5123,
    "train/accuracy": 0.91,
    "train/learning_rate": 1.2e-3,
    "train/grad_norm": 3.0,
    "train/img_per_sec": 7512.2,
    "train/data_wait": 0.031,
    "train/mfu": 0.41,
}


def test_plain_lines():
    stream = io.StringIO()
    with Progress(1684, 256, stream=stream) as progress:
        writer = TerminalWriter(progress)
        writer.write_scalars(150, TRAIN)
        writer.write_scalars(150, {"val/accuracy": 0.875, "val/loss": 2e-7})
        writer.write_scalars(151, {"train/" + "long_" * 9 + "end": float("nan")})
    first, second, third = stream.getvalue().splitlines()
    assert first == (
        "step 150/1684  loss 0.512  accuracy 0.910  lr 1.2e-3  7,512 img/s  "
        "data-wait 3 %  MFU 41 %  ETA 0:52"
    )
    assert second == "step 150/1684  val/accuracy 0.875  val/loss 2.00e-07"
    assert "long_end nan" in third
    assert "…" in third
    assert len(third) < 70


@pytest.mark.parametrize("columns", [80, 160])
def test_live_view_fits_and_results_stand_above_it(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = io.StringIO()
    with Progress(1684, 256, stream=stream, live=True) as progress:
        progress.advance(140)
        progress.show(150, TRAIN)
        progress.show(150, {"val/accuracy": 0.5})
        progress.say("[saved] step 150")
    text = stream.getvalue()
    assert "val/accuracy 0.500\n" in text
    assert "[saved] step 150\n" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = re.split(r"[\r\n]+", plain)
    assert all(len(line) <= columns for line in lines)
    bars = [index for index, line in enumerate(lines) if "━" in line]
    last = "\n".join(lines[bars[-1] :])  # what stays on the screen
    assert "step 150/1,684   ETA 0:52" in last
    assert "loss 0.512   accuracy 0.910   val/accuracy 0.500 at step 150" in last
    assert "7,512 img/s   MFU 41 %   data-wait 3 %" in last
    progress.say("afterwards")
    assert stream.getvalue().endswith("afterwards\n")


def test_quiet_writes_nothing():
    stream = io.StringIO()
    with Progress(10, 1, stream=stream, live=True, quiet=True) as progress:
        progress.show(1, TRAIN)
        progress.say("line")
    assert stream.getvalue() == ""


def test_advance_costs_a_step_nothing():
    with Progress(10_000, 1, stream=io.StringIO(), live=True) as progress:
        start = time.thread_time()  # drawing has a thread of its own
        for step in range(10_000):
            progress.advance(step)
        assert (time.thread_time() - start) / 10_000 < 20e-6


def test_rates_leave_pauses_out():
    now = 100.0
    rates = Rates(32, flops_per_image=1e9, peak_flops=1e12, clock=lambda: now)
    assert rates.scalars() == {}
    for _ in range(10):
        rates.step(0.05)
    now += 2.0
    with contextlib.suppress(KeyError), rates.pause():
        now += 50.0
        raise KeyError
    assert rates.scalars() == pytest.approx(
        {"img_per_sec": 160.0, "data_wait": 0.25, "tflops": 0.16, "mfu": 0.16}
    )
    rates.step(0.0)
    now += 1.0
    assert rates.scalars() == pytest.approx(
        {"img_per_sec": 32.0, "data_wait": 0.0, "tflops": 0.032, "mfu": 0.032}
    )


def test_rates_without_a_known_peak_have_no_mfu():
    now = 0.0
    rates = Rates(8, flops_per_image=1e9, clock=lambda: now)
    now += 9.0
    rates.reset()
    rates.step(0.0)
    now += 1.0
    assert rates.scalars() == {"img_per_sec": 8.0, "data_wait": 0.0, "tflops": 0.008}


def test_the_peak_of_memory():
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    full = [Device({"peak_bytes_in_use": n << 29}) for n in (1, 5, 2)]
    assert memory_peak(full) == {"memory_peak_gib": 2.5}
    for silent in (None, {}):  # the platform does not tell
        (peak,) = memory_peak([Device(silent)]).items()
        status = pathlib.Path("/proc/self/status").read_text()
        kibibytes = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
        # The kernel counts pages in batches of each thread.
        assert peak == ("rss_peak_gib", pytest.approx(kibibytes / 2**20, rel=0.02))


def test_a_line_shows_speed_and_memory():
    stream = io.StringIO()
    with Progress(9, 1, stream=stream) as progress:
        progress.show(1, TRAIN | {"train/tflops": 98.76, "train/memory_peak_gib": 31.5})
        progress.show(2, {"train/tflops": 12345.6, "train/rss_peak_gib": 0.75})
    first, second = stream.getvalue().splitlines()
    assert "data-wait 3 %  98.8 TFLOP/s  MFU 41 %  memory peak 31.50 GiB" in first
    assert "12,346 TFLOP/s  RSS peak 0.75 GiB" in second


class _Block(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] == "clu":
            raise ModuleNotFoundError(f"No module named {fullname!r}")
        return None


@pytest.fixture
def no_clu(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "clu"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Block(), *sys.meta_path])


def test_without_clu_one_line_says_so(tmp_path, no_clu):
    stream = io.StringIO()
    with Progress(10, 1, stream=stream) as progress:
        writer = metrics.create_writer(tmp_path, tensorboard=True, progress=progress)
        writer.write_scalars(1, {"train/loss": 1.0})
        writer.flush()
        writer.close()
    said, row = stream.getvalue().splitlines()
    assert said.startswith("TensorBoard is off: clu not installed")
    assert row == "step 1/10  loss 1.000"
    assert _rows(tmp_path / "metrics.jsonl") == [{"step": 1, "train/loss": 1.0}]
    assert not (tmp_path / "tensorboard").exists()


def test_tensorboard_not_asked_for_is_not_mentioned(tmp_path, no_clu):
    stream = io.StringIO()
    progress = Progress(10, 1, stream=stream)
    metrics.create_writer(tmp_path, tensorboard=False, progress=progress).close()
    assert stream.getvalue() == ""
    assert not any(thread.name == "LazyWriter" for thread in threading.enumerate())


TENSORBOARD_RUN = """
import json, sys, time
from vit_jax import jsonl, metrics
assert not {"jax", "clu", "tensorflow", "rich"} & set(sys.modules)
progress = metrics.Progress(10, 1, quiet=True)
start = time.perf_counter()
writer = metrics.create_writer(sys.argv[1], tensorboard=True, progress=progress)
for step in (1, 2, 3):
    writer.write_scalars(step, {"train/loss": 1.0 / step})
writer.write_texts(1, {"config": "{}"})
writer.flush()
before_close = time.perf_counter() - start
writer.close()
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1] + "/tensorboard").Reload()
loss = [[event.step, tf.make_ndarray(event.tensor_proto).item()]
        for event in events.Tensors("train/loss")]
print(json.dumps({"loss": loss, "before_close": before_close,
                  "tags": events.Tags()["tensors"],
                  "gpus": len(tf.config.get_visible_devices("GPU"))}))
"""


def test_tensorboard_is_written_behind_the_run(tmp_path):
    command = [sys.executable, "-c", TENSORBOARD_RUN, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(result.stdout)
    assert [step for step, _ in report["loss"]] == [1, 2, 3]
    assert [x for _, x in report["loss"]] == pytest.approx([1, 1 / 2, 1 / 3])
    assert "config" in report["tags"]
    assert report["gpus"] == 0
    assert report["before_close"] < 1.0  # TensorFlow alone takes seconds to import
    assert result.stderr == ""


class _Recorder(metrics.Writer):
    def __init__(self, fail_at=None):
        self.calls, self.fail_at, self.closed = [], fail_at, False

    def write_scalars(self, step, scalars):
        if step == self.fail_at:
            raise OSError("disk full\nand more")
        self.calls.append((step, scalars))

    def close(self):
        self.closed = True


def test_lazy_writer_queues_in_order_and_close_drains():
    ready, recorder, said = threading.Event(), _Recorder(), []

    def make():
        assert ready.wait(10)
        return recorder

    lazy = metrics.LazyWriter(make, said.append)
    lazy.write_scalars(1, {"a": np.float32(1)})
    lazy.flush()
    lazy.write_scalars(2, {"a": 2})
    assert not recorder.calls
    ready.set()
    lazy.close()
    assert recorder.calls == [(1, {"a": 1.0}), (2, {"a": 2.0})]
    assert recorder.closed
    assert not said


def test_lazy_writer_that_hangs_is_given_up():
    never, said = threading.Event(), []
    lazy = metrics.LazyWriter(never.wait, said.append, patience=0.1)
    lazy.write_scalars(1, {"a": 1})
    lazy.flush()
    start = time.perf_counter()
    lazy.close()
    assert time.perf_counter() - start < 2
    assert said == ["warning: TensorBoard is off: not all was written within 0 s"]
    never.set()


def test_lazy_writer_fails_with_one_line():
    def make():
        raise ImportError("no tensorboard")

    said = []
    lazy = metrics.LazyWriter(make, said.append)
    lazy.write_scalars(1, {"a": 1})
    lazy.close()
    assert said == ["warning: TensorBoard is off: ImportError: no tensorboard"]

    said.clear()
    lazy = metrics.LazyWriter(lambda: _Recorder(fail_at=1), said.append)
    for step in (1, 1, 2):
        lazy.write_scalars(step, {"a": 1})
    lazy.close()
    assert said == ["warning: TensorBoard is off: OSError: disk full"]


def test_writer_that_fails_is_left_out_with_one_line():
    class Failing(metrics.Writer):
        def write_scalars(self, step, scalars):
            raise RuntimeError("out of luck\nand more")

        def close(self):
            raise OSError("gone")

    recorder, said = _Recorder(), []
    writer = metrics.MultiWriter({"the first": Failing(), "b": recorder}, said.append)
    for step in (1, 2):
        writer.write_scalars(step, {"a": 1})
    writer.close()
    assert said == ["warning: the first is off: RuntimeError: out of luck"]
    assert [step for step, _ in recorder.calls] == [1, 2]
    assert recorder.closed
    metrics.MultiWriter().write_scalars(1, {"a": 1})


@pytest.mark.parametrize("method", ["flush", "close", "write_texts"])
def test_any_call_may_fail(method):
    def fail(*_):
        raise OSError("gone")

    recorder, failing, said = _Recorder(), metrics.Writer(), []
    setattr(failing, method, fail)
    writer = metrics.MultiWriter({"a": failing, "b": recorder}, said.append)
    getattr(writer, method)(*((1, {}) if method == "write_texts" else ()))
    writer.close()
    assert said == ["warning: a is off: OSError: gone"]
    assert recorder.closed


def test_a_warning_that_cannot_be_printed_stops_nothing():
    def warn(line):
        raise BrokenPipeError

    failing, recorder = _Recorder(fail_at=1), _Recorder()
    writer = metrics.MultiWriter({"a": failing, "b": recorder}, warn)
    writer.write_scalars(1, {"a": 1})
    assert [step for step, _ in recorder.calls] == [1]


def test_terminal_that_is_gone_stops_nothing(tmp_path):
    """As with `vit-jax train ... | head`."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream, Progress(10, 1, stream=stream) as progress:
        writer = metrics.create_writer(tmp_path, tensorboard=False, progress=progress)
        for step in (1, 2):
            progress.say("a line")
            writer.write_scalars(step, {"train/loss": 1.0})
        writer.close()
        with contextlib.suppress(BrokenPipeError):  # what its buffer still has
            stream.close()
    assert [row["step"] for row in _rows(tmp_path / "metrics.jsonl")] == [1, 2]


def test_parameter_overview_is_clus_table():
    shape = jax.ShapeDtypeStruct((2, 3), np.float32)
    text = metrics.parameter_overview({"a": {"kernel": shape}, "b": np.zeros(4)})
    assert "a/kernel" in text
    assert "Total: 10" in text


def test_parameter_overview_without_clu_is_one_line(no_clu):
    shape = jax.ShapeDtypeStruct((20, 300), np.float32)
    text = metrics.parameter_overview({"a": {"kernel": shape}, "b": np.zeros(4)})
    assert text == "6,004 parameters in 2 arrays"
