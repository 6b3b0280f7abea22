"""The SkyPilot task, and the script that launches it for every trial."""

import os
import subprocess

import pytest
import yaml

from tests.launch import sky_parser
from tests.sweep import rendering
from vit_jax.sweep import skypilot
from vit_jax.sweep.ranges import SweepError


def render(*words, **changes):
    fields = {"parallel": None} | changes
    return skypilot.render(rendering.batch(**fields), rendering.options(*words))


def test_the_task():
    made = render("--accelerators=H100:1", "--image=vit:1", "--spot")
    task = yaml.safe_load(made.files["skypilot.yaml"])
    assert task["resources"] == {
        "accelerators": "H100:1",
        "image_id": "docker:vit:1",
        "use_spot": True,
    }
    assert task["envs"] == {"TRIAL_INDEX": "0"}
    assert task["run"] == (
        "vit-jax sweep run-trial '--workdir=gs://bucket/my sweep' --of=0-2,5 "
        '--index="$TRIAL_INDEX" --retries=3\n'
    )
    for script in (task["run"], task["setup"], made.files["skypilot.sh"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@sky_parser.needs_sky
@pytest.mark.slow
def test_the_task_is_read_by_skypilot(tmp_path):
    task = render("--accelerators=H100:1", "--spot").files["skypilot.yaml"]
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(task)
    bad.write_text(task.replace("envs:", "env:"))
    read, refused = sky_parser.read([good, bad])
    assert read == "1 {'H100': 1} True {'TRIAL_INDEX': '0'}"
    assert refused.startswith("refused Invalid")


def test_the_script_launches_every_trial(tmp_path):
    made = render("--accelerators=H100:1")
    assert made.submit == ["bash", "skypilot.sh"]
    for name, content in made.files.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "bin").mkdir()
    sky = tmp_path / "bin" / "sky"
    sky.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/launched\n')
    sky.chmod(0o755)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    subprocess.run(
        ["bash", tmp_path / "skypilot.sh"], env=os.environ | {"PATH": path}, check=True
    )
    lines = (tmp_path / "launched").read_text().splitlines()
    assert lines == [
        f"jobs launch --yes --detach-run --name sweep-mine-abc123-{index} "
        f"--env TRIAL_INDEX={index} skypilot.yaml"
        for index in range(4)
    ]


def test_what_is_missing():
    with pytest.raises(SweepError, match="needs --accelerators"):
        render()
    with pytest.raises(SweepError, match="as its controller allows"):
        render("--accelerators=H100:1", parallel=2)
    with pytest.raises(SweepError, match="use --workdir=gs://"):
        render("--accelerators=H100:1", workdir="/data")
