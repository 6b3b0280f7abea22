"""Hands a rendered job to the target's own tool."""

import os
import pathlib
import shlex
import shutil
import subprocess

from vit_jax.launch.job import Job, LaunchError, Rendered
from vit_jax.launch.targets import Target


def ready(job: Job, target: Target) -> None:
    """Refuses where the tool, or a secret that it reads from here, is missing.

    Raises:
      LaunchError: one is.
    """
    if shutil.which(target.tool) is None:
        raise LaunchError(
            f"--submit needs {target.tool}, which is not on PATH; without --submit the "
            "files are written, to be submitted elsewhere"
        )
    if target.tool not in ("sbatch", "sky"):  # the others keep secrets themselves
        return
    missing = [name for name in job.secrets if not os.environ.get(name)]
    if missing:
        raise LaunchError(
            f"--secret={missing[0]}: {target.tool} takes it from here, where it is not "
            f"set; export {missing[0]} first"
        )


def dry_run(job: Job, rendered: Rendered, folder: pathlib.Path) -> None:
    """Has the tool itself check the files, which are in ``folder`` as yet.

    Raises:
      LaunchError: it refuses them.
    """
    if not rendered.check:
        return
    command = [word.replace(str(job.output), str(folder), 1) for word in rendered.check]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise LaunchError(f"{shlex.join(rendered.check[:2])} refuses it: {lines[-1]}")


def submit(rendered: Rendered) -> int:
    """Runs the commands; returns the first code that is not 0."""
    for command in rendered.submit:
        code = subprocess.run(command).returncode
        if code:
            return code
    return 0
