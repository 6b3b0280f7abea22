"""The files beside checkpoints: what a resume may change, which examples were bad."""

import json

import pytest
from etils import epath

from tests import training
from vit_jax.config import ConfigError
from vit_jax.data import folder as folders
from vit_jax.data.facts import DatasetFacts
from vit_jax.data.rows import BadExample
from vit_jax.run_files import BadExampleLog, save_config


def facts(**changes):
    fields = dict(
        name="arrays:x",
        path="x",
        version="",
        file_format="arrays",
        splits={"train": 10},
        shards={},
        num_classes=2,
        class_names=("a", "b"),
        features=("image", "label"),
    )
    return DatasetFacts(**fields | changes)


def save(workdir, *changes, data=None, **settings):
    said = []
    config = training.tiny_config("data.name=arrays:digits", *changes)
    folder = epath.Path(workdir)
    save_config(config, folder, data or facts(), say=said.append, **settings)
    return said


def saved(workdir):
    return json.loads((workdir / "config.json").read_text())


def test_a_new_run_writes_the_config_the_data_and_the_classes(tmp_path):
    assert save(tmp_path / "run") == []
    assert saved(tmp_path / "run")["config"]["model"]["width"] == 16
    assert saved(tmp_path / "run")["data"]["splits"] == {"train": 10}
    assert (tmp_path / "run" / "classes.txt").read_text() == "a\nb\n"


def test_a_safe_change_passes_and_is_said(tmp_path):
    save(tmp_path)
    (said,) = save(tmp_path, "log.every.steps=3", "train.watchdog.seconds=5.0")
    assert "log.every.steps: 1 -> 3" in said
    assert "train.watchdog.seconds: 60.0 -> 5.0" in said
    assert saved(tmp_path)["config"]["log"]["every"]["steps"] == 3
    assert save(tmp_path, "log.every.steps=3", "train.watchdog.seconds=5.0") == []


def test_another_run_is_refused_unless_insisted_on(tmp_path):
    save(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ConfigError) as raised:
        save(tmp_path, "optim.learning_rate=0.5", "log.every.steps=3")
    assert "optim.learning_rate: 0.002 -> 0.5" in str(raised.value)
    assert "log.every" not in str(raised.value)
    assert "--allow_config_change" in str(raised.value)
    assert (tmp_path / "config.json").read_bytes() == before
    (said,) = save(tmp_path, "optim.learning_rate=0.5", allow_change=True)
    assert "optim.learning_rate: 0.002 -> 0.5" in said
    assert saved(tmp_path)["config"]["optim"]["learning_rate"] == 0.5


def test_other_data_under_the_same_name_are_another_run(tmp_path):
    save(tmp_path)
    with pytest.raises(ConfigError, match=r"data set itself: splits\.train: 10 -> 11"):
        save(tmp_path, data=facts(splits={"train": 11}))
    with pytest.raises(ConfigError, match=r"data set itself: version"):
        save(tmp_path, data=facts(version="2.0.0"))


def test_a_renamed_file_changes_the_fingerprint_of_a_folder(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    before = folders.describe(str(tmp_path)).fingerprint
    assert before and folders.describe(str(tmp_path)).fingerprint == before
    (tmp_path / "a/2.png").rename(tmp_path / "a/3.png")
    assert folders.describe(str(tmp_path)).fingerprint != before


def test_other_processes_only_check(tmp_path):
    save(tmp_path / "run", write=False)
    assert not (tmp_path / "run").exists()


def bad(id, position):
    return BadExample(id, f"x.npz, record {id}", "cut short", position)


def listed(folder, process=""):
    text = (folder / f"bad_examples{process}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_bad_examples_are_listed_once_over_restarts(tmp_path):
    folder = epath.Path(tmp_path)
    log = BadExampleLog(folder, 0)
    assert log.write([]) == 0 and not list(tmp_path.iterdir())
    assert log.write([bad(3, 10), bad(5, 40)]) == 2
    assert log.write([bad(7, 2)], evaluation="val") == 1
    again = BadExampleLog(folder, 0, before=32)  # where a checkpoint was
    assert again.training == [bad(3, 10)]
    assert again.write([bad(5, 40), bad(9, 50)]) == 2
    assert again.write([bad(7, 2)], evaluation="val") == 0
    assert [row["id"] for row in listed(tmp_path)] == [3, 7, 5, 9]
    assert [row.get("evaluation") for row in listed(tmp_path)] == [
        None,
        "val",
        None,
        None,
    ]
    BadExampleLog(folder, 2).write([bad(3, 10)])
    assert len(listed(tmp_path, "-2")) == 1
