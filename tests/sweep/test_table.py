"""Rows of trials: their states, order, means over seeds, CSV and JSON."""

import fcntl
import json
import os
import time

import pytest

from tests.sweep import fakes
from vit_jax.lock.owner import Owner
from vit_jax.sweep import table, trials


def end(workdir, trial, value, status="done", **fields):
    place = trials.folder(workdir, trial.id)
    (place / "metrics.jsonl").write_text(
        json.dumps({"step": 20, "val/accuracy": value}) + "\n"
    )
    known = dict(status=status, exit_code=0, attempts=1, seconds=61.0, said="")
    trials.write_result(place, **known | fields)


@pytest.fixture
def swept(tmp_path):
    """Six trials: three done, one failed, one begun, one waiting."""
    made = fakes.prepare(tmp_path, fakes.make(6))
    for trial, value in zip(made[:3], (0.5, 0.7, 0.6), strict=True):
        end(tmp_path, trial, value)
    end(tmp_path, made[3], None, "failed", said="no disk")
    begun = trials.folder(tmp_path, made[4].id)
    (begun / "config.json").write_text("{}")
    (begun / "metrics.jsonl").write_text('{"step": 7, "val/accuracy": 0.1}\n')
    return tmp_path, made


@pytest.mark.parametrize("text", ["", "{}", '{"status": "done"}', '{"status": 3}'])
def test_a_result_that_is_not_whole_ends_no_trial(swept, text):
    workdir, made = swept
    (trials.folder(workdir, made[0].id) / "result.json").write_text(text)
    assert table.rows(workdir, fakes.SWEEP)[0].status == "waiting"
    attempts = trials.folder(workdir, made[0].id) / "attempts.json"
    for torn in ('{"attempts": [{}, 3]}', '{"attempts": 3}', '{"att'):
        attempts.write_text(torn)
        assert table.rows(workdir, fakes.SWEEP)[0].attempts == 0


def test_states_and_order(swept):
    workdir, made = swept
    found = table.rows(workdir, fakes.SWEEP)
    assert [row.status for row in found] == [
        *["done"] * 3,
        "failed",
        "begun",
        "waiting",
    ]
    assert (found[4].step, found[4].value) == (7, 0.1)
    assert table.counts(found) == "3 done, 1 failed, 1 begun, 1 waiting"
    ranked = table.ranked(found, fakes.SWEEP)
    assert [row.number for row in ranked] == [1, 2, 0, 3, 4, 5]
    assert table.best(found, fakes.SWEEP).id == made[1].id
    less = fakes.Sweep("", {}, "val/accuracy", "min")
    assert table.best(found, less).id == made[0].id
    assert table.best(found[3:], fakes.SWEEP) is None


def test_a_claim_or_a_living_lock_says_that_it_runs(swept):
    workdir, made = swept
    place = trials.folder(workdir, made[4].id)
    assert not table.is_running(place)
    with open(place / "claim", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert table.is_running(place)
    assert not table.is_running(place)
    lock = place / "lock"
    lock.write_bytes(Owner.here().to_json())
    assert table.is_running(place)
    elsewhere = json.loads(Owner.here().to_json()) | {"boot": "b", "host": "h"}
    lock.write_text(json.dumps(elsewhere))
    assert table.is_running(place)
    os.utime(lock, (time.time() - 99,) * 2)
    assert not table.is_running(place)


def test_csv_of_results_has_no_timings(swept):
    workdir, _ = swept
    found = table.rows(workdir, fakes.SWEEP)
    lines = table.as_csv(found, result=True).splitlines()
    assert lines[0] == "id,optim.learning_rate,seed,status,step,steps,val/accuracy"
    assert lines[1].endswith(",0.1,0,done,20,20,0.5")
    assert lines[4].endswith("failed,20,20,")
    status = table.as_csv(found, result=False).splitlines()
    assert "attempts,seconds" in status[0] and ",1,61.0,0.5" in status[1]
    (first, *_) = table.plain(found, result=True)
    assert "seconds" not in first and first["overrides"]["seed"] == 0
    json.dumps(table.plain(found, result=False))


def test_means_over_seeds(tmp_path):
    made = fakes.prepare(tmp_path, fakes.make(6))
    for trial, value in zip(made, (0.5, 0.7, 0.6, 0.7, 0.8, 0.6), strict=True):
        end(tmp_path, trial, value)
    groups = table.over_seeds(table.rows(tmp_path, fakes.SWEEP), fakes.SWEEP)
    means = [round(group.mean, 6) for group in groups]
    assert means == [0.75, 0.6, 0.6] and len(groups[0].values) == 2
    assert groups[0].overrides == {"optim.learning_rate": 0.2}
    assert abs(groups[0].deviation - 0.0707107) < 1e-6


def test_the_table_shows_what_varies_and_how_many_more(swept, capsys):
    from rich.console import Console

    workdir, _ = swept
    found = table.rows(workdir, fakes.SWEEP)
    shown = table.render(found, fakes.SWEEP, title="t", limit=4)
    Console(width=160).print(shown)
    text = capsys.readouterr().out
    assert "optim.learning_rate" in text and "no disk" in text and "1:01" in text
    assert "2 more are not shown" in text and "7/20" not in text


def test_a_thousand_are_read(tmp_path):
    rates = [number / 1000 for number in range(1000)]
    made = [
        trials.Trial({"rate": rate, "seed": 0}, n, 5) for n, rate in enumerate(rates)
    ]
    fakes.prepare(tmp_path, made)
    for trial in made:
        place = trials.folder(tmp_path, trial.id)
        result = {"status": "done", "step": 5, "metrics": {"val/accuracy": 0.5}}
        (place / trials.RESULT).write_text(json.dumps(result))
    found = table.rows(tmp_path, fakes.SWEEP)
    assert table.counts(found) == "1000 done"
