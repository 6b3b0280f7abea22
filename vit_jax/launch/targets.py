"""The targets, and the options that each has."""

import dataclasses
from collections.abc import Callable, Mapping

from vit_jax.launch import gke, skypilot, slurm, tpu_vm
from vit_jax.launch.job import Job, LaunchError, Rendered


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a job can go.

    Args:
      render: makes its files.
      options: of the command line, with what they mean.
      tool: that takes the files.
      extra: what `--extra` is there; "" where there is none.
      shared: whether its hosts share a file system that outlives them.
    """

    render: Callable[[Job], Rendered]
    options: Mapping[str, str]
    tool: str
    extra: str
    shared: bool = False


TARGETS: dict[str, Target] = {
    "tpu-vm": Target(
        tpu_vm.render, tpu_vm.OPTIONS, "gcloud", "queued-resources create"
    ),
    "gke": Target(gke.render, gke.OPTIONS, "kubectl", ""),
    "slurm": Target(slurm.render, slurm.OPTIONS, "sbatch", "sbatch", shared=True),
    "skypilot": Target(skypilot.render, skypilot.OPTIONS, "sky", "sky jobs launch"),
}


def option_names() -> dict[str, list[str]]:
    """Every option, with the targets that have it."""
    names: dict[str, list[str]] = {}
    for target, described in TARGETS.items():
        for option in described.options:
            names.setdefault(option, []).append(target)
    return names


def chosen(target: str, given: Mapping[str, str | None]) -> dict[str, str]:
    """The options that are given.

    Raises:
      LaunchError: the target has no such option, or a value has several lines.
    """
    found = {}
    for option, value in given.items():
        if value is None:
            continue
        if option not in TARGETS[target].options:
            others = ", ".join(option_names()[option])
            raise LaunchError(f"--{option} is of {others}; {target} has no such option")
        if "\n" in value or not value.strip():
            raise LaunchError(f"--{option}={value!r} is not one line of text")
        found[option] = value
    return found
