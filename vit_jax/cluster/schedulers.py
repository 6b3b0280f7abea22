"""What launchers and schedulers say of a process, one function each."""

import re
import zlib
from collections.abc import Callable

from vit_jax.cluster.place import (
    Cluster,
    Environ,
    StartError,
    address,
    checked,
    missing,
    number_of,
    optional,
)

_TPU_PORT = 8482  # one job at a time has a TPU host
_HERE = "127.0.0.1"
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_SPECIAL_STEP = 0xFFFFFFF0  # Slurm's batch and interactive steps, which are one process


def detect(environ: Environ) -> Cluster | None:
    """What a scheduler says; the innermost one where there are several.

    Raises:
      StartError: it says it by half, or contradicts itself.
    """
    for scheduler in _SCHEDULERS:
        if (found := scheduler(environ)) is not None:
            return found
    return None


def _open_mpi(environ: Environ) -> Cluster | None:
    size, rank = "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"
    if size not in environ and rank not in environ:
        return None
    name = "Open MPI"
    number = number_of(environ, size, name)
    if number == 1:
        return checked(Cluster(name, "", 1, optional(environ, rank) or 0), rank, size)
    local = number_of(environ, "OMPI_COMM_WORLD_LOCAL_RANK", name)
    on_host = number_of(environ, "OMPI_COMM_WORLD_LOCAL_SIZE", name)
    # Version 4 names the launcher's job and addresses, 5 its host and process id.
    uri = environ.get("OMPI_MCA_orte_hnp_uri", "")
    old = re.match(r"(\d+)\.\d+;(?:tcp://([^,:]+)|tcp6://\[([^,\]]+))", uri)
    new = re.match(r"\w+-(.+)-(\d+)@", environ.get("PMIX_NAMESPACE", ""))
    if old:  # the number is a multiple of 4096
        job, host = int(old[1]) // 4096, old[2] or f"[{old[3]}]"
    elif new:
        job, host = int(new[2]), new[1]
    else:
        job, host = zlib.crc32(environ.get("PMIX_NAMESPACE", "").encode()), ""
    if on_host == number:
        host = _HERE
    if not host and not environ.get("JAX_COORDINATOR_ADDRESS"):
        raise StartError(
            f"{name} says {number} processes on several hosts, and neither "
            "OMPI_MCA_orte_hnp_uri nor PMIX_NAMESPACE says where the first one is; "
            "add --coordinator=HOST:PORT with the host of rank 0"
        )
    return checked(
        Cluster(
            name,
            address(host, job, environ),
            number,
            number_of(environ, rank, name),
            _gpus(environ, local, on_host, None, name),
        ),
        rank,
        size,
    )


def _slurm(environ: Environ) -> Cluster | None:
    job = environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    name = f"Slurm job {job}"
    tasks = optional(environ, "SLURM_STEP_NUM_TASKS")
    if tasks is None:
        tasks = optional(environ, "SLURM_NTASKS") or 1
    nodes = environ.get("SLURM_STEP_NODELIST", "")
    step = optional(environ, "SLURM_STEP_ID")
    batch = step is not None and step >= _SPECIAL_STEP
    if batch or (
        not nodes and step is None and environ.get("SLURM_PROCID", "0") == "0"
    ):
        # A batch script or an interactive shell: its number of tasks is what was
        # asked for, and none of them has been started.
        hint = (
            f" ({tasks} tasks are allocated: `srun vit-jax train ...` starts them all)"
        )
        return Cluster(name, "", 1, 0, hint=hint if tasks > 1 else "")
    if tasks == 1:
        return Cluster(name, "", 1, 0)
    if not nodes:
        raise missing(name, "SLURM_STEP_NODELIST", "start the tasks with srun")
    local = number_of(environ, "SLURM_LOCALID", name)
    node = optional(environ, "SLURM_NODEID") or 0
    here = _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""), node)
    alone = optional(environ, "SLURM_STEP_NUM_NODES") == 1 or not re.search(
        r"[,\[]", nodes
    )
    if alone and here is None:
        here = tasks
    # Steps of a job may run side by side, as jobs do.
    number = number_of(environ, "SLURM_JOB_ID", name) + 997 * (step or 0)
    return checked(
        Cluster(
            name,
            address(_HERE if alone else first_node(nodes), number, environ),
            tasks,
            number_of(environ, "SLURM_PROCID", name),
            _gpus(environ, local, here, optional(environ, "SLURM_GPUS_ON_NODE"), name),
        ),
        "SLURM_PROCID",
        "SLURM_NTASKS",
    )


def first_node(nodes: str) -> str:
    """The first name of a list as Slurm writes it: ``gpu[001-004,7]-ib,cpu3``."""
    first = re.match(r"[^,\[]*(\[[^\]]*\][^,\[]*)*", nodes)
    assert first is not None  # it matches the empty string
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0])


def _tasks_per_node(text: str, node: int) -> int | None:
    """Of a node, from ``2(x3),1``; None where that is not said."""
    counts: list[int] = []
    for tasks, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(tasks)] * int(times or 1)
    return counts[node] if node < len(counts) else None


def _skypilot(environ: Environ) -> Cluster | None:
    ips, rank = "SKYPILOT_NODE_IPS", "SKYPILOT_NODE_RANK"
    if ips not in environ and rank not in environ:
        return None
    name = "SkyPilot"
    nodes = environ.get(ips, "").split()
    if not nodes:
        raise missing(name, ips)
    said = optional(environ, "SKYPILOT_NUM_NODES")
    if said is not None and said != len(nodes):
        raise StartError(
            f"{name}: SKYPILOT_NUM_NODES is {said}, but SKYPILOT_NODE_IPS lists "
            f"{len(nodes)}: {', '.join(nodes)}; correct or unset one"
        )
    gpus = optional(environ, "SKYPILOT_NUM_GPUS_PER_NODE")
    name += f" with {gpus} GPUs a node" if gpus else ""
    if len(nodes) == 1:
        return Cluster(name, "", 1, 0)
    task = environ.get("SKYPILOT_TASK_ID", "")
    first = address(nodes[0], zlib.crc32(task.encode()), environ)
    # One process a node: all GPUs that it sees are its own.
    place = Cluster(name, first, len(nodes), number_of(environ, rank, name))
    return checked(place, rank, "SKYPILOT_NODE_IPS")


def _tpu(environ: Environ) -> Cluster | None:
    """Cloud TPU pods and GKE: a list of hosts, and several such slices."""
    lists = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
    hosts = next((environ[name] for name in lists if environ.get(name)), "").split(",")
    slices = optional(environ, "MEGASCALE_NUM_SLICES") or 1
    if hosts == [""]:
        if slices > 1:
            raise missing("MEGASCALE_NUM_SLICES", "TPU_WORKER_HOSTNAMES")
        return None
    name = "Cloud TPU" + (f", {slices} slices" if slices > 1 else "")
    if len(hosts) * slices == 1:
        return Cluster(name, "", 1, 0)
    worker, first, chunk = 0, hosts[0], 0
    if len(hosts) > 1:
        worker = number_of(environ, "TPU_WORKER_ID", name)
        if worker >= len(hosts):
            raise StartError(
                f"{name}: TPU_WORKER_ID is {worker}, outside 0..{len(hosts) - 1} of "
                f"TPU_WORKER_HOSTNAMES ({', '.join(hosts)})"
            )
    if slices > 1:
        chunk = number_of(environ, "MEGASCALE_SLICE_ID", name)
        first = environ.get("MEGASCALE_COORDINATOR_ADDRESS", "")
        if not first:
            raise missing(name, "MEGASCALE_COORDINATOR_ADDRESS")
    port = environ.get("JAX_COORDINATOR_PORT") or _TPU_PORT
    return checked(
        Cluster(
            name,
            f"{first.rpartition(':')[0] or first}:{port}",
            len(hosts) * slices,
            chunk * len(hosts) + worker,
        ),
        "MEGASCALE_SLICE_ID",
        "MEGASCALE_NUM_SLICES",
    )


def _job_set(environ: Environ) -> Cluster | None:
    """A Kubernetes JobSet of indexed jobs (GKE); its variables come from labels."""
    if "JOBSET_NAME" not in environ or "PROCESSES_IN_JOB" not in environ:
        return None
    jobset = environ["JOBSET_NAME"]
    name = f"JobSet {jobset}"
    pods = number_of(environ, "PROCESSES_IN_JOB", name)
    total = optional(environ, "JAX_PROCESS_COUNT") or pods
    if total == 1:
        return Cluster(name, "", 1, 0)
    job = environ.get("REPLICATED_JOB_NAME", "")
    if not job:
        raise missing(name, "REPLICATED_JOB_NAME")
    index = optional(environ, "JOB_INDEX")
    if index is None and total > pods:
        raise missing(name, "JOB_INDEX")
    rank = (index or 0) * pods + number_of(environ, "JOB_COMPLETION_INDEX", name)
    host = f"{jobset}-{job}-0-0.{jobset}"
    first = address(host, zlib.crc32(jobset.encode()), environ)
    return checked(
        Cluster(name, first, total, rank),
        "JOB_COMPLETION_INDEX with JOB_INDEX",
        "PROCESSES_IN_JOB or JAX_PROCESS_COUNT",
    )


# Innermost first: mpirun may run in a Slurm job, and both on what SkyPilot rented.
_SCHEDULERS: tuple[Callable[[Environ], Cluster | None], ...] = (
    _open_mpi,
    _slurm,
    _skypilot,
    _tpu,
    _job_set,
)


def _gpus(
    environ: Environ, local: int, on_host: int | None, total: int | None, name: str
) -> tuple[int, ...] | None:
    """Which GPUs are this task's, of those that it sees; None: all.

    Args:
      environ: whose `*_VISIBLE_DEVICES` count what it sees.
      local: number of the task on its host.
      on_host: tasks there, if known.
      total: GPUs of the job on the host, if known: a task that sees fewer is bound to
        its own.
      name: of the scheduler, for messages.
    """
    if on_host == 1:
        return None
    seen = [environ[key] for key in _VISIBLE if environ.get(key)]
    if not seen:
        return (local,)
    visible = len(seen[0].split(","))
    if visible == 1 or (total is not None and visible < total):
        return None
    each, rest = divmod(visible, on_host or visible)
    if not each or rest:
        raise StartError(
            f"{name}: {on_host} tasks of this host share {visible} GPUs ({seen[0]}); "
            "start as many tasks as GPUs, or one"
        )
    return tuple(range(local * each, (local + 1) * each))
