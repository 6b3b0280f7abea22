"""Compiled programs are kept for the next run, where that is possible and wanted."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from tests import training
from vit_jax import cli, compilation_cache

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)
PROGRAM = """
import jax
from vit_jax import compilation_cache

hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
compilation_cache.enable(print)
jax.jit(lambda x: x * 2 + 1)(3.0)
print(sum(event == "/jax/compilation_cache/cache_hits" for event in hits))
"""


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """JAX's settings as a user has them, put back afterwards."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def enable():
    said = []
    compilation_cache.enable(said.append)
    return said


def test_a_folder_of_the_users_own(fresh):
    assert enable() == []
    folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
    assert folder == fresh / "vit_jax" / f"compiled-{compilation_cache.cpu()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.1


def test_without_the_variable_it_is_in_the_home(fresh, monkeypatch):
    for value in ("", "relative"):  # which the XDG specification says to ignore
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        monkeypatch.setenv("HOME", str(fresh / "home"))
        folder = compilation_cache.default_folder()
        assert folder.parent == fresh / "home" / ".cache" / "vit_jax"


def test_variables_of_jax_come_first(fresh, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", "/else")  # as from the environment
    assert enable() == []
    assert jax.config.jax_compilation_cache_dir == "/else"
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    assert enable() == []
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_enable_compilation_cache", True)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "5")
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    assert enable() == []
    assert jax.config.jax_persistent_cache_min_compile_time_secs == seconds
    assert list(fresh.iterdir())


def no_home():
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("hindrance", ["file", "read-only", "others", "homeless"])
def test_a_folder_that_cannot_be_used_is_one_line(fresh, monkeypatch, hindrance):
    if hindrance == "file":
        (fresh / "vit_jax").touch()
    if hindrance == "read-only":
        monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    if hindrance == "others":
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    if hindrance == "homeless":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(pathlib.Path, "home", no_home)
    (line,) = enable()
    assert line.startswith("compiled programs are not kept: ") and "\n" not in line
    assert line.endswith("JAX_COMPILATION_CACHE_DIR names another folder")
    assert jax.config.jax_compilation_cache_dir is None


def test_the_next_process_compiles_nothing_again(tmp_path):
    unset = ("JAX_COMPILATION_CACHE_DIR",)
    environment = {k: v for k, v in training.environment().items() if k not in unset}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    hits = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for _ in range(2)
    ]
    assert hits == ["0\n", "1\n"]
    assert list(tmp_path.rglob("*-cache"))


def test_train_turns_it_on(monkeypatch, tmp_path, capsys):
    called = []
    monkeypatch.setattr(compilation_cache, "enable", called.append)
    arguments = (f"--workdir={tmp_path / 'run'}", f"--config.data.dir={tmp_path}")
    assert cli.main(["train", f"--config={training.DIGITS}", *arguments]) == 2
    assert len(called) == 1
    assert "vit-jax:" in capsys.readouterr().err


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    for age, name in enumerate("dbca"):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1000 - age, 2000))
    (tmp_path / "other").write_bytes(b"x" * 1000)
    compilation_cache.prune(tmp_path, 400)
    assert len(list(tmp_path.iterdir())) == 5
    compilation_cache.prune(tmp_path, 250)
    assert {path.name for path in tmp_path.iterdir()} == {"b-cache", "d-cache", "other"}
