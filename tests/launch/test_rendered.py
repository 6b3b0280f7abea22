"""What is rendered: golden files, counts against the table, who a process is."""

import base64
import math
import re
import shutil
import subprocess

import pytest

from tests.launch import cases
from vit_jax.cluster import resolve
from vit_jax.launch import checks, gke, skypilot, slurm, yaml_text
from vit_jax.launch.job import LaunchError
from vit_jax.plan import topology

NOTHING = (None, None, None)
SIZES = {"v5litepod": 1, "v5p": 2, "v6e": 1}  # counted, a chip


@pytest.mark.parametrize(("target", "place"), cases.CASES)
def test_golden(target, place, tmp_path):
    rendered = cases.render(target, place, tmp_path)
    for name, text in cases.filled_in(rendered, tmp_path).items():
        assert text == cases.golden_path(target, place, name).read_text(), name


def test_no_golden_file_is_left_over(tmp_path):
    used = {
        cases.golden_path(target, place, name).name
        for target, place in cases.CASES
        for name in cases.render(target, place, tmp_path).files
    }
    assert used == {path.name for path in cases.GOLDEN.iterdir()}


@pytest.mark.parametrize(("target", "place"), cases.CASES)
def test_counts_are_the_tables(target, place, tmp_path):
    hosts, chips, per_host = cases.TABLE[place]
    job = cases.job(target, place, tmp_path)
    rendered = cases.render(target, place, tmp_path)
    assert (rendered.hosts, rendered.chips) == (hosts, chips)
    checks.agree(job, rendered)
    text = rendered.files[rendered.main]
    if target == "tpu-vm":
        kind, number = re.search(r"--accelerator-type=(\w+)-(\d+)", text).groups()
        slices = int((re.search(r"--node-count=(\d+)", text) or [0, 1])[1])
        assert int(number) * slices == chips * SIZES[kind]
        assert f"\nHOSTS={hosts}\n" in text
    elif target == "gke":
        (jobset,) = yaml_text.load(text)
        (part,) = jobset["spec"]["replicatedJobs"]
        inside = part["template"]["spec"]
        pod = inside["template"]["spec"]
        assert part["replicas"] * inside["completions"] == hosts
        (limit,) = pod["containers"][0]["resources"]["limits"].values()
        assert limit == per_host
        selector = pod["nodeSelector"]
        if shape := selector.get("cloud.google.com/gke-tpu-topology"):
            sides = [int(side) for side in shape.split("x")]
            assert math.prod(sides) * part["replicas"] == chips
        machine = selector["node.kubernetes.io/instance-type"]
        assert re.search(r"-(\d+)[tg]$", machine)[1] == str(per_host)
    elif target == "slurm":
        assert f"#SBATCH --nodes={hosts}\n" in text
        assert f"#SBATCH --gpus-per-node={per_host}\n" in text
    elif place == "h100:8x8":
        assert f"accelerators: H100:{per_host}\n" in text
        assert f"num_nodes: {hosts}\n" in text


@pytest.mark.parametrize(
    ("target", "change"),
    [
        ("tpu-vm", "--node-count=3"),
        ("tpu-vm", "--accelerator-type=v6e-128"),
        ("slurm", "--nodes=4"),
        ("slurm", "--gpus-per-node=4"),
    ],
)
def test_counts_that_are_not_the_tables_are_refused(target, change, tmp_path):
    place = "2*v6e-256" if target == "tpu-vm" else "h100:8x8"
    options = {**cases.NEEDED.get(target, {}), "extra": change}
    job = cases.job(target, place, tmp_path, options=options)
    rendered = cases.render(target, place, tmp_path, options=options)
    with pytest.raises(LaunchError, match=r"asks for .* but .* has 512|64 on 8"):
        checks.agree(job, rendered)


def test_read_back_counts_see_a_change():
    assert slurm.counts("#SBATCH --nodes=2\n#SBATCH --gres=gpu:h100:4\n") == (2, 8)
    task = {"resources": {"accelerators": "tpu-v5p-128:1"}, "num_nodes": 1}
    assert skypilot.counts(task) == (16, 64)
    task = {"resources": {"accelerators": "H100:4"}, "num_nodes": 3}
    assert skypilot.counts(task) == (3, 12)
    container = {"resources": {"limits": {"google.com/tpu": 4}}}
    inside = {"parallelism": 5, "template": {"spec": {"containers": [container]}}}
    part = {"replicas": 2, "template": {"spec": inside}}
    assert gke.counts({"spec": {"replicatedJobs": [part]}}) == (10, 40)


@pytest.mark.parametrize(
    ("target", "place", "message"),
    [
        ("tpu-vm", "h100:8x8", "tpu-vm: .* no H100; use gke, slurm or skypilot"),
        ("tpu-vm", "tpu7x-16", "no TPU7x; use vit-jax launch gke"),
        ("slurm", "v5e-16", "TPU v5e is not rented by Slurm"),
        ("skypilot", "2*v6e-256", "one TPU slice, 2\\*v6e:16x16 has 2"),
        ("skypilot", "tpu7x-16", "skypilot has no TPU7x"),
        ("gke", "2*h100:4x8", "GPUs have no slices, write h100:8x8"),
    ],
)
def test_what_a_target_has_not(target, place, message, tmp_path):
    with pytest.raises(LaunchError, match=message):
        cases.render(target, place, tmp_path)


def test_a_slice_of_another_shape_is_asked_for_by_its_shape(tmp_path):
    # 256 chips: 4x8x8 is what v5p-512 stands for.
    text = cases.render("tpu-vm", "v5p:4x4x16", tmp_path).files["launch.sh"]
    assert "--type=v5p --topology=4x4x16" in text
    usual = cases.render("tpu-vm", "v5p:4x8x8", tmp_path).files["launch.sh"]
    assert "--accelerator-type=v5p-512" in usual
    with pytest.raises(LaunchError, match="v5p-512 is v5p:4x8x8, not v5p:4x4x16"):
        cases.render("skypilot", "v5p:4x4x16", tmp_path)


@pytest.mark.parametrize(
    ("place", "machine", "pods"),
    [
        ("v5e-8", "ct5lp-hightpu-8t", 1),  # one host of eight
        ("v5e-4", "ct5lp-hightpu-4t", 1),
        ("v5e-1", "ct5lp-hightpu-1t", 1),
        ("v6e-32", "ct6e-standard-4t", 8),
        ("v4:2x2x2", "ct4p-hightpu-4t", 2),
        ("v5p:2x2x1", "ct5p-hightpu-4t", 1),
        ("tpu7x-16", "tpu7x-standard-4t", 2),
        ("h100:2x8", "a3-highgpu-8g", 2),
        ("h200:2x8", "a3-ultragpu-8g", 2),
        ("b200:1x8", "a4-highgpu-8g", 1),
        ("a100:1x8", "a2-ultragpu-8g", 1),
    ],
)
def test_machines_of_gke(place, machine, pods, tmp_path):
    (jobset,) = yaml_text.load(
        cases.render("gke", place, tmp_path).files["jobset.yaml"]
    )
    inside = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    selector = inside["template"]["spec"]["nodeSelector"]
    assert selector["node.kubernetes.io/instance-type"] == machine
    assert inside["parallelism"] == pods


def test_pods_of_gpus_find_their_place(tmp_path):
    text = cases.render("gke", "h100:8x8", tmp_path).files["jobset.yaml"]
    (jobset,) = yaml_text.load(text)
    (part,) = jobset["spec"]["replicatedJobs"]
    container = part["template"]["spec"]["template"]["spec"]["containers"][0]
    # As the JobSet controller sets them on the pods of the first job.
    annotations = {
        "jobset.sigs.k8s.io/jobset-name": jobset["metadata"]["name"],
        "jobset.sigs.k8s.io/replicatedjob-name": part["name"],
        "jobset.sigs.k8s.io/job-index": "0",
    }
    places = set()
    for index in range(part["template"]["spec"]["completions"]):
        environ = {"JOB_COMPLETION_INDEX": str(index)}
        for one in container["env"]:
            if "value" in one:
                environ[one["name"]] = one["value"]
            elif "fieldRef" in one["valueFrom"]:
                path = one["valueFrom"]["fieldRef"]["fieldPath"]
                key = re.fullmatch(r"metadata\.annotations\['(.+)'\]", path)[1]
                environ[one["name"]] = annotations[key]
        found = resolve(*NOTHING, environ)
        assert found.coordinator.startswith("vit-b16-hosts-0-0.vit-b16:")
        places.add((found.process_id, found.num_processes))
    assert places == {(index, 8) for index in range(8)}


def test_code_is_in_the_config_map_whole(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("# mine\n")
    files = cases.render("gke", "v5e-16", tmp_path, config_file=mine, config=":B/16")
    (config_map,) = yaml_text.load(files.files["code.yaml"])
    data = {
        name: base64.b64decode(text) for name, text in config_map["binaryData"].items()
    }
    assert data == {
        "config.py": b"# mine\n",
        "vit_jax-0.1.0-py3-none-any.whl": cases.wheel(tmp_path).read_bytes(),
    }
    (jobset,) = yaml_text.load(files.files["jobset.yaml"])
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    names = [one["configMap"]["name"] for one in pod["volumes"] if "configMap" in one]
    assert names == [config_map["metadata"]["name"]]
    script = pod["containers"][0]["command"][-1]
    assert "--config=/launch/config.py:B/16 " in script
    assert "$(" not in script  # Kubernetes would take it for a variable of its own


def test_code_that_is_too_large_is_refused(tmp_path):
    large = tmp_path / "large.py"
    large.write_bytes(b"#" * 1_000_001)
    with pytest.raises(LaunchError, match=r"does not fit .* use --code=git\+"):
        cases.render("gke", "v5e-16", tmp_path, config_file=large, config="")


@pytest.mark.parametrize(("target", "place"), cases.CASES)
def test_secrets_are_named_only(target, place, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "hunter2-value")
    rendered = cases.render(target, place, tmp_path)
    everything = "".join([*rendered.files.values(), *sum(rendered.submit, ())])
    assert "WANDB_API_KEY" in everything
    assert "hunter2" not in everything


def test_values_survive_the_shell(tmp_path):
    hard = 'it\'s $HOME "quoted" `date` \\ ;'
    env, command = {"HARD": hard}, (f"--config.data.split={hard}",)
    rendered = cases.render(
        "slurm", "h100:8x8", tmp_path, env=env, overrides=command, secrets=()
    )
    head = rendered.files["job.sh"].partition("# install ENV")[0]
    show = head + 'printf "%s\\n" "$HARD" "${COMMAND[3]}"\n'
    done = subprocess.run(["bash", "-c", show], capture_output=True, text=True)
    assert done.stdout.splitlines() == [hard, f"--config.data.split={hard}"]


@pytest.mark.parametrize(
    ("target", "place"), [("tpu-vm", "2*v6e-256"), ("slurm", "h100:8x8")]
)
def test_scripts_are_clean(target, place, tmp_path):
    """By bash, and by shellcheck where it is installed."""
    checker = shutil.which("shellcheck")
    options = {**cases.NEEDED.get(target, {}), "extra": "--exclusive=user"}
    rendered = cases.render(target, place, tmp_path, options=options)
    for name, text in rendered.files.items():
        (tmp_path / name).write_text(text)
        subprocess.run(["bash", "-n", tmp_path / name], check=True)
    if checker:
        paths = [tmp_path / name for name in rendered.files]
        done = subprocess.run([checker, *paths], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_every_chip_of_the_table_can_be_had():
    """Somewhere: no row without a name."""
    for chip in topology.BY_KIND.values():
        assert chip.rented.gke and "{}" in chip.rented.machine
        assert bool(chip.rented.gcloud) == bool(chip.rented.runtime)
