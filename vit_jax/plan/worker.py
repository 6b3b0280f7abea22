"""The process that compiles: reads a task from standard input, prints what came out.

Its environment is that of `compile.ENVIRONMENT`, set before it starts.
"""

import dataclasses
import json
import sys
import time
from typing import Any

import jax

from vit_jax.plan import hlo
from vit_jax.plan.compile import out_of_memory
from vit_jax.plan.hlo_flops import product_flops
from vit_jax.plan.program import Job, build, mesh_sizes, prepare
from vit_jax.plan.shapes import device_bytes
from vit_jax.plan.topology import Topology, parse

_GIB = 2.0**30


def main() -> None:
    """Compiles one train step."""
    from vit_jax.config import from_json

    task = json.loads(sys.stdin.read())
    topology = parse(task["topology"])
    job = prepare(from_json(task["config"]), topology)
    try:
        answer = compile_for(job, topology)
    except Exception as error:  # of whatever kind: the reason is for the user
        text = str(error).strip() or "no message"
        answer = {"error": f"{type(error).__name__}: {text.splitlines()[0]}"}
    print(json.dumps(answer), flush=True)


def compile_for(job: Job, topology: Topology) -> dict[str, Any]:
    """`compile.Compiled` as a dict, a device's share."""
    devices = describe(topology)
    job = spread(job, topology, len(devices))
    parts, batch = build(job, devices=devices)
    with jax.set_mesh(parts.mesh):
        lowered = parts.train_step.lower(
            parts.state_shapes, parts.frozen, batch, parts.step_key
        )
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        sizes = out_of_memory(str(error))
        if sizes is None:
            raise
        held = 0.0
        if "HLO temporaries" in str(error):  # which leave out what is there before
            held = device_bytes(parts.state_shapes, topology.chip) / _GIB
        return {
            "memory_gib": sizes[0] + held,
            "limit_gib": sizes[1],
            "fits": False,
            "rematerialized": 0,
            "collectives": [],
            "flops": 0,
            "kernels": [],
            "compile_seconds": time.perf_counter() - start,
            "message": str(error).splitlines()[0],
        }
    seconds = time.perf_counter() - start
    text = compiled.as_text()
    again = hlo.rematerialized(text)
    found = hlo.collectives(text, slice_size=len(devices) // topology.slices)
    return {
        "memory_gib": needed(compiled.memory_analysis()) / _GIB,
        "limit_gib": None,
        "fits": not again,
        "rematerialized": len(again),
        "collectives": [dataclasses.asdict(one) for one in found],
        "flops": product_flops(text),
        "kernels": hlo.kernels(text),
        "compile_seconds": seconds,
    }


def describe(topology: Topology) -> list[Any]:
    """Devices as the compiler knows them."""
    from jax.experimental import topologies

    several = {"num_slices": topology.slices} if topology.slices > 1 else {}
    return topologies.get_topology_desc(
        platform="tpu", topology_name=topology.slice_name, **several
    ).devices


def spread(job: Job, topology: Topology, described: int) -> Job:
    """The job on as many devices as are described.

    A v4's two cores are described as two devices, but a run has one device a chip:
    twice the copies then, each with half the batch. What two devices need, a chip
    needs; the parameters count twice, so that it is an upper bound.
    """
    times = described // topology.devices
    if times == 1:
        return job
    config = job.config.copy_and_resolve_references()
    with config.unlocked():
        config.mesh.update(mesh_sizes(config, topology.devices))
        config.mesh.data *= times
    return dataclasses.replace(job, config=config.lock())


def needed(memory: Any) -> int:
    """Bytes of a device while a program runs.

    Not ``peak_memory_in_bytes``, which leaves out what is held from before.
    """
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )


if __name__ == "__main__":
    main()
