"""scripts/launch_*.sh: variables and the command, nothing of their own."""

import subprocess

import pytest

from tests import training
from tests.launch import cases

SCRIPTS = sorted((training.ROOT / "scripts").glob("launch_*.sh"))
GIVEN = {
    "WORKDIR": "gs://bucket/run",
    "DATA_DIR": "gs://bucket/tfds",
    "ZONE": "us-central2-b",
}


def call(script, environ, *arguments):
    return subprocess.run(
        [script, *arguments],
        env={"PATH": "/usr/bin:/bin", "VIT_JAX": "echo"} | environ,
        capture_output=True,
        text=True,
    )


def test_there_is_one_for_each_target():
    names = {path.stem.removeprefix("launch_").replace("_", "-") for path in SCRIPTS}
    assert names == {target for target, _ in cases.CASES}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_they_call_the_command(script):
    target = script.stem.removeprefix("launch_").replace("_", "-")
    done = call(script, GIVEN | {"TOPOLOGY": "v5p-128"}, "--spot", "--name=a b")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        f"launch {target} --config=configs/vit_s16_i1k.py --topology=v5p-128 "
        "--workdir=gs://bucket/run "
    )
    assert done.stdout.endswith(" --spot --name=a b\n")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_they_say_what_is_missing(script):
    done = call(script, {})
    assert done.returncode != 0
    assert "WORKDIR: " in done.stderr
    assert not done.stdout
