"""Cloud TPU: a queued resource, training on every worker, again after a preemption.

`launch.sh` runs on the user's machine and asks gcloud; `worker.sh` on each TPU machine.
"""

import contextlib

from vit_jax.launch import job as jobs
from vit_jax.launch.job import Job, LaunchError, Rendered
from vit_jax.plan import topology as topologies
from vit_jax.plan.topology import Topology

OPTIONS = {
    "zone": "of Google Cloud, needed",
    "project": "of Google Cloud; default: gcloud's",
    "service_account": "that the machines, or pods (gke), act as",
    "runtime_version": "image of the machines; default: the table's",
}

_SIZES = ("--accelerator-type", "--type", "--topology", "--node-count")


def render(job: Job) -> Rendered:
    """The two scripts.

    Raises:
      LaunchError: there are no such machines.
    """
    place = job.topology
    if not place.chip.rented.gcloud:
        other = "vit-jax launch gke" if place.chip.is_tpu else "gke, slurm or skypilot"
        raise LaunchError(
            f"tpu-vm: Cloud TPU's queued resources have no {place.chip.name}; use "
            f"{other}"
        )
    if not job.option("zone"):
        raise LaunchError("tpu-vm needs --zone=ZONE, such as --zone=us-central2-b")
    nodes = [job.name]
    if place.slices > 1:
        nodes = [f"{job.name}-{index}" for index in range(place.slices)]
    head = "#!/bin/bash\n# {} {}: {}\n"
    extra = [line for line in job.option("extra").split("\n") if line]
    asked = _asked([*_accelerator(job), *extra])
    what = jobs.summary(job)
    script = head.format(job.name, "on Cloud TPU", what) + jobs.variables(
        NAME=job.name,
        WHERE=_where(job),
        ACCELERATOR=_accelerator(job),
        EXTRA=extra,
        NODES=nodes,
        HOSTS=place.hosts,
        FILES=["worker.sh", *job.files],
        RETRIES=job.retries,
    )
    worker = head.format(job.name, "on one of its workers", what) + jobs.variables(
        ENVIRONMENT=f"environment-{job.code.digest}",
        REQUIREMENT=job.requirement("."),
        COMMAND=job.command("."),
        SECRETS=job.secrets,
    )
    worker += jobs.exports(job) + "\n" + jobs.template("install.sh")
    return Rendered(
        files={
            "launch.sh": script + jobs.template("tpu_vm.sh"),
            "worker.sh": worker + jobs.template("tpu_worker.sh"),
        },
        main="launch.sh",
        submit=(("bash", str(job.output / "launch.sh")),),
        hosts=asked.hosts,
        chips=asked.chips,
    )


def _where(job: Job) -> list[str]:
    where = [f"--zone={job.option('zone')}"]
    return where + (
        [f"--project={job.option('project')}"] * bool(job.option("project"))
    )


def _accelerator(job: Job) -> list[str]:
    """What the queued resource is made of."""
    place = job.topology
    rented = place.chip.rented
    if is_usual(place):
        kind = [f"--accelerator-type={type_name(place)}"]
    else:
        shape = "x".join(map(str, place.shape))
        kind = [f"--type={rented.gcloud}", f"--topology={shape}"]
    image = job.option("runtime_version") or rented.runtime
    made = [*kind, f"--runtime-version={image}"]
    if place.slices > 1:
        made += [f"--node-count={place.slices}", f"--node-prefix={job.name}"]
    else:
        made.append(f"--node-id={job.name}")
    if job.spot:
        made.append("--spot")
    if job.option("service_account"):
        made.append(f"--service-account={job.option('service_account')}")
    return made


def type_name(place: Topology) -> str:
    """A slice as Cloud TPU counts it, ``v5litepod-256``."""
    return f"{place.chip.rented.gcloud}-{place.cores // place.slices}"


def is_usual(place: Topology) -> bool:
    """Whether a slice's shape is the one that its count stands for."""
    return topologies.parse(place.count_name).shape == place.shape


def _asked(arguments: list[str]) -> Topology:
    """What a command asks for, read back from it.

    Raises:
      LaunchError: nothing that there is.
    """
    given: dict[str, str] = {}
    for one in arguments:
        flag, _, value = one.partition("=")
        given[flag] = value
    slices = given.get("--node-count", "1")
    kind, shape = given.get("--type"), given.get("--topology")
    name = given.get("--accelerator-type") or f"{kind}:{shape}"
    one_of_both = ("--accelerator-type" in given) != bool(kind or shape)
    if slices.isdecimal() and one_of_both:
        with contextlib.suppress(topologies.TopologyError):
            return topologies.parse(name, slices=int(slices))
    asked = " ".join(f"{flag}={given[flag]}" for flag in _SIZES if flag in given)
    raise LaunchError(f"launch.sh asks for {asked}; does --extra change them?")
