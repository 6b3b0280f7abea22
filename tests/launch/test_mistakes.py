"""Options that a target's tool would refuse, or that change what was planned."""

import subprocess

import pytest

from tests.launch import cases
from vit_jax import cli
from vit_jax.launch import slurm
from vit_jax.launch.job import LaunchError

PLACES = {"slurm": "h100:8x8", "skypilot": "h100:8x8"}


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("slurm", {"extra": "--nodes=two"}, "--nodes: 'two' is not a number"),
        ("slurm", {"extra": "--gpus-per-node=h100"}, "'h100' is not a number"),
        ("slurm", {"extra": "--gres=gpu:4"}, r"64 \(--gpus-per-node\) and 32 \(--gres"),
        ("slurm", {"extra": "--gpus=16"}, r"64 \(--gpus-per-node\) and 16 \(--gpus\)"),
        ("slurm", {"extra": "--gpus-per-task=2"}, r"and 16 \(--gpus-per-task\)"),
        ("slurm", {"extra": "--ntasks-per-node=8"}, "the job is one task a host"),
        ("slurm", {"extra": "--array=0-3"}, "the job is one task a host"),
        ("slurm", {"gres": "gpu:h100:8"}, "give the name only, such as gpu:h100"),
        ("slurm", {"time": "soon"}, "--time=soon is not a limit of Slurm"),
        ("tpu-vm", {"extra": "--node-count=two"}, "--node-count=two; does --extra"),
        ("tpu-vm", {"extra": "--topology=4x4"}, "--topology=4x4; does --extra"),
        ("tpu-vm", {"extra": "--accelerator-type=x"}, "--accelerator-type=x; does"),
        ("skypilot", {"extra": "--num-nodes=2"}, "changes what h100:8x8 has"),
        ("skypilot", {"extra": "--gpus=H100:4"}, "changes what h100:8x8 has"),
        ("gke", {"queue": "Our_Queue"}, "--queue=Our_Queue is not a name of Kub"),
        ("gke", {"namespace": "a b"}, "--namespace=a b is not a name"),
        ("gke", {"service_account": "me@project"}, "--service_account=me@project is"),
        ("gke", {"secret_name": "-x"}, "--secret_name=-x is not a name"),
        ("gke", {"image": "a b"}, "--image='a b' has blanks"),
    ],
)
def test_options_that_are_refused(target, options, message, tmp_path):
    options = {**cases.NEEDED.get(target, {}), **options}
    with pytest.raises(LaunchError, match=message):
        cases.render(target, PLACES.get(target, "v5e-16"), tmp_path, options=options)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("slurm", {"gres": "gpu:h100", "extra": "--gres=gpu:h100:8,tmp:1"}),
        ("slurm", {"extra": "--gpus=64\n--comment=mine"}),
        *(
            ("slurm", {"time": time})
            for time in ("90", "12:00:00", "2-12", "UNLIMITED")
        ),
        ("tpu-vm", {"extra": "--node-count=1\n--labels=team=vision"}),
        ("skypilot", {"extra": "--cpus=32+"}),
        ("gke", {"queue": "team-a.tpus", "image": "registry:5000/vit@sha256:0a"}),
    ],
)
def test_options_that_are_taken(target, options, tmp_path):
    options = {**cases.NEEDED.get(target, {}), **options}
    place = PLACES.get(target, "v5e-16")
    made = cases.render(target, place, tmp_path, options=options)
    assert (made.hosts, made.chips) == cases.TABLE[place][:2]


@pytest.mark.parametrize("place", ["h200:2x4", "b200:1x2", "h100:2x6", "a100:1x3"])
def test_gke_has_no_such_machines(place, tmp_path):
    with pytest.raises(LaunchError, match="GPUs a host, and its machines of"):
        cases.render("gke", place, tmp_path)
    assert cases.render("slurm", place, tmp_path).hosts == int(place[5])


def test_gpus_are_counted_however_they_are_asked_for():
    head = "#SBATCH --nodes=2\n#SBATCH --"
    for asked in ("gpus-per-node=h100:4", "gpus=8", "gres=tmp:1,gpu:4", "gres=gpu:a:4"):
        assert slurm.counts(f"{head}{asked}\n") == (2, 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workdir="], "--workdir= is empty"),
        (["--extra=--nodes 4"], "--extra='--nodes 4' is not --OPTION=VALUE of sbatch"),
        (["--extra=--nodes=4\n--x"], "is not --OPTION=VALUE of sbatch"),
    ],
)
def test_words_that_are_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = ["--config=configs/digits.py", "--topology=h100:2x8", "--workdir=run"]
    assert cli.main(["launch", "slurm", *given, *words]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_gcloud_that_never_answers_ends_the_script(tmp_path):
    """No login, no project: it would not get better by waiting."""
    made = cases.render("tpu-vm", "v5e-16", tmp_path)
    (tmp_path / "launch.sh").write_text(made.files["launch.sh"])
    tool = tmp_path / "gcloud"
    tool.write_text("#!/bin/bash\necho ERROR: no project >&2\nexit 1\n")
    tool.chmod(0o755)
    done = subprocess.run(
        ["bash", tmp_path / "launch.sh"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 2
    assert "no project" in done.stderr
    assert "gcloud does not answer, see above" in done.stdout
