"""Runs of some processes under a launcher, and what they left in the work directory."""

import json
import socket
import subprocess
import sys

from etils import epath

from tests import training
from vit_jax import metrics
from vit_jax.checkpoint import arrays, folder

STEPS, BATCH = 6, 16
EVALUATED = 360  # digits of the split that is evaluated
CHANGES = (
    "data.name=arrays:digits",
    "mesh.data=1",
    "mesh.fsdp=-1",  # each process holds, and writes, its part of the parameters
    f"train.duration.steps={STEPS}",
    "checkpoint.every.steps=3",
    f"evals.val.every.steps={STEPS}",
    "log.example_ids=True",
)
_KEYS = ("train/loss", "data/example_ids", "val/accuracy", "val/loss", "val/examples")


def command(workdir):
    """Trains, and counts the rows that each process reads in ``WORKDIR/../read``."""
    arguments = training.train_arguments(workdir, *CHANGES)
    module = "tests.cluster.counted"
    return [sys.executable, "-m", module, str(workdir.parent / "read"), *arguments]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def finish(processes, seconds=300):
    """Codes, outputs and errors; none outlives it."""
    try:
        done = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [process.returncode for process in processes], done


def start(arguments, variables=None, devices=1):
    """Starts one process."""
    return subprocess.Popen(
        arguments,
        env=training.environment(devices) | (variables or {}),
        cwd=training.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def numbers(workdir):
    """Losses, checksums of example ids and results of evaluations, by step."""
    rows = metrics.read_rows(workdir / "metrics.jsonl")
    return [(row["step"], key, row[key]) for row in rows for key in _KEYS if key in row]


def digests(workdir):
    """Of every array of every saved step."""
    checkpoints = folder.Folder(epath.Path(workdir / "checkpoints"))
    return {
        (step, name): leaf.digest
        for step, meta in checkpoints.metas().items()
        for name, leaf in meta.leaves.items()
    }


def check_files(workdir):
    """Compares the arrays of the last step with their digests, in this process."""
    checkpoints = folder.Folder(epath.Path(workdir / "checkpoints"))
    leaves = checkpoints.meta(STEPS).leaves
    path = checkpoints.step_path(STEPS) / "state"
    assert arrays.StepArrays(path, leaves).check()


def writers(workdir):
    """Which processes' parts hold arrays of the last checkpoint."""
    state = workdir / "checkpoints" / str(STEPS) / "state"
    return {
        int(path.name.rpartition("_")[2])
        for path in state.glob("ocdbt.process_*")
        if any(one.is_file() for one in path.glob("d/*"))
    }


def read(workdir):
    """``(id, position)`` of the rows of training, and of evaluation, by process."""
    rows = {
        int(file.stem): json.loads(file.read_text())
        for file in (workdir.parent / "read").glob("*.json")
    }

    def chosen(training):
        return {
            process: sorted(
                (id, position)
                for size, id, position in found
                if (size != EVALUATED) == training
            )
            for process, found in rows.items()
        }

    return chosen(True), chosen(False)
