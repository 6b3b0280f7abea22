"""An optimizer and its schedule from a config's sections, and what may be wrong."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optax

from vit_jax import schedules
from vit_jax.optim.paths import MASKS
from vit_jax.optim.rules import OPTIMIZERS

DTYPES = ("float32", "bfloat16")

# Settings that are names, and the known ones.
NAMES: dict[str, Iterable[str]] = {
    "decay_mask": MASKS,
    "trust_mask": MASKS,
    "mu_dtype": DTYPES,
    "nu_dtype": DTYPES,
}


def _share(value: float) -> bool:
    return 0 <= value < 1


def _some(value: float) -> bool:
    return 0 < value <= 1


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def _not_negative(value: float) -> bool:
    return 0 <= value < math.inf


def _counts(value: float) -> bool:
    return value >= 1


# Settings that are numbers, and which.
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(("b1", "b2", "momentum"), (_share, "in [0, 1)")),
    **dict.fromkeys(("layer_decay", "decay_power", "b2_cap"), (_some, "in (0, 1]")),
    **dict.fromkeys(("eps", "trust_coefficient"), (_positive, "positive and finite")),
    **dict.fromkeys(
        ("clip_rms", "rms", "adam_rate", "adam_weight_decay", "head_weight_decay"),
        (_not_negative, "finite and not negative"),
    ),
    **dict.fromkeys(("iterations", "min_factored"), (_counts, "at least 1")),
}


def build(
    optim_section: Mapping[str, Any],
    *,
    schedule_section: Mapping[str, Any],
    total_steps: int,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Builds the optimizer and schedule of a config.

    Args:
      optim_section: ``name`` and the other keywords of a function of ``OPTIMIZERS``.
      schedule_section: keywords of `schedules.build`, the durations in steps.
      total_steps: updates of the whole run.

    Returns:
      The optimizer, and the learning rate as a function of the step.

    Raises:
      ValueError: a name is unknown, a number out of its range, or a section lacks keys
        or has others.
    """
    settings = dict(optim_section)
    name = settings.pop("name", None)
    if name not in OPTIMIZERS:
        raise ValueError(
            f"optim.name {name!r} is unknown; known: {', '.join(OPTIMIZERS)}"
        )
    given_here = {"peak", "total_steps", "learning_rate_schedule"}
    optimizer = OPTIMIZERS[name]
    _check_keys(f"optim ({name})", settings, _keywords(optimizer) - given_here)
    _check_keys("schedule", schedule_section, _keywords(schedules.build) - given_here)
    _check_values(settings)
    schedule = schedules.build(
        **schedule_section, peak=settings["learning_rate"], total_steps=total_steps
    )
    return optimizer(learning_rate_schedule=schedule, **settings), schedule


def _keywords(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


def _check_keys(section: str, given: Iterable[str], expected: set[str]) -> None:
    """Names what a section lacks and what it has too much."""
    problems = []
    if missing := sorted(expected - set(given)):
        problems.append(f"lacks {', '.join(missing)}")
    if unknown := sorted(set(given) - expected):
        problems.append(f"has no key {', '.join(unknown)}")
    if problems:
        raise ValueError(
            f"section {section} {' and '.join(problems)}; "
            f"its keys: {', '.join(sorted(expected))}"
        )


def _check_values(settings: Mapping[str, Any]) -> None:
    problems = [
        f"optim.{field} {settings[field]!r} is unknown; known: {', '.join(known)}"
        for field, known in NAMES.items()
        if field in settings and settings[field] not in known
    ] + [
        f"optim.{field} must be {what}, got {settings[field]!r}"
        for field, (fits, what) in RANGES.items()
        if field in settings and not fits(settings[field])
    ]
    if problems:
        raise ValueError("; ".join(problems))
