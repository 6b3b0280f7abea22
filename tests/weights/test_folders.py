import os

import numpy as np
import pytest
import safetensors

from vit_jax.weights import WeightsError
from vit_jax.weights.folders import new_folder, save_json, save_safetensors


def test_a_folder_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "folder"
    with new_folder(path) as folder:
        (folder / "file").write_text("whole")
        assert not path.exists()
    assert (path / "file").read_text() == "whole"
    assert os.listdir(path.parent) == ["folder"]


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "folder") as folder:
        (folder / "file").write_text("half")
        raise RuntimeError
    assert not os.listdir(tmp_path)


def test_what_a_killed_process_left_is_no_part_of_the_next_folder(tmp_path):
    (tmp_path / ".folder.partial").mkdir()
    (tmp_path / ".folder.partial" / "old").write_text("half")
    with new_folder(tmp_path / "folder") as folder:
        (folder / "new").write_text("whole")
    assert os.listdir(tmp_path / "folder") == ["new"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_is_overwritten(kind, tmp_path):
    path = tmp_path / "taken"
    path.mkdir() if kind == "folder" else path.write_text("mine")
    with pytest.raises(WeightsError, match="is there already"), new_folder(path):
        pytest.fail("the folder was handed out")
    assert os.listdir(tmp_path) == ["taken"]


def test_safetensors_are_marked_as_torchs_libraries_want_them(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_safetensors(tmp_path / "model.safetensors", iter([("name", array)]))
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
        np.testing.assert_array_equal(file.get_tensor("name"), array)


def test_json_is_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        save_json(tmp_path / "config.json", {"value": float("nan")})
