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

_TIME = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|infinite|unlimited", re.I)
_TASKS = re.compile(r"--(ntasks(-per-\w+)?|array)=")
_GPUS = ("gpus-per-node", "gpus-per-task", "gres", "gpus")
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
    _check(job)
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


def _check(job: Job) -> None:
    """Refuses what sbatch would, or what is not this job any more."""
    time, gres = job.option("time"), job.option("gres")
    if time and not _TIME.fullmatch(time):
        raise LaunchError(
            f"--time={time} is not a limit of Slurm: MINUTES, HOURS:MINUTES:SECONDS or "
            "DAYS-HOURS, such as 12:00:00"
        )
    if gres and gres.rpartition(":")[2].isdigit():
        raise LaunchError(
            f"--gres={gres}: give the name only, such as gpu:h100; the number comes "
            "from --topology"
        )
    for word in job.option("extra").split("\n"):
        if _TASKS.match(word):
            raise LaunchError(f"--extra={word}: the job is one task a host")


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
    """Hosts and chips that a batch script asks for.

    Raises:
      LaunchError: no numbers, or two that differ.
    """
    found: dict[str, str] = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", script, re.M))
    hosts = _number("nodes", found["nodes"])
    asked = {}
    for name in _GPUS:
        gpus = _gpus(name, found.get(name, ""))
        if gpus:
            asked[name] = gpus if name == "gpus" else hosts * gpus
    if len(set(asked.values())) > 1:
        said = " and ".join(f"{n:,} (--{name})" for name, n in asked.items())
        raise LaunchError(f"job.sh asks for {said} chips; does --extra change them?")
    return hosts, next(iter(asked.values()))


def _gpus(name: str, value: str) -> int:
    """Of ``"8"``, ``"h100:8"`` or, of `gres`, ``"gpu:h100:8,tmp:1"``; 0 for none."""
    if name != "gres":
        return _number(name, value.rpartition(":")[2]) if value else 0
    every = [part for part in value.split(",") if re.match(r"gpu(:|$)", part)]
    return sum(_number(name, part.rpartition(":")[2]) for part in every)


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise LaunchError(f"--extra=--{name}: {text!r} is not a number")
    return int(text)
