"""Optimizers from config: clipping, update rule, decoupled weight decay, schedule.

``weight_decay`` is multiplied by the learning rate, as in AdamW (arXiv 1711.05101). A
big_vision config's ``wd`` is not: divide it by its ``lr`` to get the value used here.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax import schedules

MU_DTYPES = ("float32", "bfloat16")


def _is_kernel(path: str, leaf: Any) -> bool:
    """Weights of dense layers, attention and patches (big_vision's ``.*/kernel``)."""
    return path.rpartition("/")[2] == "kernel"


def _is_matrix(path: str, leaf: Any) -> bool:
    """Rank above 1 without the layer axis; biases never, also not ``[heads, dim]``."""
    *parents, name = path.split("/")
    return name != "bias" and leaf.ndim - ("blocks" in parents) > 1


def _is_any(path: str, leaf: Any) -> bool:
    return True


DECAY_MASKS: dict[str, Callable[[str, Any], bool]] = {
    "kernels": _is_kernel,
    "matrices": _is_matrix,  # kernels, embeddings and tokens
    "all": _is_any,
}


def decay_mask(name: str) -> Callable[[Any], Any]:
    """The function from parameters to a tree of bools, True where weights decay.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in DECAY_MASKS:
        raise ValueError(
            f"optim.decay_mask {name!r} is unknown; known: {', '.join(DECAY_MASKS)}"
        )
    decays = DECAY_MASKS[name]

    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: decays(
                jax.tree_util.keystr(path, simple=True, separator="/"), leaf
            ),
            params,
        )

    return mask


def _clip(norm: float) -> optax.GradientTransformation:
    if norm < 0:
        raise ValueError(f"optim.clip_norm must be positive, or 0.0 for off; {norm=}")
    return optax.clip_by_global_norm(norm) if norm else optax.identity()


def adamw(
    *,
    learning_rate_schedule: optax.Schedule,
    learning_rate: float,
    weight_decay: float,
    decay_mask: str,
    b1: float,
    b2: float,
    eps: float,
    mu_dtype: str,
    clip_norm: float,
) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101).

    Args:
      learning_rate_schedule: the rate at each step.
      learning_rate: its peak; the schedule has it already.
      weight_decay: share of a weight taken off per step, times the learning rate.
      decay_mask: which parameters decay, a name of ``DECAY_MASKS``.
      b1, b2, eps: Adam's averages and the constant in its denominator.
      mu_dtype: type of the first moment; the second is float32.
      clip_norm: largest global norm of the gradients, 0.0 for no limit.

    Raises:
      ValueError: a name is unknown, or clip_norm is negative.
    """
    if mu_dtype not in MU_DTYPES:
        raise ValueError(
            f"optim.mu_dtype {mu_dtype!r} is unknown; known: {', '.join(MU_DTYPES)}"
        )
    return optax.chain(
        _clip(clip_norm),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=jnp.dtype(mu_dtype)),
        _decay(weight_decay, decay_mask),
        optax.scale_by_learning_rate(learning_rate_schedule),
    )


def sgd(
    *,
    learning_rate_schedule: optax.Schedule,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    decay_mask: str,
    clip_norm: float,
) -> optax.GradientTransformation:
    """SGD with momentum and decoupled weight decay (arXiv 1711.05101).

    Args:
      learning_rate_schedule: the rate at each step.
      learning_rate: its peak; the schedule has it already.
      momentum: decay of the sum of past gradients, 0.0 to keep none.
      nesterov: whether the update looks one step of momentum ahead.
      weight_decay: share of a weight taken off per step, times the learning rate.
      decay_mask: which parameters decay, a name of ``DECAY_MASKS``.
      clip_norm: largest global norm of the gradients, 0.0 for no limit.

    Raises:
      ValueError: the mask's name is unknown, or clip_norm is negative.
    """
    return optax.chain(
        _clip(clip_norm),
        optax.trace(momentum, nesterov=nesterov) if momentum else optax.identity(),
        _decay(weight_decay, decay_mask),
        optax.scale_by_learning_rate(learning_rate_schedule),
    )


def _decay(weight_decay: float, mask_name: str) -> optax.GradientTransformation:
    return optax.add_decayed_weights(weight_decay, mask=decay_mask(mask_name))


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": adamw,
    "sgd": sgd,
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
      ValueError: a name is unknown, or a section lacks keys or has others.
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
