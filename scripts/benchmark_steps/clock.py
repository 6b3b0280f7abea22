"""Times of contenders that take turns, and what follows from them.

Contenders run one after the other in each round, so that whatever else the machine does
hits all of them, and ratios are taken round by round.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.plan import chips

Samples = Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Contender:
    """Something that runs steps.

    Args:
      name: in tables.
      start: begins a step; returns before it has ended where the backend can.
      wait: blocks until all steps have ended.
      facts: what is known of it besides its times, for the report.
      loss: of the last step, NaN where there is none.
      least: steps of a sample, at least.
    """

    name: str
    start: Callable[[], None]
    wait: Callable[[], None]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    loss: Callable[[], float] = lambda: math.nan
    least: int = 1


class Seconds(float):
    """Wall seconds, with those of CPU time of all threads of the process beside them.

    Where other programs want the same cores, CPU time is the steadier of the two.
    """

    cpu: float


def time_steps(contender: Contender, steps: int) -> Seconds:
    """Seconds a step of ``steps`` begun one behind the other."""
    begun, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        contender.start()
    contender.wait()
    took = Seconds((time.perf_counter() - begun) / steps)
    took.cpu = (time.process_time() - cpu) / steps
    return took


def time_dispatch(contender: Contender, repeats: int) -> float:
    """Median seconds until `start` returns, the device idle before it."""
    times = []
    for _ in range(repeats):
        contender.wait()
        begun = time.perf_counter()
        contender.start()
        times.append(time.perf_counter() - begun)
    contender.wait()
    return statistics.median(times)


def take_turns(
    contenders: Sequence[Contender], *, repeats: int, seconds: float
) -> dict[str, list[Seconds]]:
    """Seconds a step, in ``repeats`` rounds.

    A sample has as many steps as take about ``seconds``, by a first one that warms up
    and does not count.
    """
    steps = {}
    for each in contenders:
        # The first after a build may still meet caches that are cold.
        once = min(time_steps(each, 1) for _ in range(2 if seconds else 1))
        steps[each.name] = max(each.least, math.ceil(seconds / max(once, 1e-9)))
    times: dict[str, list[Seconds]] = {each.name: [] for each in contenders}
    for _ in range(repeats):
        for each in contenders:
            times[each.name].append(time_steps(each, steps[each.name]))
    return times


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median with the smallest and largest value beside it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


def ratios(samples: Samples, of: str, to: str) -> Spread:
    """How many times as fast ``of`` is as ``to``, round by round; above 1 is faster."""
    return Spread.of(
        [theirs / ours for ours, theirs in zip(samples[of], samples[to], strict=True)]
    )


def matmul(
    dtype: str, device: Any, *, size: int | None = None, count: int | None = None
) -> tuple[Contender, float]:
    """A chain of square products on one device, and its operations a step.

    The products are of the size at which libraries are fastest, so that the rate is a
    peak to measure the model by.
    """
    on_cpu = device.platform == "cpu"
    size = size or (2048 if on_cpu else 8192)
    count = count or (8 if on_cpu else 16)

    def chain(x: jax.Array, w: jax.Array) -> jax.Array:
        def body(_: Any, x: jax.Array) -> jax.Array:
            return (x @ w).astype(x.dtype)

        return jax.lax.fori_loop(0, count, body, x)

    place = jax.sharding.SingleDeviceSharding(device)
    draw = jax.jit(
        # Scaled so that products neither grow nor vanish.
        lambda key: (jax.random.normal(key, (size, size)) / size**0.5).astype(dtype),
        out_shardings=place,
    )
    x, w = draw(jax.random.key(0)), draw(jax.random.key(1))
    run = jax.jit(chain)
    last = [x]

    def start() -> None:
        last[0] = run(x, w)

    def wait() -> None:
        jax.block_until_ready(last[0])

    return Contender(f"matmul {dtype}", start, wait), 2.0 * size**3 * count


@dataclasses.dataclass(frozen=True)
class Rates:
    """What follows from the times of one contender.

    ``mfu`` is the model's operations over the peak of the chip's data sheet, None where
    none is known or the computation is not in bfloat16; ``mfu_matmul`` over the rate
    of products in the same rounds.
    """

    step_seconds: Spread
    images_per_second: float
    tflops: float
    mfu: float | None
    mfu_matmul: float


def rate(
    samples: Samples,
    name: str,
    *,
    batch: int,
    flops_per_image: float,
    matmul_name: str,
    matmul_flops: float,
    num_devices: int,
    device_kind: str,
    dtype: str,
) -> Rates:
    """Turns seconds into rates; ``tflops`` and the shares are per device."""
    step = Spread.of(samples[name])
    flops = batch * flops_per_image / num_devices
    chip = chips.find(device_kind) if dtype == "bfloat16" else None
    shares = [
        (flops / ours) / (matmul_flops / product)
        for ours, product in zip(samples[name], samples[matmul_name], strict=True)
    ]
    return Rates(
        step_seconds=step,
        images_per_second=batch / step.median,
        tflops=flops / step.median / 1e12,
        mfu=flops / step.median / (chip.bf16_tflops * 1e12) if chip else None,
        mfu_matmul=statistics.median(shares),
    )


def normal(key: int, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Random numbers to compute with."""
    return jax.random.normal(jax.random.key(key), shape, dtype)
