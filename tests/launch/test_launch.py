"""The verb: what it writes, what it says, and what it refuses without writing."""

import os
import pathlib
import shutil
import subprocess

import pytest

from tests import training
from tests.launch import cases
from vit_jax import cli
from vit_jax.launch import code, launch, values, yaml_text
from vit_jax.launch.job import Code, LaunchError

TINY = [f"--config.{change}" for change in training.TINY]


PLANNED = ("batch", "slices", "memory")  # cases that the planner refuses


@pytest.fixture
def unplanned(monkeypatch):
    """For what is not about the plan, which takes a second."""
    monkeypatch.setattr(launch, "plan_line", lambda *config, force: "fits: all")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def wheel(tmp_path):
    return cases.wheel(tmp_path)


def call(capsys, *arguments):
    try:
        result = cli.main(["launch", *map(str, arguments)])
    except SystemExit as end:
        result = end.code
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return result, said.out, said.err


def common(wheel, topology="v5e-4", config="configs/digits.py"):
    return [
        f"--config={config}",
        f"--topology={topology}",
        f"--code={wheel}",
        *TINY,
    ]


REFUSED = {
    "hosts": (
        ["gke", "--topology=v5e-16", "--hosts=2"],
        "--hosts=2, but v5e:4x4 (v5e-16) has 16 chips on 4 hosts of 4",
    ),
    "chips": (
        ["gke", "--topology=v5p-128", "--chips=128"],
        "--chips=128, but v5p:4x4x4 (v5p-128) has 64 chips on 16 hosts of 4",
    ),
    "topology": (["gke", "--topology=v5e-48"], "topology 'v5e-48' does not exist"),
    "batch": (
        ["gke", "--config.train.batch_size=10"],
        "train.batch_size 10 is not divisible by",
    ),
    "slices": (["gke", "--slices=2"], "set --config.mesh.slices=2"),
    "slurm's nodes": (
        ["slurm", "--topology=h100:2x8", "--extra=--nodes=4", "--workdir=run"],
        "job.sh asks for 32 chips on 4 hosts, but h100:2x8 has 16 on 2",
    ),
    "a TPU in Slurm": (["slurm"], "TPU v5e is not rented by Slurm"),
    "no zone": (["tpu-vm"], "needs --zone=ZONE"),
    "another's option": (["gke", "--zone=x"], "--zone is of tpu-vm; gke has no such"),
    "nobody's command": (["gke", "--extra=--x"], "gke has no command to give it to"),
    "extra": (["tpu-vm", "--extra=x"], "'x' is not --OPTION=VALUE of queued-res"),
    "a path": (["gke", "--workdir=runs/x"], "takes its disk with it; give a bucket"),
    "another store": (["gke", "--workdir=s3://b/x"], "file system or gs://BUCKET"),
    "a bucket alone": (["gke", "--workdir=gs://"], "file system or gs://BUCKET"),
    "a secret's value": (["gke", "--secret=A=hunter2"], "--secret=A=... has a value"),
    "a secret in env": (["gke", "--env=MY_TOKEN=hunter2"], "use --secret=MY_TOKEN"),
    "a secret's name": (["gke", "--secret=a b"], "'a b' is not the name of a var"),
    "env": (["gke", "--env=A"], "--env='A' is not NAME=VALUE"),
    "name": (["gke", "--name=Me_too"], "--name='Me_too' must be lower-case"),
    "retries": (["gke", "--retries=-1"], "--retries=-1 must not be negative"),
    "no code": (["gke", "--code=latest"], "--code='latest' is none of: wheel"),
    "no wheel": (["gke", "--code=no.whl"], "no.whl: there is no such file"),
    "a branch": (["gke", "--code=git+https://h/o/r"], "needs https://, ssh:// or"),
    "a token": (["gke", "--code=git+https://hunter2@h/r@1"], "password or token"),
    "config": (["gke", "--config=none.py"], "no config file 'none.py' here"),
    "key": (["gke", "--config.optim.rate=1"], "unknown key 'optim.rate'"),
    "no tool": (["gke", "--submit"], "--submit needs kubectl, which is not on PATH"),
    "memory": (
        ["gke", "--config.model.variant=e/14", "--config.model.image_size=224"],
        "does not fit v5e:2x2: ",
    ),
    "blanks": (
        ["slurm", "--topology=h100:1x8", "--output=a b"],
        "sbatch takes no blanks",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_and_nothing_written(
    case, capsys, place, wheel, monkeypatch
):
    if case not in PLANNED:
        monkeypatch.setattr(launch, "plan_line", lambda *config, force: "fits: all")
    monkeypatch.setenv("PATH", str(pathlib.Path(shutil.which("bash")).parent))
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    arguments, message = REFUSED[case]
    if case == "memory":  # TINY has sizes of its own
        arguments = [*arguments, "--config.model.width=1792", "--config.model.depth=56"]
    result, out, err = call(
        capsys,
        arguments[0],
        "--workdir=gs://bucket/run",
        *common(wheel),
        *arguments[1:],
    )
    assert result == 2
    assert message in err
    assert err.count("\n") == 1 and err.startswith("vit-jax: ")
    assert "hunter2" not in err
    assert not out
    assert not list(place.iterdir())


def test_a_job_in_gke(capsys, place, wheel):
    result, out, err = call(
        capsys,
        "gke",
        "--workdir=gs://bucket/run",
        *common(wheel),
        "--env=TFDS_DATA_DIR=gs://bucket/tfds",
        "--hosts=1",
        "--chips=4",
        "--queue=none",
        "--namespace=team",
        "--service_account=trainer",
    )
    assert result == 0, err
    folder = place / "launch" / "digits"
    assert {path.name for path in folder.iterdir()} == {"jobset.yaml", "code.yaml"}
    (jobset,) = yaml_text.load((folder / "jobset.yaml").read_text())
    assert jobset["metadata"]["namespace"] == "team"
    assert "labels" not in jobset["metadata"]
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "trainer"
    script = pod["containers"][0]["command"][-1]
    assert "--config=configs/digits.py --workdir=gs://bucket/run" in script
    assert " ".join(TINY) in script
    lines = out.splitlines()
    assert lines[0] == "digits: v5e:2x2 (1 x v5e-4): 4 chips, 1 hosts of 4"
    assert lines[1].startswith("  fits: 0.")
    assert f"kubectl apply --server-side --filename={folder}/code.yaml" in lines[-1]


def test_what_is_there_is_written_again_and_logs_stay(capsys, place, wheel, unplanned):
    folder = place / "out"
    arguments = ["slurm", "--workdir=run", f"--output={folder}"]
    arguments += common(wheel, "h100:1x4")
    assert call(capsys, *arguments)[0] == 0
    (folder / "log-1.txt").write_text("a log")
    (folder / "job.sh").write_text("old")
    assert call(capsys, *arguments, "--time=1:00:00")[0] == 0
    script = (folder / "job.sh").read_text()
    assert "#SBATCH --time=1:00:00\n" in script
    assert f"--workdir={place}/run " in script
    assert {path.name for path in folder.iterdir()} == {
        *("job.sh", "log-1.txt", wheel.name)
    }


def test_a_config_of_ones_own_is_shipped(capsys, place, wheel, unplanned):
    mine = place / "mine.py"
    mine.write_text(
        "from configs import digits\n\n\ndef get_config(arg='mu/2'):\n"
        "    return digits.get_config(arg)\n"
    )
    arguments = ["slurm", "--workdir=run", "--output=out"]
    result, _, err = call(
        capsys, *arguments, *common(wheel, "h100:1x4", f"{mine}:mu/4")
    )
    assert result == 0, err
    assert (place / "out" / "config.py").read_text() == mine.read_text()
    script = (place / "out" / "job.sh").read_text()
    assert f"--config={place}/out/config.py:mu/4 " in script


def test_a_config_of_the_package_is_named_as_the_target_has_it(
    capsys, place, wheel, unplanned
):
    given = f"{training.ROOT}/configs/digits.py:mu/4"
    result, _, err = call(
        capsys, "slurm", "--workdir=run", *common(wheel, "h100:1x4", given)
    )
    assert result == 0, err
    folder = place / "launch" / "digits-mu-4"
    assert {path.name for path in folder.iterdir()} == {"job.sh", wheel.name}
    assert "--config=configs/digits.py:mu/4 " in (folder / "job.sh").read_text()


def test_a_config_that_needs_its_neighbours_is_refused(
    capsys, tmp_path, wheel, unplanned
):
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "ours.py").write_text("WIDTH = 16\n")
    mine = configs / "mine.py"
    mine.write_text(
        "from configs import digits, ours\n\n\ndef get_config():\n"
        "    config = digits.get_config()\n    config.model.width = ours.WIDTH\n"
        "    return config\n"
    )
    result, _, err = call(
        capsys,
        "slurm",
        "--workdir=run",
        f"--output={tmp_path}/out",
        *common(wheel, "h100:1x4", mine),
    )
    assert result == 2
    assert "is shipped as one file" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def tool(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def test_submit_has_the_tool_check_and_take_it(
    capsys, place, wheel, monkeypatch, unplanned
):
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    tool(place, "kubectl", f'echo "$*" >> {place}/calls; [ ! -e {place}/no ]')
    arguments = ["gke", "--workdir=gs://bucket/run", "--output=out", "--submit"]
    arguments += common(wheel)
    result, out, err = call(capsys, *arguments)
    assert result == 0, err
    checked, applied = (place / "calls").read_text().splitlines()
    assert checked.startswith("apply --server-side --dry-run=server --filename=")
    assert f"{place}/out" not in checked  # nothing was there yet
    assert applied == (
        f"apply --server-side --filename={place}/out/code.yaml "
        f"--filename={place}/out/jobset.yaml"
    )
    assert "next:" not in out
    shutil.rmtree(place / "out")
    (place / "no").touch()
    result, _, err = call(capsys, *arguments)
    assert result == 2
    assert "kubectl apply refuses it: no reason given" in err
    assert not (place / "out").exists()


def test_a_tool_that_fails_is_told(capsys, place, wheel, monkeypatch, unplanned):
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    tool(place, "sbatch", '[ "$1" = --test-only ] || exit 7')
    arguments = ["slurm", "--workdir=run", "--submit", "--secret=WANDB_API_KEY"]
    arguments += common(wheel, "h100:1x4")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    result, _, err = call(capsys, *arguments)
    assert result == 2
    assert "sbatch takes it from here, where it is not set" in err
    monkeypatch.setenv("WANDB_API_KEY", "hunter2")
    result, _, err = call(capsys, *arguments)
    assert result == 1
    assert err == "vit-jax: sbatch ended with code 7\n"
    assert "hunter2" not in (place / "launch" / "digits" / "job.sh").read_text()


def test_with_force_what_does_not_fit_is_rendered(monkeypatch):
    from vit_jax import config
    from vit_jax.plan.topology import parse

    sizes = ["--config.model.width=1792", "--config.model.depth=56"]
    loaded = config.load("configs/digits.py", [*TINY, *sizes])
    said = launch.plan_line(loaded, parse("v5e-4"), force=True)
    assert said.startswith("does not fit (")


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("configs/vit_i21k.py:L/16", "vit-i21k-l-16"),
        ("configs/digits.py", "digits"),
        ("my/21k.py:g-opt/14", "run-21k-g-opt-14"),
        (f"{'long_' * 20}.py:B/16", "long-long-long-long-long-long-long-long"),
    ],
)
def test_names_come_from_configs(config, name):
    assert values.name(None, config) == name


def test_notes_on_what_must_be_there():
    from vit_jax import config

    def notes(*changes, env=None, shared=False):
        flags = [f"--config.{change}" for change in changes]
        loaded = config.load("configs/vit_s16_i1k.py", flags)
        return launch.notes(loaded, env=env or {}, shared=shared)

    (said,) = notes()
    assert "set imagenet2012 is looked for in each host's home" in said
    assert not notes("data.dir=gs://b/tfds")
    assert not notes(env={"TFDS_DATA_DIR": "gs://b/tfds"})
    assert not notes(shared=True)
    assert notes("data.dir=/data") == (
        "data directory /data must be there, on every host",
    )
    assert not notes("data.name=arrays:digits")
    (said,) = notes("data.name=folder:/photos")
    assert said == "data folder:/photos must be there, on every host"
    said = notes("data.dir=gs://b/t", "model.init_from=B_16.npz")
    assert said == ("model.init_from B_16.npz must be there, on every host",)


def test_requirements(tmp_path):
    wheel = cases.wheel(tmp_path)
    shipped = Code("", wheel, "")
    assert shipped.requirement(["tpu"], "/code") == f"/code/{wheel.name}[tpu]"
    source = "git+https://h/o/r@0123abc"
    assert code.resolve(source, tmp_path).requirement(["cuda", "gcs"], "/x") == (
        f"vit-jax[cuda,gcs] @ {source}"
    )
    assert code.resolve("0.1.0", tmp_path).requirement(["tpu"], "/x") == (
        "vit-jax[tpu]==0.1.0"
    )
    digests = {shipped.digest, code.resolve(source, tmp_path).digest}
    wheel.write_bytes(b"another")
    assert len(digests | {shipped.digest}) == 3


def test_without_a_checkout_a_revision_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(code, "checkout", lambda: None)
    with pytest.raises(LaunchError, match=r"is installed; give one of: .* git\+URL"):
        code.resolve("wheel", tmp_path)


@pytest.mark.slow
def test_a_wheel_of_this_checkout(tmp_path):
    built = code.resolve("wheel", tmp_path)
    assert built.wheel.stat().st_size > 100_000
    assert built.origin.startswith("wheel of this checkout, revision ")
    # It has what launch itself needs.
    listed = subprocess.run(
        ["python3", "-m", "zipfile", "-l", built.wheel], capture_output=True, text=True
    )
    for name in ("install.sh", "slurm.sh", "tpu_vm.sh", "tpu_worker.sh"):
        assert f"vit_jax/launch/templates/{name}" in listed.stdout


def test_help_names_every_target(capsys):
    result, out, _ = call(capsys, "--help")
    assert result == 0
    for word in ("tpu-vm", "gke", "slurm", "skypilot", "--secret_name", "--gres"):
        assert word in out
