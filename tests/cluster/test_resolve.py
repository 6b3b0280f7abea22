"""Environment to the place of a process: a table for each launcher and scheduler."""

import zlib

import pytest

from vit_jax.cluster import Cluster, StartError, resolve
from vit_jax.cluster.schedulers import first_node

# What Open MPI 4.1.4 and Slurm 22.05 really set, shortened to what is read.
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_orte_hnp_uri": "340066304.0;tcp://10.0.0.5,10.1.0.5:41243;tcp6://[fd00::2]:35",
    "PMIX_NAMESPACE": "340066305",
}
SRUN = {
    "SLURM_JOB_ID": "42",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
    "SLURM_STEP_TASKS_PER_NODE": "3,1",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
}
SBATCH = {
    "SLURM_JOB_ID": "42",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_NODELIST": "gpu[007-008]",
}
SKYPILOT = {
    "SKYPILOT_NODE_RANK": "1",
    "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n",
    "SKYPILOT_NUM_NODES": "2",
    "SKYPILOT_NUM_GPUS_PER_NODE": "8",
    "SKYPILOT_TASK_ID": "sky-2026-11-24-11-00-00-123456_vit_1",
}
TPU = {"TPU_WORKER_HOSTNAMES": "t-0,t-1,t-2,t-3", "TPU_WORKER_ID": "2"}
SLICES = TPU | {
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "job-slice-0-0.job:8080",
}
JOB_SET = {
    "JOBSET_NAME": "vit",
    "REPLICATED_JOB_NAME": "workers",
    "PROCESSES_IN_JOB": "4",
    "JOB_COMPLETION_INDEX": "3",
}
JAX = {
    "JAX_COORDINATOR_ADDRESS": "a:1",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}
NOTHING = (None, None, None)


def without(environ, *names):
    return {name: value for name, value in environ.items() if name not in names}


def detected(environ):
    found = resolve(*NOTHING, environ)
    if found is None:
        return None
    place = (found.coordinator, found.num_processes, found.process_id)
    return found.name, *place, found.local_device_ids


PORT_42 = 61440 + 42
SKY_PORT = 61440 + zlib.crc32(SKYPILOT["SKYPILOT_TASK_ID"].encode()) % 4096
VIT_PORT = 61440 + zlib.crc32(b"vit") % 4096
PLACES = {
    "nothing": ({"PATH": "/bin"}, None),
    # 340066304 = 83024 * 4096, and 83024 = 20 * 4096 + 1104
    "mpirun": (OPEN_MPI, ("Open MPI", f"10.0.0.5:{61440 + 1104}", 4, 3, (1,))),
    "mpirun, a host": (
        OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"},
        ("Open MPI", f"127.0.0.1:{61440 + 1104}", 4, 3, (1,)),
    ),
    "mpirun, IPv6": (
        OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "4096.0;tcp6://[fd00::2,fd00::3]:35"},
        ("Open MPI", "[fd00::2]:61441", 4, 3, (1,)),
    ),
    "mpirun of Open MPI 5": (
        without(OPEN_MPI, "OMPI_MCA_orte_hnp_uri")
        | {"PMIX_NAMESPACE": "prterun-head-01-5000@1"},
        ("Open MPI", f"head-01:{61440 + 904}", 4, 3, (1,)),
    ),
    "mpirun in a job of Slurm": (
        SBATCH | OPEN_MPI,
        ("Open MPI", f"10.0.0.5:{61440 + 1104}", 4, 3, (1,)),
    ),
    "mpirun -np 1": (
        OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        ("Open MPI", "", 1, 0, None),
    ),
    "srun": (SRUN, ("Slurm job 42", f"gpu007:{PORT_42}", 4, 3, None)),
    "srun, three on the node": (
        SRUN | {"SLURM_NODEID": "0", "SLURM_LOCALID": "2", "SLURM_PROCID": "2"},
        ("Slurm job 42", f"gpu007:{PORT_42}", 4, 2, (2,)),
    ),
    "srun, two GPUs a task": (
        SRUN
        | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1"}
        | {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_ON_NODE": "4"},
        ("Slurm job 42", f"gpu007:{PORT_42}", 4, 3, (2, 3)),
    ),
    "srun, bound to a GPU": (
        SRUN
        | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1"}
        | {"CUDA_VISIBLE_DEVICES": "1"},
        ("Slurm job 42", f"gpu007:{PORT_42}", 4, 3, None),
    ),
    "srun, bound to two GPUs of four": (
        SRUN
        | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1"}
        | {"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_GPUS_ON_NODE": "4"},
        ("Slurm job 42", f"gpu007:{PORT_42}", 4, 3, None),
    ),
    "srun, a host": (
        SRUN
        | {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "gpu007"}
        | {"SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_NODEID": "0", "SLURM_LOCALID": "3"},
        ("Slurm job 42", f"127.0.0.1:{PORT_42}", 4, 3, (3,)),
    ),
    "srun, the second step of the job": (
        SRUN | {"SLURM_STEP_ID": "1"},
        ("Slurm job 42", f"gpu007:{PORT_42 + 997}", 4, 3, None),
    ),
    "srun, the least that JAX asks for": (
        without(SRUN, "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES"),
        ("Slurm job 42", f"gpu007:{PORT_42}", 4, 3, None),
    ),
    "srun -n 1": (
        SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        ("Slurm job 42", "", 1, 0, None),
    ),
    "srun -n 1 in an allocation of four": (
        SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        ("Slurm job 42", "", 1, 0, None),
    ),
    "sbatch without srun": (SBATCH, ("Slurm job 42", "", 1, 0, None)),
    "salloc without srun": (
        without(SBATCH, "SLURM_PROCID", "SLURM_LOCALID"),
        ("Slurm job 42", "", 1, 0, None),
    ),
    "salloc's interactive step": (
        SRUN | {"SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0"},
        ("Slurm job 42", "", 1, 0, None),
    ),
    "SkyPilot": (
        SKYPILOT,
        ("SkyPilot with 8 GPUs a node", f"10.0.0.1:{SKY_PORT}", 2, 1, None),
    ),
    "SkyPilot, a node": (
        SKYPILOT
        | {
            "SKYPILOT_NODE_IPS": "10.0.0.1",
            "SKYPILOT_NUM_NODES": "1",
            "SKYPILOT_NODE_RANK": "0",
        },
        ("SkyPilot with 8 GPUs a node", "", 1, 0, None),
    ),
    "TPU pod": (TPU, ("Cloud TPU", "t-0:8482", 4, 2, None)),
    "TPU host": (
        {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
        ("Cloud TPU", "", 1, 0, None),
    ),
    "TPU slices": (
        SLICES,
        ("Cloud TPU, 2 slices", "job-slice-0-0.job:8482", 8, 6, None),
    ),
    "TPU slices of a host": (
        SLICES | {"TPU_WORKER_HOSTNAMES": "t-0", "TPU_WORKER_ID": "0"},
        ("Cloud TPU, 2 slices", "job-slice-0-0.job:8482", 2, 1, None),
    ),
    "JobSet": (JOB_SET, ("JobSet vit", f"vit-workers-0-0.vit:{VIT_PORT}", 4, 3, None)),
    "JobSet of two jobs": (
        JOB_SET | {"JAX_PROCESS_COUNT": "8", "JOB_INDEX": "1"},
        ("JobSet vit", f"vit-workers-0-0.vit:{VIT_PORT}", 8, 7, None),
    ),
    "JAX's variables": (JAX, ("JAX_* variables", "a:1", 2, 1, None)),
    "JAX's variables before Slurm's": (
        SRUN | JAX,
        ("JAX_* variables", "a:1", 2, 1, None),
    ),
    "JAX's coordinator in Slurm": (
        SRUN | {"JAX_COORDINATOR_ADDRESS": "login", "JAX_COORDINATOR_PORT": "77"},
        ("Slurm job 42 and JAX_* variables", "login:77", 4, 3, None),
    ),
    "JAX's port in Slurm": (
        SRUN | {"JAX_COORDINATOR_PORT": "77"},
        ("Slurm job 42", "gpu007:77", 4, 3, None),
    ),
}


@pytest.mark.parametrize("case", PLACES)
def test_places(case):
    environ, place = PLACES[case]
    assert detected(environ) == place


MISTAKES = {
    "no rank": (without(OPEN_MPI, "OMPI_COMM_WORLD_RANK"), "OMPI_COMM_WORLD_RANK"),
    "no size": (without(OPEN_MPI, "OMPI_COMM_WORLD_SIZE"), "OMPI_COMM_WORLD_SIZE"),
    "rank 4 of 4": (OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "4"}, r"4 is outside 0\.\.3"),
    "no launcher": (
        without(OPEN_MPI, "OMPI_MCA_orte_hnp_uri", "PMIX_NAMESPACE"),
        "--coordinator=HOST:PORT",
    ),
    "no local id": (without(SRUN, "SLURM_LOCALID"), "SLURM_LOCALID is not set"),
    "no task": (without(SRUN, "SLURM_PROCID"), "SLURM_PROCID is not set"),
    "not a number": (
        SRUN | {"SLURM_NTASKS": "x"} | {"SLURM_STEP_NUM_TASKS": ""},
        "'x'",
    ),
    "task 4 of 4": (SRUN | {"SLURM_PROCID": "4"}, r"SLURM_PROCID 4 is outside 0\.\.3"),
    "a task without a step": (
        SBATCH | {"SLURM_PROCID": "1"},
        "start the tasks with srun",
    ),
    "three tasks on four GPUs": (
        SRUN
        | {"SLURM_NODEID": "0", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
        | {"SLURM_GPUS_ON_NODE": "4"},
        r"3 tasks of this host share 4 GPUs \(0,1,2,3\)",
    ),
    "no node": (without(SKYPILOT, "SKYPILOT_NODE_IPS"), "SKYPILOT_NODE_IPS is not set"),
    "no node rank": (
        without(SKYPILOT, "SKYPILOT_NODE_RANK"),
        "SKYPILOT_NODE_RANK is not",
    ),
    "nodes that differ": (
        SKYPILOT | {"SKYPILOT_NUM_NODES": "3"},
        "SKYPILOT_NUM_NODES is 3, but SKYPILOT_NODE_IPS lists 2: 10.0.0.1, 10.0.0.2",
    ),
    "no worker": (without(TPU, "TPU_WORKER_ID"), "TPU_WORKER_ID is not set"),
    "worker 4 of 4": (TPU | {"TPU_WORKER_ID": "4"}, r"4, outside 0\.\.3"),
    "slice 2 of 2": (SLICES | {"MEGASCALE_SLICE_ID": "2"}, r"outside 0\.\.7"),
    "no slice": (
        without(SLICES, "MEGASCALE_SLICE_ID"),
        "MEGASCALE_SLICE_ID is not set",
    ),
    "no first slice": (
        without(SLICES, "MEGASCALE_COORDINATOR_ADDRESS"),
        "MEGASCALE_COORDINATOR_ADDRESS is not set",
    ),
    "no pod": (
        without(JOB_SET, "JOB_COMPLETION_INDEX"),
        "JOB_COMPLETION_INDEX is not set",
    ),
    "no job": (JOB_SET | {"JAX_PROCESS_COUNT": "8"}, "JOB_INDEX is not set"),
    "JAX's by half": (
        without(JAX, "JAX_PROCESS_ID"),
        "go together .* got a:1, 2, nothing",
    ),
    "no port": (JAX | {"JAX_COORDINATOR_ADDRESS": "a"}, "'a', not HOST:PORT"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(case):
    environ, message = MISTAKES[case]
    with pytest.raises(StartError, match=message) as error:
        resolve(*NOTHING, environ)
    assert "\n" not in str(error.value)


def test_arguments_win():
    assert resolve("b:2", 2, 0, SRUN | JAX) == Cluster("arguments", "b:2", 2, 0)
    found = resolve("b:2", None, None, SRUN)
    assert found == Cluster("Slurm job 42 and arguments", "b:2", 4, 3)
    assert resolve("b:2", 2, 0, {"SLURM_JOB_ID": "x", "OMPI_COMM_WORLD_SIZE": "y"})
    assert resolve(None, 1, None, SRUN) == Cluster("arguments", "", 1, 0)


def test_arguments_by_half_need_a_scheduler():
    for environ in ({}, SBATCH):
        with pytest.raises(StartError, match=r"go together .* got nothing, 2, nothing"):
            resolve(None, 2, None, environ)


def test_it_is_said():
    assert str(resolve(*NOTHING, SRUN)) == (
        f"Slurm job 42: process 3 of 4, coordinator gpu007:{PORT_42}"
    )
    assert str(resolve(*NOTHING, SBATCH)) == (
        "Slurm job 42: one process, which trains alone "
        "(4 tasks are allocated: `srun vit-jax train ...` starts them all)"
    )


def test_near_jobs_and_their_steps_have_ports_of_their_own():
    ports = {
        resolve(
            *NOTHING, SRUN | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": step}
        ).coordinator.rpartition(":")[2]
        for job in range(5000, 5500)
        for step in "0123"
    }
    assert len(ports) == 4 * 500
    assert all(61440 <= int(port) < 65536 for port in ports)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("node[001-015],host2", "node001"),
        ("node[001,007-015],host2", "node001"),
        ("node7-[3-5]", "node7-3"),
        ("rack[1-2]n[01-16]-ib,x", "rack1n01-ib"),
    ],
)
def test_the_first_of_a_list_of_nodes(nodes, first):
    assert first_node(nodes) == first
