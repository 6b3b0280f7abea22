"""Under a real mpirun and a real Slurm of this host, and with what SkyPilot sets."""

import pathlib
import re
import shutil
import subprocess

import pytest

from tests import training
from tests.cluster import one_host, runs

SCRIPTS = training.ROOT / "scripts"
MPIRUN = ("mpirun", "--allow-run-as-root", "--oversubscribe")


needs_mpi = pytest.mark.skipif(
    not one_host.has("mpirun"), reason=f"no mpirun: {one_host.INSTALL}"
)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Two nodes that are this host; yields the variables that say where they are."""
    with one_host.slurm(tmp_path_factory.mktemp("slurm")) as variables:
        yield variables


def train(workdir, launcher, variables=None, number=2):
    """Runs it; returns what was said on standard output."""
    process = runs.start([*launcher, *runs.command(workdir)], variables)
    codes, [(output, error)] = runs.finish([process], 540)
    assert codes == [0], (output, error)
    training_rows, _ = runs.read(workdir)
    assert sorted(training_rows) == list(range(number))
    each = runs.STEPS * runs.BATCH // number
    assert {len(rows) for rows in training_rows.values()} == {each}
    assert runs.writers(workdir) == set(range(number))
    return output


@pytest.mark.cluster
@needs_mpi
def test_mpirun(tmp_path):
    said = train(tmp_path / "run", [*MPIRUN, "-np", "2"])
    assert re.search(r"Open MPI: process 0 of 2, coordinator 127\.0\.0\.1:\d+", said)


@pytest.mark.cluster
def test_srun_on_one_node(tmp_path, slurm):
    said = train(tmp_path / "run", ["srun", "-N1", "-n2"], slurm)
    assert re.search(r"Slurm job \d+: process 0 of 2, coordinator 127\.0\.0\.1", said)


@pytest.mark.cluster
def test_srun_on_two_nodes(tmp_path, slurm):
    said = train(tmp_path / "run", ["srun", "-N2", "-n2"], slurm)
    assert re.search(r"Slurm job \d+: process 0 of 2, coordinator [a-z]", said)


@pytest.mark.cluster
def test_sbatch_without_srun_trains_alone(tmp_path, slurm):
    output = tmp_path / "output"
    command = ["sbatch", "--wait", "-n2", f"--output={output}", "--wrap"]
    line = subprocess.list2cmdline(runs.command(tmp_path / "run"))
    process = runs.start([*command, line], slurm)
    codes, done = runs.finish([process], 540)
    assert codes == [0], (done, output.read_text())
    said = output.read_text()
    assert "one process, which trains alone (2 tasks are allocated" in said
    assert list(runs.read(tmp_path / "run")[0]) == [0]


@pytest.mark.slow
def test_the_variables_of_skypilot(tmp_path):
    workdir = tmp_path / "run"
    common = {
        "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.1",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NUM_GPUS_PER_NODE": "0",
        "SKYPILOT_TASK_ID": f"sky-{tmp_path}",
        "JAX_COORDINATOR_PORT": str(runs.free_port()),
    }
    codes, done = runs.finish(
        [
            runs.start(runs.command(workdir), common | {"SKYPILOT_NODE_RANK": rank})
            for rank in "01"
        ]
    )
    assert codes == [0, 0], done
    assert "SkyPilot: process 0 of 2, coordinator 127.0.0.1" in done[0][0]
    assert runs.writers(workdir) == {0, 1}


def test_the_installer_says_that_it_did_not_run(tmp_path):
    bash = shutil.which("bash")
    empty = tmp_path / "bin"
    empty.mkdir()
    for tool in ("id", "head"):
        (empty / tool).symlink_to(shutil.which(tool))
    script = pathlib.Path(SCRIPTS / "install_test_tools.sh").read_text()
    alone = script.replace("export PATH=$PATH:/usr/sbin:/sbin\n", "")
    done = subprocess.run(
        [bash, "-c", alone], env={"PATH": str(empty)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "NOT RUN: the tests that need mpirun munged slurmctld" in done.stderr
    assert "no apt-get here; install openmpi-bin munge slurm-wlm" in done.stderr
