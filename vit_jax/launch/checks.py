"""What is rendered, checked before it is kept: against the table, and by real tools."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

from vit_jax.launch.job import Job, LaunchError, Rendered
from vit_jax.plan.topology import Topology

# Names another interpreter that has SkyPilot, which is seldom in the same environment.
SKY_PYTHON = "VIT_JAX_SKY_PYTHON"
_PARSE = "import sky, sys; sky.Task.from_yaml(sys.argv[1])"


def expect(topology: Topology, *, hosts: int | None, chips: int | None) -> None:
    """Refuses numbers that the topology does not have.

    Raises:
      LaunchError: they differ from the table.
    """
    for flag, given, has in (
        ("hosts", hosts, topology.hosts),
        ("chips", chips, topology.chips),
    ):
        if given is not None and given != has:
            raise LaunchError(
                f"--{flag}={given}, but {topology} ({topology.count_name}) has "
                f"{topology.chips:,} chips on {topology.hosts:,} hosts of "
                f"{topology.chips_per_host}; correct --{flag} or --topology"
            )


def agree(job: Job, rendered: Rendered) -> None:
    """Refuses files that ask for something else than the topology.

    Raises:
      LaunchError: hosts or chips, read back from the files, differ from the table.
    """
    place = job.topology
    if (rendered.hosts, rendered.chips) != (place.hosts, place.chips):
        raise LaunchError(
            f"{rendered.main} asks for {rendered.chips:,} chips on "
            f"{rendered.hosts:,} hosts, but {place} has {place.chips:,} on "
            f"{place.hosts:,}; does --extra change them?"
        )


def by_tools(rendered: Rendered, folder: pathlib.Path) -> tuple[list[str], list[str]]:
    """Has other tools read the files; returns which did, and which are not here.

    Raises:
      LaunchError: one of them refuses a file.
    """
    done, missing = [], []
    for name in rendered.files:
        if name.endswith(".sh"):
            if shutil.which("bash"):
                _ask(["bash", "-n", str(folder / name)], name)
                done.append(f"{name} by bash -n")
            else:
                missing.append(f"{name}: no bash here")
    if rendered.main == "task.yaml":
        if python := sky_python():
            _ask([python, "-c", _PARSE, str(folder / rendered.main)], rendered.main)
            done.append(f"{rendered.main} by SkyPilot's parser")
        else:
            missing.append(f"{rendered.main}: SkyPilot is not installed here")
    return done, missing


def sky_python() -> str | None:
    """An interpreter that has SkyPilot, if there is one."""
    if named := os.environ.get(SKY_PYTHON):
        return named
    return sys.executable if importlib.util.find_spec("sky") else None


def _ask(command: list[str], name: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except OSError as error:
        raise LaunchError(f"{name}: {command[0]}: {error.strerror}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise LaunchError(f"{name} is refused by {command[0]}: {lines[-1]}")
