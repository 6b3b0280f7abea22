"""A profile of some steps: what it says, and that no failure of it ends a run."""

import re

import jax
import pytest
from etils import epath

from tests import training
from vit_jax import profiling
from vit_jax.config import ConfigError
from vit_jax.metrics import read_rows
from vit_jax.profiling import Operations, Profile
from vit_jax.train import train

CHANGES = ("data.name=arrays:digits", "train.duration.steps=6", "log.every.steps=2")


def test_some_steps_of_a_run(tmp_path):
    said = []
    config = training.tiny_config(*CHANGES, "log.profile=(2,5)")
    result = train(config, str(tmp_path / "run"), say=said.append)
    assert result.steps == 6
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    (last,) = [row for row in rows if row["step"] == 6 and "train/loss" in row]
    assert last["train/tflops"] > 0 and 0 <= last["train/data_wait"] <= 1
    assert 0.05 < last["train/rss_peak_gib"] < 100  # it holds JAX, and is no disk
    (trace,) = (tmp_path / "run" / "profile").glob("plugins/profile/*/*.xplane.pb")
    operations = profiling.longest(trace)
    assert any("dot" in name or "fusion" in name for name in operations)
    assert len(operations.lines()) == 10


def test_the_steps_that_are_asked_for(tmp_path):
    function = jax.jit(lambda x: x @ x)
    x = jax.numpy.ones((64, 64))
    function(x)
    said, traced = [], []
    with Profile(2, 4, epath.Path(tmp_path), said.append) as profile:
        for step in range(6):
            if profile.begins(step, compiled=step > 0):
                profile.begin(step, x)
            if profile._scratch:
                traced.append(step)
            result = function(x)
            if profile.ends(step + 1):
                profile.end(step + 1, result)
    assert traced == [2, 3]
    assert re.match(r"profile of 2 steps, [\d.]+ ms each, in ", said[0])
    assert 2 <= len(said) <= 11 and all("%" in line for line in said[1:])
    (trace,) = tmp_path.rglob("*.xplane.pb")
    assert sum("dot" in name or "fusion" in name for name in profiling.longest(trace))


def test_the_longest_come_first():
    operations = Operations({f"op.{n}": n * 1_000_000 for n in range(1, 14)})
    lines = operations.lines()
    assert lines[0] == " 14.3 %      13.00 ms  op.13"  # 13 of 91
    assert len(lines) == 10


def test_a_failure_is_said_and_the_next_steps_go_on(tmp_path, monkeypatch):
    def fail(*arguments, **keywords):
        raise RuntimeError("another profiler is active\nwith details")

    monkeypatch.setattr(jax.profiler, "start_trace", fail)
    said = []
    with Profile(1, 3, epath.Path(tmp_path), said.append) as profile:
        profile.begin(1, None)
        assert not profile.ends(3) and not profile.begins(2, compiled=True)
    assert said == ["warning: no profile: another profiler is active"]


def test_a_disk_that_is_full(tmp_path):
    (tmp_path / "profile").write_text("a file where the folder should be")
    said = []
    with Profile(1, 2, epath.Path(tmp_path / "profile"), said.append) as profile:
        profile.begin(1, None)
        profile.end(2, None)
    assert len(said) == 1 and said[0].startswith("warning: no profile: ")
    jax.profiler.start_trace(str(tmp_path / "next"))  # none is left active
    jax.profiler.stop_trace()


def test_a_run_that_ends_within_the_range_leaves_no_profiler(tmp_path):
    with Profile(1, 9, epath.Path(tmp_path), print) as profile:
        profile.begin(1, None)
    jax.profiler.start_trace(str(tmp_path / "next"))
    jax.profiler.stop_trace()


@pytest.mark.parametrize("range", ["(0,3)", "(3,3)", "(4,3)", "(2,7)", "(1,2,3)"])
def test_wrong_ranges(range, tmp_path):
    config = training.tiny_config(*CHANGES, f"log.profile={range}")
    with pytest.raises(ConfigError, match=r"1 <= start < stop <= 6"):
        train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
