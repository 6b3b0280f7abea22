"""Compiles a train step for TPUs that are not there, in a process of its own.

libtpu reads its settings once, when it is loaded, and may end the process on an error;
the caller's JAX stays on the CPU. One compilation at a time: each takes about a minute
of a core and 1 GB.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import jax

from vit_jax.plan.topology import Topology

# Before libtpu is loaded. The accelerator's type is of the machine that libtpu believes
# to be on, not of what is compiled for. Two processes may load it at a time.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # its seconds would not be a compilation's
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
TIMEOUT = 3600.0
_GIGABYTES = {"T": 1024.0, "G": 1.0, "M": 2.0**-10, "K": 2.0**-20, "": 2.0**-30}
_SIZE = r"([\d.]+)([TGMK]?)"


class CompileError(RuntimeError):
    """It could not be compiled, for another reason than memory."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program.

    Args:
      memory_gib: a device needs; of one that does not fit, what the compiler names.
      limit_gib: a device has, where the compiler says it.
      fits: it compiled, and nothing had to be computed again for it.
      rematerialized: instructions that the compiler computes again of itself.
      collectives: as `hlo.Collective`, or nothing where it did not compile.
      flops: of a device's matrix products, without those in kernels of Pallas.
      kernels: of Pallas, by name.
      compile_seconds: of the compiler.
      message: of the compiler, where there was not enough memory.
    """

    memory_gib: float
    limit_gib: float | None
    fits: bool
    rematerialized: int
    collectives: tuple[dict[str, Any], ...]
    flops: int
    kernels: tuple[str, ...]
    compile_seconds: float
    message: str = ""


def available(topology: Topology) -> str:
    """Why nothing can be compiled for a topology here; empty when it can."""
    if not topology.chip.is_tpu:
        return "programs for GPUs are compiled where there is one"
    spec = importlib.util.find_spec("libtpu")
    if spec is None or spec.origin is None:
        return "libtpu is not installed (pip install 'vit-jax[plan]', 650 MB)"
    if topology.slices > 1 and jax.__version_info__ < (0, 11):
        return (
            f"JAX {jax.__version__} knows no topologies of several slices; JAX 0.11 "
            "and newer (Python 3.12) do"
        )
    return ""


def compile_step(config: Any, topology: Topology) -> Compiled:
    """Compiles the train step of a config for a topology.

    Raises:
      CompileError: for whatever reason but memory.
    """
    from vit_jax.config import to_json

    task = {"config": to_json(config), "topology": str(topology)}
    root = str(pathlib.Path(__file__).resolve().parents[2])
    # Flags of this machine's XLA are not those of a TPU's.
    here = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "vit_jax.plan.worker"],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            env=here | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)},
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise CompileError(f"no result after {TIMEOUT / 60:.0f} minutes") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CompileError(f"the compiler's process ended ({done.returncode}): {last}")
    return read(json.loads(lines[-1]))


def read(answer: dict[str, Any]) -> Compiled:
    """What the compiling process printed.

    Raises:
      CompileError: it says that the compiler failed.
    """
    if "error" in answer:
        raise CompileError(answer["error"])
    lists = {name: tuple(answer.pop(name)) for name in ("collectives", "kernels")}
    return Compiled(**lists, **answer)


def out_of_memory(message: str) -> tuple[float, float | None] | None:
    """GiB that are needed, and that there are, from the compiler's error.

    None for an error that is about something else.
    """
    if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
        return None
    for pattern in (
        rf"Used {_SIZE}i?B? of {_SIZE}",
        rf"required[^(]*\({_SIZE}\) exceeds available[^(]*\({_SIZE}\)",
    ):
        if match := re.search(pattern, message):
            needed, unit, limit, limit_unit = match.groups()
            return (
                float(needed) * _GIGABYTES[unit],
                float(limit) * _GIGABYTES[limit_unit],
            )
    return (float("nan"), None)
