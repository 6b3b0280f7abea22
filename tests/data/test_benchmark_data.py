"""The benchmark of the input pipeline: what it returns, and that it cleans up."""

import argparse
import sys
import threading

import pytest

import benchmark_data as benchmark


class Runner:
    """Takes the CPU seconds that the test says."""

    cpu, closed, fails = None, None, False

    def __init__(self, role, arguments):
        self.role = role

    def epoch(self):
        if self.fails and self.role == "tf.data":
            raise SystemExit("a benchmark process ended early")
        return {"images": 100, "cpu": self.cpu[self.role], "wall": 1.0}

    def close(self):
        self.closed.append(self.role)


@pytest.fixture
def run(monkeypatch, tmp_path):
    def with_cpu(ours, theirs, fails=False):
        monkeypatch.setattr(
            Runner, "cpu", {"ours": ours, "tf.data": theirs, "decode only": 0.5}
        )
        monkeypatch.setattr(Runner, "closed", [])
        monkeypatch.setattr(Runner, "fails", fails)
        return benchmark.main()

    monkeypatch.setattr(benchmark, "Runner", Runner)
    monkeypatch.setattr(benchmark, "write_photos", lambda folder, count: None)
    monkeypatch.setattr(benchmark, "seek", lambda: None)
    monkeypatch.setattr(sys, "argv", ["benchmark_data.py", f"--dir={tmp_path}"])
    return with_cpu


def test_the_exit_status_says_whether_the_bar_is_reached(run, capsys):
    assert run(1.0, 1.3) == 0
    assert capsys.readouterr().out.endswith("\nreached\n")
    assert run(1.0, 1.1) == 1
    out = capsys.readouterr().out
    assert out.endswith("\nNOT reached\n") and "ours / tf.data 1.10 (bar 1.2)" in out
    assert sorted(Runner.closed) == ["decode only", "ours", "tf.data"]


def test_processes_end_when_one_has_ended_early(run):
    with pytest.raises(SystemExit, match="ended early"):
        run(1.0, 1.0, fails=True)
    assert sorted(Runner.closed) == ["decode only", "ours", "tf.data"]


def test_loaders_are_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "BATCH", 8)
    benchmark.write_photos(tmp_path, 16)
    options = argparse.Namespace(threads=2, workers=0, images=16)

    def loading():
        return [t for t in threading.enumerate() if t.name.startswith("load-")]

    before = len(loading())
    with benchmark.ours(tmp_path, options) as epoch:
        assert epoch() == epoch() == 16
        assert len(loading()) == before + 2
    for thread in loading():
        thread.join(5)
    assert len(loading()) <= before
