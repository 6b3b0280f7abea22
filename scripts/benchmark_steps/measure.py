"""Measures a cell: ours beside its peers, as a row of plain values."""

import contextlib
import dataclasses
import gc
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from benchmark_steps import clock, linen_peer, ours, parts, timm_peer
from benchmark_steps.cells import Cell
from benchmark_steps.clock import Contender

PEERS = ("linen", "timm", "unrolled")
OURS, LOADED = "ours", "ours, loaded"
GREW = 0.95  # of the best rate so far; below, larger batches are not tried


@dataclasses.dataclass(frozen=True)
class Plan:
    """How cells are measured.

    Args:
      devices: that the step runs on.
      peers: names of ``PEERS``.
      compile_timm: whether timm runs compiled as well.
      repeats: rounds.
      seconds: of a sample, at least a step.
      profile: whether the parts are timed as well.
      open_batches: batches of real data for a cell and a sharding, if any.
      matmul_size: of the products that are the peak, None for the usual one.
    """

    devices: Sequence[Any]
    peers: Sequence[str]
    compile_timm: bool
    repeats: int
    seconds: float
    profile: bool
    open_batches: Callable[[Cell, Any], Any] | None = None
    matmul_size: int | None = None


def reason(error: BaseException) -> tuple[str, str]:
    """The status of a cell that ended so, and the message in a line."""
    text = " ".join(str(error).split())
    memory = ("resource_exhausted", "out of memory", "outofmemory")
    lower = f"{type(error).__name__} {text}".lower()
    found = isinstance(error, MemoryError) or any(word in lower for word in memory)
    if len(text) > 200:
        text = text[:197] + "..."
    return "out of memory" if found else "failed", text or type(error).__name__


def measure(cell: Cell, plan: Plan) -> dict[str, Any]:
    """The row of a cell; one that cannot run is a row that says why."""
    row: dict[str, Any] = {"label": cell.label} | dataclasses.asdict(cell)
    try:
        with contextlib.ExitStack() as stack:
            return row | {"status": "ok"} | _measure(cell, plan, stack)
    except (
        ours.OutOfMemoryError,
        MemoryError,
        NotImplementedError,
        RuntimeError,  # of the backends, out of memory among them
        ValueError,
    ) as error:
        status, message = reason(error)
        return row | {"status": status, "message": message}
    finally:
        gc.collect()


def _measure(cell: Cell, plan: Plan, stack: contextlib.ExitStack) -> dict[str, Any]:
    device = plan.devices[0]
    peak_before, _ = ours.memory_peak(device)
    loaded = plan.open_batches is not None
    program = ours.build_program(cell, plan.devices, flip=loaded)
    # Before the first step gives the arrays away.
    initial = jax.tree.map(
        lambda leaf: jax.device_get(leaf), program.held["state"].params["encoder"]
    )
    batch = ours.random_batch(cell)
    contenders = [ours.build_ours(program, batch)]
    peak, peak_of = ours.memory_peak(device)
    missing: dict[str, str] = {}
    for name, build in _peers(cell, plan, initial, batch):
        try:
            contenders.append(build())
        except (timm_peer.NoPeerError, *_TROUBLE) as error:
            missing[name] = reason(error)[1]
    if plan.open_batches is not None:
        batches = plan.open_batches(cell, program.batch_sharding)
        source = stack.enter_context(contextlib.closing(batches))
        contenders.append(ours.build_ours(program, source, name=LOADED))
    matmul, matmul_flops = clock.matmul(cell.dtype, device, size=plan.matmul_size)
    timed, tables = [*contenders, matmul], []
    if plan.profile:
        tables = parts.build_parts(cell)
        timed += [part.contender for part in tables] + parts.build_phases(cell)
    samples = clock.take_turns(timed, repeats=plan.repeats, seconds=plan.seconds)
    cpu = {name: [took.cpu for took in times] for name, times in samples.items()}
    matmul_rate = matmul_flops / clock.Spread.of(samples[matmul.name]).median
    row = {
        "num_params": program.num_params,
        "flops_per_image": program.flops_per_image,
        "matmul_tflops": matmul_rate / 1e12,
        "peak_gib": peak / 2**30,
        "peak_of": peak_of,
        "peak_is_of_this_cell": peak > peak_before,
        "contenders": [
            _describe(each, samples, cell, plan, program, matmul, matmul_flops)
            for each in contenders
        ],
        "ratios": {
            each.name: dataclasses.asdict(clock.ratios(samples, OURS, each.name))
            for each in contenders[1:]
        },
        "cpu_ratios": {
            each.name: dataclasses.asdict(clock.ratios(cpu, OURS, each.name))
            for each in contenders[1:]
        },
        "missing": missing,
        "samples": samples,
        "cpu_samples": cpu,
    }
    if plan.profile:
        table = parts.tabulate(
            samples,
            tables,
            whole=OURS,
            step_flops=cell.batch * program.flops_per_image / len(plan.devices),
            peak=matmul_rate,
        )
        row["profile"] = dataclasses.asdict(table)
    return row


_TROUBLE = (ours.OutOfMemoryError, MemoryError, NotImplementedError, RuntimeError)


def _peers(
    cell: Cell, plan: Plan, initial: Any, batch: Any
) -> Iterator[tuple[str, Callable[[], Contender]]]:
    """Names of the peers and what builds them."""
    if "linen" in plan.peers:
        yield "linen", lambda: linen_peer.build_linen(cell, initial, batch)
    if "timm" in plan.peers:
        yield (
            "timm",
            lambda: timm_peer.build_timm(cell, initial, batch, compiled=False),
        )
        if plan.compile_timm:
            yield (
                "timm compiled",
                lambda: timm_peer.build_timm(cell, initial, batch, compiled=True),
            )
    if "unrolled" in plan.peers:
        yield "unrolled", lambda: _unrolled(cell, plan, batch)


def _unrolled(cell: Cell, plan: Plan, batch: Any) -> Contender:
    """Our own step with the blocks written out."""
    program = ours.build_program(dataclasses.replace(cell, unroll=0), plan.devices)
    return ours.build_ours(program, batch, name="unrolled")


def _describe(
    contender: Contender,
    samples: clock.Samples,
    cell: Cell,
    plan: Plan,
    program: ours.Program,
    matmul: Contender,
    matmul_flops: float,
) -> dict[str, Any]:
    """A contender's rates and facts."""
    rates = clock.rate(
        samples,
        contender.name,
        batch=cell.batch,
        flops_per_image=program.flops_per_image,
        matmul_name=matmul.name,
        matmul_flops=matmul_flops,
        num_devices=len(plan.devices),
        device_kind=plan.devices[0].device_kind,
        dtype=cell.dtype,
    )
    facts = dict(contender.facts)
    dispatch = None
    if "data_wait_seconds" in facts:
        # Of the rounds alone: the first batches wait for threads to start.
        waits = facts.pop("data_wait_seconds")[-contender.least * plan.repeats :]
        mean = sum(waits) / len(waits)
        facts["data_wait_share"] = min(1.0, mean / rates.step_seconds.median)
    else:
        dispatch = clock.time_dispatch(contender, 5)
    loss = contender.loss()
    return {
        "name": contender.name,
        **dataclasses.asdict(rates),
        "dispatch_seconds": dispatch,
        "loss": loss if math.isfinite(loss) else None,
        **facts,
    }


def best_batch(
    rate: Callable[[int], float | None], *, start: int = 8, most: int = 2**16
) -> tuple[int | None, dict[int, float | None]]:
    """The fastest power of two, tried upwards, and what all that were tried gave.

    Args:
      rate: images a second at a batch size, None where it does not fit.
      start: tried first; smaller ones where it does not fit.
      most: tried at most.
    """
    tried: dict[int, float | None] = {}
    batch = start
    while batch >= 1 and (found := rate(batch)) is None:
        tried[batch] = None
        batch //= 2
    if batch < 1:
        return None, tried
    tried[batch] = best = found
    while batch * 2 <= most and batch * 2 not in tried:
        batch *= 2
        tried[batch] = found = rate(batch)
        if found is None or found < GREW * best:
            break
        best = max(best, found)
    return max((found, -size) for size, found in tried.items() if found)[1] * -1, tried


def quick_rate(cell: Cell, plan: Plan) -> float | None:
    """Images a second by a few steps; None where the cell does not fit."""
    try:
        program = ours.build_program(cell, plan.devices)
        contender = ours.build_ours(program, ours.random_batch(cell))
        samples = clock.take_turns([contender], repeats=3, seconds=plan.seconds)
    except _TROUBLE as error:
        if reason(error)[0] == "out of memory":
            return None
        raise
    finally:
        gc.collect()
    return cell.batch / clock.Spread.of(samples[OURS]).median
