"""The harness of scripts/chaos.py: it must be able to say that something is wrong."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from chaos_scenarios import (
    SCENARIOS,
    bad_data,
    bad_images,
    compare,
    core,
    damage,
    restore_worker,
    runs,
    soak,
    term,
)
from chaos_scenarios.store import Store

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "chaos.py"
ENVIRONMENT = {name: os.environ[name] for name in os.environ if name != "XLA_FLAGS"}


def chaos(*arguments):
    """Runs the script; its exit code and output."""
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=280,
        env=ENVIRONMENT,
    )
    return done.returncode, done.stdout + done.stderr


def arrays():
    return {
        "params": np.arange(6, dtype=np.float32).reshape(2, 3),
        "step": np.int32(4),
    }


def test_every_measure_has_its_scenario():
    assert set(SCENARIOS) == {
        *("kill9", "term", "flip", "truncate", "race", "diskfull", "nan", "stuck"),
        *("peer-death", "elastic", "soak", "data"),
    }
    for name, scenario in SCENARIOS.items():
        assert scenario.name == name
        assert 1 <= scenario.short <= scenario.count


def test_arrays_are_compared_bit_for_bit():
    assert compare.array_differences(arrays(), arrays()) == []
    changed = arrays()
    changed["params"].view(np.uint32)[1, 2] ^= 1
    assert compare.array_differences(changed, arrays()) == ["params"]
    negative = arrays()
    negative["params"][0, 0] = -0.0  # equal as a number
    assert compare.array_differences(negative, arrays()) == ["params"]
    assert compare.array_differences(arrays() | {"step": np.int64(4)}, arrays()) == [
        "step"
    ]
    missing = arrays()
    del missing["step"]
    assert compare.array_differences(missing, arrays()) == ["step"]


def test_logged_rows_are_compared_without_timings(tmp_path):
    rows = [
        {"step": 1, "train/loss": 2.0, "train/img_per_sec": 7.0, "goodput/step": 0.4},
        {"step": 1, "goodput/step": 0.4},
        {"step": 2, "train/loss": 1.5, "data/example_ids": 9.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read = compare.read_rows(tmp_path)
    assert read == [{"step": 1, "train/loss": 2.0}, rows[2]]
    assert compare.example_checksums(tmp_path) == {2: 9.0}
    other = [{"step": 1, "train/loss": 2.0}, rows[2] | {"train/loss": 1.25}]
    assert compare.row_differences(read, read) == []
    assert compare.row_differences(read, other) == ["step 2, train/loss: 1.5 not 1.25"]
    assert compare.row_differences([*read, rows[2]], read)  # a row twice


def test_what_is_not_finite_is_named():
    found = compare.not_finite(
        {"a": np.array([1.0, np.nan]), "b": np.array([1, 2]), "c": np.array([np.inf])}
    )
    assert found == ["a", "c"]


def test_a_restore_is_judged_by_what_was_saved():
    truth = {step: {"['a']": np.full(3, step, np.float32)} for step in (5, 10)}

    def found(step, value, accuracy=None):
        evaluations = restore_worker.evaluations_of(step)
        if accuracy is not None:
            evaluations["val/accuracy"] = accuracy
        return step, {"a": np.full(3, value, np.float32)}, evaluations

    kind = lambda given: restore_worker.judge(given, truth)["kind"]  # noqa: E731
    assert kind(found(10, 10)) == "right newest"
    assert kind(found(5, 5)) == "fell back"
    assert kind(found(10, 5)) == "SILENTLY WRONG"
    assert kind(found(5, 5, accuracy=0.9)) == "SILENTLY WRONG"
    assert kind(found(7, 7)) == "SILENTLY WRONG"
    assert kind(None) == "nothing restored"
    assert {"right newest", "fell back"} == damage.GOOD


def scenario(trial, prepare=lambda context, home: None, **changes):
    return core.Scenario(
        name="some",
        what="",
        bar="",
        count=4,
        short=2,
        prepare=prepare,
        trial=trial,
        **changes,
    )


def outcomes_of(tmp_path, tested, indices=range(4), deadline=float("inf")):
    found = {}
    core.run_trials(
        tested,
        core.Context(tmp_path, ()),
        indices,
        seed=3,
        jobs=2,
        deadline=deadline,
        done=found.__setitem__,
    )
    return found


def test_a_trial_that_breaks_is_a_trial_that_failed(tmp_path):
    def trial(context, shared, folder, index, rng):
        assert folder.is_dir()
        if index == 1:
            raise ValueError("odd")
        if index == 2:
            raise core.HangError("for ever")
        return core.Outcome("fine", True)

    found = outcomes_of(tmp_path, scenario(trial))
    assert [found[index].kind for index in range(4)] == [
        "fine",
        "error",
        "hang",
        "fine",
    ]
    assert "ValueError: odd" in found[1].detail
    assert not core.passed(scenario(trial), list(found.values()))
    assert core.passed(scenario(trial), [found[0], found[3]])
    assert not core.passed(scenario(trial), [])
    assert core.counted(list(found.values())) == "fine 2, error 1, hang 1"
    # What failed can be looked at; what did not is gone.
    left = sorted(path.name for path in (tmp_path / "some").iterdir())
    assert left == ["3-1", "3-2"]


def test_trials_are_repeatable_and_stop_at_the_deadline(tmp_path):
    def trial(context, shared, folder, index, rng):
        return core.Outcome(str(rng.integers(10**9)), True)

    first = outcomes_of(tmp_path, scenario(trial))
    alone = outcomes_of(tmp_path, scenario(trial), indices=[2])
    assert alone[2] == first[2]
    assert len({outcome.kind for outcome in first.values()}) == 4
    assert outcomes_of(tmp_path, scenario(trial), deadline=0.0) == {}


def test_what_cannot_be_prepared_is_told(tmp_path):
    def prepare(context, home):
        raise AssertionError("two uninterrupted runs differ")

    with pytest.raises(core.PrepareError, match="two uninterrupted runs differ"):
        outcomes_of(tmp_path, scenario(lambda *_: None, prepare=prepare))


def test_the_store_adds_up_over_several_runs(tmp_path):
    path = tmp_path / "chaos.json"
    record = core.Record(0, 7, "abc", core.Outcome("fine", True, figures={"s": 1.5}))
    Store(path, resume=False).add("flip", record)
    again = Store(path, resume=True)
    assert again.records("flip") == [record]
    again.add("flip", core.Record(0, 8, "abd", core.Outcome("bad", False, "why")))
    again.add("flip", core.Record(0, 7, "abd", core.Outcome("fine", True)))
    kept = Store(path, resume=True).records("flip")
    assert [(row.trial, row.commit) for row in kept] == [(8, "abd"), (7, "abd")]
    assert Store(path, resume=False).records("flip") == []
    assert "jax" in json.loads(path.read_text())["versions"]


def test_slow_exits_fail_the_bar_on_time():
    outcomes = [core.Outcome("", True, figures={"seconds": s}) for s in range(1, 11)]
    assert "p95" in term.complain(outcomes)
    assert term.complain(outcomes[:4]) == ""


def test_growth_is_noticed():
    steps = np.arange(0, 1000, 5.0)
    flat = np.stack([steps, *(np.full(len(steps), v) for v in (500.0, 30, 20))], axis=1)
    assert soak.judge(flat, 1000, "soak").good
    for column, slope in ((1, 0.05), (2, 0.02), (3, 0.02)):
        leaks = flat.copy()
        leaks[:, column] += slope * steps
        assert not soak.judge(leaks, 1000, "soak").good
    assert not soak.judge(flat[:3], 1000, "soak").good


def read_of(**changes):
    answer = {"lost": [], "intact": True, "repeated": True, "stop": "", "kind": "read"}
    return answer | changes


def test_losing_too_much_or_too_little_is_noticed():
    def problems(must, may, **changes):
        return bad_data.judge(read_of(**changes), set(must), set(may))

    lost = ["a.png"]
    assert problems(["a.png"], [], lost=lost, stop="/x/a.png: is empty") == []
    assert problems([], ["b.png"]) == []
    assert "damaged but taken" in problems(["a.png"], [])[0]
    assert "lost without damage" in problems([], [], lost=lost, stop="a.png")[0]
    assert "did not stop" in problems(["a.png"], [], lost=lost)[0]
    assert "names none" in problems(["a.png"], [], lost=lost, stop="a file")[0]
    assert problems([], [], intact=False) == ["healthy examples have changed"]
    assert problems([], [], repeated=False) == ["a second reading differs"]


def test_certain_damage_is_damage():
    """Judged by PIL, which takes no part in the reading under test."""
    import io

    from PIL import Image

    rng = np.random.default_rng(0)
    for format in ("jpeg", "png"):
        content = bad_images.image_bytes(rng, format)
        Image.open(io.BytesIO(content)).load()
        for kind in ("cut", "empty", "text", "noise"):
            broken = bad_images.IMAGE_DAMAGES[kind].apply(content, rng)
            with pytest.raises((OSError, SyntaxError)):
                Image.open(io.BytesIO(broken)).load()


def test_steps_are_read_from_the_output():
    assert runs.steps_shown("") == 0
    text = "vit-jax\nstep 9/1,200  loss 2\nstep 1,011/1,200  loss 1\nstep size 3\n"
    assert runs.steps_shown(text) == 1011


@pytest.mark.slow  # chaos --short flips bits too
def test_flips_are_found_out_here_and_missed_by_a_reader_without_digests(tmp_path):
    """The same trials, those by size: nearly all of them hit the arrays."""
    ours = tmp_path / "ours.json"
    code, said = chaos("flip", "--count=8", f"--store={ours}")
    assert code == 0, said
    assert said.splitlines()[-1].startswith("PASSED: 1 scenarios")
    code, said = chaos("flip", "--count=8", "--peer=orbax")
    assert code == 0, said
    assert "SILENTLY WRONG" in said
    assert said.splitlines()[-1].startswith("COMPARED")
    code, said = chaos("flip", "--count=8", "--resume", f"--store={ours}")
    assert code == 0 and "| 8 | 0 |" in said  # nothing was left to run


def test_a_failing_scenario_fails_the_script(tmp_path):
    store = Store(tmp_path / "s.json", resume=False)
    store.add("flip", core.Record(0, 0, "a", core.Outcome("SILENTLY WRONG", False)))
    code, said = chaos("flip", "--count=1", "--resume", f"--store={tmp_path}/s.json")
    assert code == 1
    assert said.splitlines()[-1].startswith("FAILED: flip")


def test_wrong_arguments_are_explained():
    for arguments, text in (
        (["kill8"], "no scenario 'kill8'"),
        (["kill9", "--peer=orbax"], "flip and truncate only"),
    ):
        code, said = chaos(*arguments)
        assert code == 2 and text in said
