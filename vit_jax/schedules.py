"""Learning-rate schedules: linear warmup, a named shape, linear cooldown.

A schedule maps the number of updates made so far to the rate of the next one, so that
the first update of a run with warmup has rate 0 (as in big_vision: it only fills the
optimizer's averages), and the last one is one step short of the end value.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

# A shape begins at `peak` where the warmup ends and has `steps` left until the end of
# the run. All shapes take the same keywords and use the ones they need.


def cosine(*, peak: float, steps: int, final: float, timescale: int) -> optax.Schedule:
    """Half a cosine from ``peak`` to ``final * peak`` (arXiv 1608.03983)."""
    return optax.cosine_decay_schedule(peak, max(steps, 1), alpha=final)


def linear(*, peak: float, steps: int, final: float, timescale: int) -> optax.Schedule:
    """A straight line from ``peak`` to ``final * peak``."""
    return optax.linear_schedule(peak, final * peak, max(steps, 1))


def rsqrt(*, peak: float, steps: int, final: float, timescale: int) -> optax.Schedule:
    """``peak / sqrt(1 + step / timescale)`` (arXiv 2106.04560)."""

    def schedule(step: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        return peak / jnp.sqrt(1 + jnp.maximum(step, 0) / timescale)

    return schedule


def constant(
    *, peak: float, steps: int, final: float, timescale: int
) -> optax.Schedule:
    """``peak`` throughout; followed by a cooldown it is warmup-stable-decay."""
    return optax.constant_schedule(peak)


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "cosine": cosine,
    "linear": linear,
    "rsqrt": rsqrt,
    "wsd": constant,  # warmup-stable-decay (arXiv 2404.06395): needs a cooldown
    "constant": constant,
}


def build(
    *,
    name: str,
    peak: float,
    total_steps: int,
    warmup_steps: int,
    cooldown_steps: int,
    final: float,
    timescale: int,
) -> optax.Schedule:
    """Builds the schedule of a run.

    Args:
      name: a shape of ``SCHEDULES``.
      peak: the rate where the warmup ends.
      total_steps: updates of the whole run.
      warmup_steps: updates over which the rate rises linearly from 0.
      cooldown_steps: updates at the end over which what the shape has above
        ``final * peak`` is scaled linearly to nothing. Shapes that end there anyway
        (cosine, linear) do without.
      final: end value of cosine, linear and any cooldown, as a share of the peak.
      timescale: steps in which rsqrt's squared rate halves for the first time.

    Raises:
      ValueError: the name is unknown, or the durations do not fit the run.
    """
    if name not in SCHEDULES:
        raise ValueError(
            f"schedule.name {name!r} is unknown; known: {', '.join(SCHEDULES)}"
        )
    if min(warmup_steps, cooldown_steps) < 0 or (
        warmup_steps + cooldown_steps > total_steps
    ):
        raise ValueError(
            f"schedule: warmup ({warmup_steps}) and cooldown ({cooldown_steps}) do not "
            f"fit in a run of {total_steps} steps"
        )
    if name == "wsd" and not cooldown_steps:
        raise ValueError("schedule 'wsd' needs a cooldown; set schedule.cooldown")
    if name == "rsqrt" and timescale <= 0:
        raise ValueError(f"schedule.timescale must be positive, got {timescale}")
    schedule = SCHEDULES[name](
        peak=peak, steps=total_steps - warmup_steps, final=final, timescale=timescale
    )
    if cooldown_steps:
        # The shape's own steps begin after the warmup, and so do the cooldown's.
        end = total_steps - warmup_steps
        schedule = _cool_down(schedule, end, cooldown_steps, low=final * peak)
    if warmup_steps:
        warmup = optax.linear_schedule(0.0, peak, warmup_steps)
        schedule = optax.join_schedules([warmup, schedule], [warmup_steps])
    return schedule


def _cool_down(
    schedule: optax.Schedule, end: int, steps: int, *, low: float
) -> optax.Schedule:
    """Brings a schedule to ``low`` at step ``end`` over ``steps``, never raising it."""

    def cooled(step: jax.typing.ArrayLike) -> jax.Array:
        value = jnp.asarray(schedule(step))
        share = jnp.clip((end - step) / steps, 0.0, 1.0)
        return jnp.where(value > low, low + (value - low) * share, value)

    return cooled
