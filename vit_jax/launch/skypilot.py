"""SkyPilot: a managed job, which finds capacity and recovers when that goes."""

import re
import shlex

from vit_jax.launch import job as jobs
from vit_jax.launch import yaml_text
from vit_jax.launch.job import Job, LaunchError, Rendered
from vit_jax.launch.tpu_vm import is_usual
from vit_jax.plan import topology as topologies

OPTIONS = {
    "infra": "where, as SkyPilot writes it: gcp/us-central1, kubernetes; default: any",
}

_FOLDER = "~/vit-jax-launch"
_SIZES = re.compile(r"--(num-nodes|gpus|accelerators|instance-type)\b")
_SAVED = 143  # after SIGTERM: not a failure


def render(job: Job) -> Rendered:
    """The task.

    Raises:
      LaunchError: SkyPilot has no such machines.
    """
    place = job.topology
    if not place.chip.rented.sky:
        raise LaunchError(f"skypilot has no {place.chip.name}; use vit-jax launch gke")
    if place.chip.is_tpu and place.slices > 1:
        raise LaunchError(
            f"skypilot: a task takes one TPU slice, {place} has {place.slices}; use "
            "tpu-vm or gke"
        )
    if place.chip.is_tpu and not is_usual(place):
        usual = topologies.parse(place.count_name).slice_name
        raise LaunchError(
            f"skypilot names slices by their size, and {place.count_name} is {usual}, "
            f"not {place}; use tpu-vm or gke"
        )
    task = _task(job)
    text = yaml_text.dump(task, comment=f"{job.name}: {jobs.summary(job)}")
    path = str(job.output / "task.yaml")
    secrets = [f"--secret={name}" for name in job.secrets]
    extra = [line for line in job.option("extra").split("\n") if line]
    if changed := [word for word in extra if _SIZES.match(word)]:
        raise LaunchError(
            f"--extra={changed[0]} changes what {place} has; give another --topology"
        )
    command = ("sky", "jobs", "launch", "--yes", f"--name={job.name}", "--detach-run")
    hosts, chips = counts(yaml_text.load(text)[0])
    return Rendered(
        files={"task.yaml": text},
        main="task.yaml",
        submit=((*command, *secrets, *extra, path),),
        hosts=hosts,
        chips=chips,
    )


def _task(job: Job) -> dict:
    place = job.topology
    resources: dict = {"use_spot": job.spot}
    if job.option("infra"):
        resources["infra"] = job.option("infra")
    if place.chip.is_tpu:  # one node of SkyPilot is the whole slice
        resources["accelerators"] = f"{place.chip.rented.sky}-{place.cores}:1"
        resources["accelerator_args"] = {
            "tpu_vm": True,
            "runtime_version": place.chip.rented.runtime,
        }
    else:
        resources["accelerators"] = f"{place.chip.rented.sky}:{place.chips_per_host}"
    resources["job_recovery"] = {
        "max_restarts_on_errors": job.retries,
        "recover_on_exit_codes": [_SAVED],
    }
    task: dict = {
        "name": job.name,
        "num_nodes": 1 if place.chip.is_tpu else place.hosts,
        "resources": resources,
    }
    if job.env:
        task["envs"] = dict(job.env)
    if job.secrets:
        task["secrets"] = dict.fromkeys(job.secrets)  # values: sky jobs launch --secret
    if job.files:
        shipped = {f"{_FOLDER}/{name}": str(job.output / name) for name in job.files}
        task["file_mounts"] = shipped
    environment = f"environment-{job.code.digest}"
    task["setup"] = (
        f"mkdir -p {_FOLDER}\ncd {_FOLDER}\n"
        + jobs.template("install.sh")
        + f"install {environment} {shlex.quote(job.requirement('.'))}\n"
    )
    command = shlex.join(job.command("."))
    task["run"] = f"cd {_FOLDER}\nexec {environment}/bin/vit-jax {command}\n"
    return task


def counts(task: dict) -> tuple[int, int]:
    """Hosts and chips that a task asks for."""
    kind, _, number = task["resources"]["accelerators"].rpartition(":")
    if kind.startswith("tpu-"):
        place = topologies.parse(kind.removeprefix("tpu-"))
        return place.hosts, place.chips
    return task["num_nodes"], task["num_nodes"] * int(number)
