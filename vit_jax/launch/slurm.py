"""Slurm: one batch script, a task a host; saves and queues again when time is up."""

import re

from vit_jax.launch import job as jobs
from vit_jax.launch.job import Job, LaunchError, Rendered

OPTIONS = {
    "partition": "to submit to",
    "account": "to charge",
    "time": "limit of one start, as sbatch takes it; at it, the job saves and queues "
    "again",
    "gres": "name of the GPUs, gpu:h100; default: --gpus-per-node without a type",
    "environment": "an environment that has vit-jax, on the shared file system; "
    "default: made there",
    "setup": "a line of shell before all else, such as 'module load cuda'",
}

NOTICE = 120  # seconds before the time limit in which a checkpoint is written


def render(job: Job) -> Rendered:
    """The batch script.

    Raises:
      LaunchError: Slurm has no such machines.
    """
    place = job.topology
    if place.chip.is_tpu:
        raise LaunchError(
            f"slurm: {place.chip.name} is not rented by Slurm; use tpu-vm, gke or "
            "skypilot"
        )
    folder = str(job.output)
    if re.search(r"[\s\"'%\\]", folder):
        raise LaunchError(
            f"--output={folder}: sbatch takes no blanks, quotes, % or backslashes in "
            "a path"
        )
    directives = _directives(job)
    made = job.option("environment")
    head = [f"# {job.name}: {jobs.summary(job)}\n"]
    head += [f"#SBATCH {line}\n" for line in directives]
    script = "#!/bin/bash\n" + "".join(head) + "\n"
    script += jobs.variables(
        LAUNCH=folder,
        ENVIRONMENT=made or f"{folder}/environment-{job.code.digest}",
        REQUIREMENT="" if made else job.requirement(folder),
        COMMAND=job.command(folder),
        SECRETS=job.secrets,
        RETRIES=job.retries,
    )
    script += jobs.exports(job)
    if job.option("setup"):
        script += job.option("setup") + "\n"
    script += "\n" + jobs.template("install.sh") + jobs.template("slurm.sh")
    hosts, chips = counts(script)
    path = str(job.output / "job.sh")
    return Rendered(
        files={"job.sh": script},
        main="job.sh",
        submit=(("sbatch", path),),
        check=("sbatch", "--test-only", path),
        hosts=hosts,
        chips=chips,
    )


def _directives(job: Job) -> list[str]:
    """Options of sbatch; what is given comes last, and wins."""
    place = job.topology
    gpus = place.chips_per_host
    gres = job.option("gres")
    lines = [
        f"--job-name={job.name}",
        f"--nodes={place.hosts}",
        "--ntasks-per-node=1",
        f"--gres={gres}:{gpus}" if gres else f"--gpus-per-node={gpus}",
        "--requeue",
        f"--signal=B:USR1@{NOTICE}",
        "--open-mode=append",
        f"--output={job.output}/log-%j.txt",
    ]
    for name in ("partition", "account", "time"):
        if job.option(name):
            lines.append(f"--{name}={job.option(name)}")
    return lines + [line for line in job.option("extra").split("\n") if line]


def counts(script: str) -> tuple[int, int]:
    """Hosts and chips that a batch script asks for."""
    found = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", script, re.M))
    hosts = int(found["nodes"])
    a_host: str = found.get("gpus-per-node") or found["gres"]
    return hosts, hosts * int(a_host.rpartition(":")[2])
