"""A Slurm of this host, while a test needs it."""

import contextlib
import os
import shutil
import subprocess

import pytest

from tests import training

SCRIPT = training.ROOT / "scripts" / "one_host_slurm.sh"
INSTALL = "scripts/install_test_tools.sh installs it"


def has(*tools):
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return all(shutil.which(tool, path=path) for tool in tools)


@contextlib.contextmanager
def slurm(folder, nodes=2, gpus=0):
    """Nodes that are this host; gives the variables that say where they are."""
    if not has("slurmctld", "slurmd", "munged", "srun"):
        pytest.skip(f"no Slurm: {INSTALL}")
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons need root")
    counts = {"NODES": str(nodes), "GPUS": str(gpus)}
    try:
        started = subprocess.run(
            [SCRIPT, "start", folder],
            env=os.environ | counts,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert started.returncode == 0, started.stderr
        yield {"SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True, timeout=120)
