"""Plans a config for topologies: what it needs, whether it fits, how long it takes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from vit_jax.models import variants
from vit_jax.plan import compile as compiling
from vit_jax.plan import predict, shapes
from vit_jax.plan.program import Job, mesh_sizes, prepare
from vit_jax.plan.search import Choice, choices
from vit_jax.plan.topology import Topology

# Memory that a plan leaves: below it the compiler still computes as it was written.
SHARE = 0.9

# What JAX takes of a GPU's memory by default.
GPU_SHARE = 0.75

# Shares of a predicted time that are too small to choose by.
ALIKE = 0.03

# Choices of a search that are compiled before it takes the first as it was counted.
COMPILED = 5


@dataclasses.dataclass(frozen=True)
class Plan:
    """One topology's answer. Memory is of a chip, FLOPs are analytic.

    Args:
      topology: what was planned for.
      mode: "compiled" or "shapes".
      notes: what else the reader should know, a line each.
      mesh: devices along each axis.
      parameters: that are trained.
      flops_per_image: of a training step, without what remat does again.
      step_flops: of all devices.
      memory_gib: that a chip needs, and ``memory_parts`` by shapes.
      limit_gib: that a chip has for a program.
      fits: whether it needs no more, and the compiler recomputes nothing for it.
      collective_gb: that a device sends a step; ``collectives`` by kind.
      compile_seconds: None in shapes mode.
      step_seconds: a bracket, predicted.
      days: a bracket, predicted; None where the run's length is not known.
      accumulate: micro-batches a step.
      kernels: of Pallas, in a compiled program.
      overrides: flags that make the config this one.
      tried: of a search, every choice, the best first.
    """

    topology: Topology
    mode: str
    notes: tuple[str, ...]
    mesh: dict[str, int]
    parameters: int
    flops_per_image: int
    step_flops: int
    memory_gib: float
    memory_parts: dict[str, float]
    limit_gib: float
    fits: bool
    collective_gb: float
    collectives: dict[str, float]
    compile_seconds: float | None
    step_seconds: tuple[float, float]
    days: tuple[float, float] | None
    accumulate: int = 1
    kernels: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    tried: tuple["Plan", ...] = ()

    @property
    def has_room(self) -> bool:
        """Whether it fits and leaves some of the memory."""
        return self.fits and self.memory_gib <= SHARE * self.limit_gib

    @property
    def time(self) -> float:
        """What choices are compared by."""
        return math.sqrt(math.prod(self.step_seconds))

    def to_json(self) -> dict[str, Any]:
        """Plain values, the topology spelled out."""
        place = self.topology
        fields = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        return fields | {
            "topology": str(place),
            "also": place.count_name,
            "chips": place.chips,
            "hosts": place.hosts,
            "cores": place.cores,
            "slices": place.slices,
            "tried": [plan.to_json() for plan in self.tried],
        }


def plan(
    config: Any,
    topology: Topology,
    *,
    compile: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Plans a config as it is.

    Args:
      config: loaded, not resolved.
      topology: what it would run on.
      compile: whether to compile where that is possible; False counts by shapes.
      say: prints a line while it takes long.

    Raises:
      ConfigError: the config cannot train there.
    """
    job = prepare(config, topology)
    return _plan(shapes.Program(job), job, topology, compile=compile, say=say)


def search(
    config: Any,
    topology: Topology,
    *,
    compile: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """The fastest choice of sharding, remat and accumulation that fits, as predicted.

    All are counted by shapes and ranked; where compiling is possible, the best are
    compiled until one fits. If none does, the one that needs the least memory is
    returned, and ``fits`` is False.

    Raises:
      ConfigError: the config cannot train there with any.
    """
    options = choices(config, topology)
    program = shapes.Program(prepare(options[0].config, topology))

    def make(option: Choice, *, compile: bool) -> Plan:
        job = prepare(option.config, topology)
        found = _plan(program, job, topology, compile=compile, say=say)
        return dataclasses.replace(found, overrides=option.overrides)

    tried = rank([make(option, compile=False) for option in options])
    if compile and not compiling.available(topology):
        by_flags = {option.overrides: option for option in options}
        for index, counted in enumerate(tried[:COMPILED]):
            tried[index] = make(by_flags[counted.overrides], compile=True)
            if tried[index].has_room:
                break
    # What is only counted by shapes does not come before what is known to fit.
    known = [found for found in tried if found.mode == "compiled" and found.has_room]
    ranked = rank(tried)
    best = known[0] if known else ranked[0]
    return dataclasses.replace(best, tried=tuple(ranked))


def rank(plans: list[Plan]) -> list[Plan]:
    """Those that fit first, by time; the others by memory.

    Times within `ALIKE` of each other say nothing: of those the simplest comes first,
    then the one with the most memory left.
    """
    fastest = min((one.time for one in plans if one.has_room), default=1.0)

    def order(one: Plan) -> tuple[Any, ...]:
        if not one.has_room:
            return True, one.memory_gib
        steps = int(math.log(one.time / fastest) / math.log(1 + ALIKE))
        return False, steps, one.mesh["tensor"], one.accumulate, one.memory_gib

    return sorted(plans, key=order)


def _plan(
    program: shapes.Program,
    job: Job,
    topology: Topology,
    *,
    compile: bool,
    say: Callable[[str], None],
) -> Plan:
    config, devices, chip = job.config, topology.devices, topology.chip
    memory = shapes.memory(program, config, devices)
    time = predict.predict(program, config, topology)
    sent = predict.traffic(program, config, devices)
    limit, notes = limit_gib(topology)
    notes += _whole(config, mesh_sizes(config, devices)["fsdp"])
    by_shapes = Plan(
        topology=topology,
        mode="shapes",
        notes=notes,
        mesh=mesh_sizes(config, devices),
        parameters=shapes.count(program.state.params),
        flops_per_image=program.flops_per_image,
        step_flops=program.flops_per_image * config.train.batch_size,
        memory_gib=memory.total * chip.devices,
        memory_parts={
            name: value * chip.devices
            for name, value in dataclasses.asdict(memory).items()
        },
        limit_gib=limit,
        fits=memory.total * chip.devices <= SHARE * limit,
        collective_gb=sent.total / 1e9,
        collectives={
            name: value / 1e9 for name, value in dataclasses.asdict(sent).items()
        },
        compile_seconds=None,
        accumulate=config.train.accumulate,
        step_seconds=(time.low, time.high),
        days=None
        if job.total is None
        else (time.low * job.total / 86_400, time.high * job.total / 86_400),
    )
    if not compile:
        return by_shapes
    if reason := compiling.available(topology):
        return dataclasses.replace(by_shapes, notes=(*notes, f"not compiled: {reason}"))
    say(f"{topology}: compiling, about a minute of a core")
    try:
        return _with(by_shapes, compiling.compile_step(config, topology))
    except compiling.CompileError as error:
        return dataclasses.replace(by_shapes, notes=(*notes, f"not compiled: {error}"))


def _whole(config: Any, fsdp: int) -> tuple[str, ...]:
    """A note where the parameters are not split as the mesh says."""
    width = variants.resolve(**config.model.to_dict())["width"]
    if width % fsdp == 0:
        return ()
    return (
        f"mesh.fsdp={fsdp} does not divide the model's width of {width}: most "
        f"parameters stay whole; {math.gcd(fsdp, width)} does",
    )


def _with(by_shapes: Plan, compiled: compiling.Compiled) -> Plan:
    """What the compiler says in place of what shapes say."""
    topology = by_shapes.topology
    described = topology.chip.described  # whose memory a chip's is
    notes = list(by_shapes.notes)
    if compiled.message:
        notes.append(f"out of memory: {compiled.message}")
    if compiled.rematerialized:
        notes.append(
            f"the compiler computes {compiled.rematerialized} instructions again to "
            "stay within the memory: this does not count as a fit"
        )
    if described > topology.chip.devices:
        notes.append(
            "compiled as two devices a chip, each with the parameters: an upper bound"
        )
    memory = compiled.memory_gib * described
    limit = by_shapes.limit_gib
    by_kind: dict[str, float] = {}
    for one in compiled.collectives:
        name = one["kind"] + (" between slices" if one["crosses"] else "")
        by_kind[name] = by_kind.get(name, 0.0) + one["sent"] / 1e9
    enough = compiled.fits and memory <= limit
    if enough and memory > SHARE * limit:
        notes.append(f"fits, but with less than {1 - SHARE:.0%} of the memory to spare")
    return dataclasses.replace(
        by_shapes,
        mode="compiled",
        notes=tuple(notes),
        memory_gib=memory,
        fits=enough,
        collective_gb=sum(by_kind.values())
        if compiled.collectives
        else by_shapes.collective_gb,
        collectives=by_kind or by_shapes.collectives,
        compile_seconds=compiled.compile_seconds,
        kernels=compiled.kernels,
    )


def limit_gib(topology: Topology) -> tuple[float, tuple[str, ...]]:
    """What a chip has for a program, and a note where that is a setting."""
    chip = topology.chip
    if chip.is_tpu:
        return chip.usable_gib, ()
    return chip.usable_gib * GPU_SHARE, (
        f"JAX takes {GPU_SHARE:.0%} of a GPU's {chip.usable_gib:g} GiB unless "
        "XLA_PYTHON_CLIENT_MEM_FRACTION says more",
    )
