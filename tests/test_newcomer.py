"""The newcomer's path takes README's commands, as they are there."""

import newcomer
from tests.docs import pages


def test_commands_are_those_of_the_readme():
    found = newcomer.blocks((pages.ROOT / "README.md").read_text())
    assert [block.split()[0] for block in found] == [
        *("make", "source", "python", "python3", "cat")
    ]
    assert found[0] == "make train\n"
    assert found[1] == "source .venv/bin/activate\n"
    whole = [block.code for block in pages.page("README.md").blocks]
    assert found[2] in whole and found[3] in whole and found[4] in whole


def test_the_environment_has_nothing_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "here")
    env = newcomer.clean(tmp_path)
    assert "PYTHONPATH" not in env
    assert env["TFDS_DATA_DIR"].startswith(str(tmp_path))
