"""Every command of the documentation is run here, or its words are checked.

Pages are sessions (pages.py). Quick blocks run among the default tests, those marked
`slow` among the slow ones, and those marked `parse` have their commands parsed and their
configs loaded and checked.
"""

import atexit
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import pytest

from tests.docs import commands, pages
from vit_jax import config as configs

MINUTES = 25  # for a block; the longest trains for three
CONFIG = re.compile(r"(?<![\w/])configs/(\w+)\.py(?::([\w/.,+-]*[\w]))?")
PARTS = {"base", "durations", "evaluators", "objectives", "optimizers"}
WRITTEN = {"squared": "the page about additions writes it"}
# `make` as of a clone whose .venv is this interpreter's; timm in an environment of its
# own is this one, where torch and torchvision may be built for different things.
SHELL = """
set -euo pipefail
make() {{ command make -f {root}/Makefile -o .venv/.installed-python{version} \
  BIN={bin} "$@"; }}
"""
TIMM = """#!/bin/bash
exec {python} -c "
import runpy, sys
from vit_jax.weights import foreign
foreign.import_timm()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')" "$@"
"""


def prepare(folder):
    """What a reader has: the clone's scripts, and timm in an environment of its own."""
    (folder / "scripts").symlink_to(pages.ROOT / "scripts")
    python = folder / "timm-env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(TIMM.format(python=sys.executable))
    python.chmod(0o755)


def run(block, folder):
    """Runs a block as it is written, in the page's directory."""
    binaries = pathlib.Path(sys.executable).parent
    version = "{}.{}".format(*sys.version_info)
    shell = SHELL.format(root=pages.ROOT, version=version, bin=binaries)
    env = os.environ | {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONPATH": str(pages.ROOT),
        "HOME": str(folder),
        "TFDS_DATA_DIR": str(folder / "tensorflow_datasets"),
        "XLA_FLAGS": "",
    }
    done = subprocess.run(
        ["bash", "-c", shell + block.code],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60 * MINUTES,
    )
    assert done.returncode == 0, (
        f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done.stdout


def shell_blocks(name):
    return [block for block in pages.page(name).blocks if block.language == "bash"]


@pytest.mark.parametrize("name", pages.names())
def test_page(name, tmp_path):
    """Runs what is quick, and checks the words of all else in the same place."""
    prepare(tmp_path)
    for block in shell_blocks(name):
        found = commands.commands(block.code)
        assert found, f"{block}: no command"
        if not block.mark:
            run(block, tmp_path)
        for words in found:
            problem = commands.problem(words, tmp_path)
            assert not problem, f"{block}: {' '.join(words)}\n{problem}"


@functools.cache
def session(name):
    """Runs every command of a page: the folder, what each said, and what failed."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="page-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    after = pages.page(name).after
    if not after:
        prepare(folder)
    elif session(after)[2]:
        return folder, {}, f"{after} failed, whose outputs {name} needs"
    else:
        shutil.copytree(session(after)[0], folder, symlinks=True, dirs_exist_ok=True)
    said = {}
    for block in shell_blocks(name):
        if block.mark != "parse":
            try:
                said[block.line] = run(block, folder)
            except AssertionError as error:
                return folder, said, str(error)
    return folder, said, ""


def slow_pages():
    """Those whose commands are not all run above."""
    return [n for n in pages.names() if any(b.mark == "slow" for b in shell_blocks(n))]


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_pages())
def test_session(name):
    _, said, problem = session(name)
    assert not problem
    assert said


@pytest.mark.slow
def test_timm_answers_as_the_run_does():
    """The digit of the README, by `vit-jax predict` and by timm from the export."""
    _, outputs, problem = session("README.md")
    assert not problem
    said = "\n".join(outputs.values())
    ours = re.search(r"digit\.png\s+([\d.]+)%\s+(\d)", said)
    theirs = re.search(r"^(\d)  ([\d.]+)%$", said, re.M)
    assert ours and theirs, said
    assert (ours[2], ours[1]) == theirs.groups()
    assert theirs[1] == "7"
    assert "checked with timm" in said


@pytest.mark.parametrize(
    "name",
    [*pages.names(), "CHANGELOG.md", "docs/notebooks/digits.ipynb"],
)
def test_configs_that_are_named_exist(name):
    for stem, arg in CONFIG.findall((pages.ROOT / name).read_text()):
        if stem in WRITTEN:
            continue
        assert (pages.ROOT / "configs" / f"{stem}.py").is_file(), f"{name}: {stem}"
        if stem not in PARTS:
            spec = f"configs/{stem}.py" + (f":{arg}" if arg else "")
            configs.load(spec)


@pytest.mark.parametrize("block", pages.blocks("python"), ids=str)
def test_python_parses(block):
    code = block.code
    if block.text in ("size", "data set entry"):  # a line of a dict
        code = "{" + code + "}"
    compile(code, str(block), "exec")


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("from_big_vision", "configs/vit_s16_i1k.py"),
        ("from_timm", "configs/deit_i1k.py:S/16"),
    ],
)
def test_converted_configs_are_the_recipes(name, recipe, tmp_path):
    """Field for field, as the guides say."""
    (block,) = (b for b in shell_blocks(f"docs/guides/{name}.md") if "cat >" in b.code)
    code = block.code.split("<<'END'\n")[1].split("\nEND\n")[0]
    file = tmp_path / "configs" / "converted.py"
    file.parent.mkdir()
    file.write_text(code)
    converted, ours = configs.load(str(file)), configs.load(recipe)
    assert configs.to_json(converted) == configs.to_json(ours)
