"""The optimizers: clipping, update rule, decoupled weight decay, learning rate.

``weight_decay`` is multiplied by the learning rate, as in AdamW (arXiv 1711.05101). A
big_vision config's ``wd`` is not: divide it by its ``lr`` to get the value used here.

All of them take:
  learning_rate_schedule: the rate at each step.
  learning_rate: its peak; the schedule has it already.
  weight_decay: share of a weight taken off per step, times the learning rate.
  decay_mask: which parameters decay, a name of ``MASKS``.
  clip_norm: largest global norm of the gradients, 0.0 for no limit.
  layer_decay: factor on the learning rate from one block to the one before it, 1.0 for
    none (`paths.layer_rates`); it is one on the weight decay as well.

and where they keep moments, ``mu_dtype`` and ``nu_dtype``: the type of the first and of
the second, a name of ``DTYPES``. They raise ValueError for an unknown mask and a
negative ``clip_norm``; `build` checks all else.
"""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from vit_jax.optim import muon as muon_parts
from vit_jax.optim.parts import factored_rms, per_layer, scale_by_adam
from vit_jax.optim.paths import is_head, map_paths, mask, scale_by_layer


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
    nu_dtype: str,
    clip_norm: float,
    layer_decay: float,
) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101).

    Args:
      b1, b2, eps: Adam's averages and the constant in its denominator.
      nu_dtype: bfloat16 is rounded at random (`parts.scale_by_adam`).
    """
    return optax.chain(
        _clip(clip_norm),
        scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype),
        _decay(weight_decay, decay_mask),
        _rate(learning_rate_schedule, layer_decay),
    )


def sgd(
    *,
    learning_rate_schedule: optax.Schedule,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    mu_dtype: str,
    weight_decay: float,
    decay_mask: str,
    clip_norm: float,
    layer_decay: float,
) -> optax.GradientTransformation:
    """SGD with momentum and decoupled weight decay (arXiv 1711.05101).

    Args:
      momentum: decay of the sum of past gradients, 0.0 to keep none.
      nesterov: whether the update looks one step of momentum ahead.
    """
    return optax.chain(
        _clip(clip_norm),
        _trace(momentum, nesterov, mu_dtype),
        _decay(weight_decay, decay_mask),
        _rate(learning_rate_schedule, layer_decay),
    )


def adafactor(
    *,
    learning_rate_schedule: optax.Schedule,
    learning_rate: float,
    weight_decay: float,
    head_weight_decay: float,
    decay_mask: str,
    momentum: float,
    decay_power: float,
    b2_cap: float,
    min_factored: int,
    eps: float,
    clip_rms: float,
    mu_dtype: str,
    clip_norm: float,
    layer_decay: float,
) -> optax.GradientTransformation:
    """Adafactor (arXiv 1804.04235) as modified for ViT-g (arXiv 2106.04560).

    Against the first paper: a first moment, in bfloat16, that is not divided by its
    start-up bias; a second moment whose decay has a cap; the learning rate is the
    schedule's, not relative to the parameters; decoupled weight decay, another for the
    head. As in big_vision, clipping by root mean square is there but off by default.

    Args:
      head_weight_decay: the classifier's, in place of weight_decay.
      momentum: decay of the average of past updates, 0.0 to keep none.
      decay_power, b2_cap, min_factored, eps: see `parts.factored_rms`.
      clip_rms: largest root mean square of a parameter's update before momentum and
        learning rate, 0.0 for no limit.
    """
    return optax.chain(
        _clip(clip_norm),
        factored_rms(
            decay_power=decay_power, b2_cap=b2_cap, min_factored=min_factored, eps=eps
        ),
        per_layer(optax.clip_by_block_rms(clip_rms)) if clip_rms else optax.identity(),
        optax.ema(momentum, debias=False, accumulator_dtype=jnp.dtype(mu_dtype))
        if momentum
        else optax.identity(),
        _decay(weight_decay, decay_mask, head=head_weight_decay),
        _rate(learning_rate_schedule, layer_decay),
    )


def lamb(
    *,
    learning_rate_schedule: optax.Schedule,
    learning_rate: float,
    weight_decay: float,
    decay_mask: str,
    trust_mask: str,
    b1: float,
    b2: float,
    eps: float,
    mu_dtype: str,
    nu_dtype: str,
    clip_norm: float,
    layer_decay: float,
) -> optax.GradientTransformation:
    """LAMB (arXiv 1904.00962): Adam's update, weight decay in it, to a weight's norm.

    The ratio of the norms has no bounds, and is 1 where either norm is 0. The weight
    decay stands inside it, unlike AdamW's.

    Args:
      trust_mask: which updates are scaled so, a name of ``MASKS``. The paper scales
        all; the implementation that DeiT III (arXiv 2204.07118) used, those that decay.
      b1, b2, eps: Adam's averages and the constant in its denominator.
      nu_dtype: bfloat16 is rounded at random (`parts.scale_by_adam`).
    """
    return optax.chain(
        _clip(clip_norm),
        scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype),
        _decay(weight_decay, decay_mask),
        _trust(1.0, trust_mask),
        _rate(learning_rate_schedule, layer_decay),
    )


def lars(
    *,
    learning_rate_schedule: optax.Schedule,
    learning_rate: float,
    weight_decay: float,
    decay_mask: str,
    trust_coefficient: float,
    trust_mask: str,
    momentum: float,
    mu_dtype: str,
    clip_norm: float,
    layer_decay: float,
) -> optax.GradientTransformation:
    """LARS (arXiv 1708.03888), in the form of MoCo v3 and MAE (arXiv 2111.06377).

    Against the paper: the ratio's denominator is the norm of gradient and decay
    together, not the sum of their norms; the learning rate is applied to the momentum's
    sum, not to what enters it. The weight decay enters ratio and momentum.

    Args:
      trust_coefficient: size of an update as a share of the parameter's norm.
      trust_mask: which gradients are scaled so, a name of ``MASKS``.
      momentum: decay of the sum of past scaled gradients, 0.0 to keep none.
    """
    return optax.chain(
        _clip(clip_norm),
        _decay(weight_decay, decay_mask),
        _trust(trust_coefficient, trust_mask),
        _trace(momentum, False, mu_dtype),
        _rate(learning_rate_schedule, layer_decay),
    )


def lion(
    *,
    learning_rate_schedule: optax.Schedule,
    learning_rate: float,
    weight_decay: float,
    decay_mask: str,
    b1: float,
    b2: float,
    mu_dtype: str,
    clip_norm: float,
    layer_decay: float,
) -> optax.GradientTransformation:
    """Lion (arXiv 2302.06675): the sign of an average of gradient and momentum.

    Args:
      b1: share of the momentum in the average whose sign is taken.
      b2: decay of the momentum.
    """
    return optax.chain(
        _clip(clip_norm),
        optax.scale_by_lion(b1=b1, b2=b2, mu_dtype=jnp.dtype(mu_dtype)),
        _decay(weight_decay, decay_mask),
        _rate(learning_rate_schedule, layer_decay),
    )


def muon(
    *,
    learning_rate_schedule: optax.Schedule,
    learning_rate: float,
    weight_decay: float,
    decay_mask: str,
    momentum: float,
    nesterov: bool,
    iterations: int,
    rms: float,
    adam_rate: float,
    adam_weight_decay: float,
    b1: float,
    b2: float,
    eps: float,
    mu_dtype: str,
    nu_dtype: str,
    clip_norm: float,
    layer_decay: float,
) -> optax.GradientTransformation:
    """Muon (Jordan 2024; arXiv 2502.16982) for the matrices of blocks, else AdamW.

    Which matrices, and which axes make them, is said by `muon.dimension_numbers`. Each
    layer is orthogonalised by itself, all of a stack in one batched product, and query,
    key and value each for itself, with all their heads. Against the first
    implementation, the momentum is divided by its start-up bias (optax's form) and the
    iteration runs in the gradient's type, not in bfloat16.

    Args:
      momentum: decay of the average of past gradients.
      nesterov: whether the average looks one step ahead.
      iterations: of Newton and Schulz.
      rms: root mean square of a square matrix's update; 0.2 is that of AdamW, so that
        learning rate and weight decay are as there. 0.0 scales by the square root of
        outputs over inputs, if above 1, as the first implementation.
      adam_rate: AdamW's learning rate as a share of learning_rate.
      adam_weight_decay: of what AdamW updates, times its own learning rate.
      b1, b2, eps: AdamW's.
    """
    matrices = optax.chain(
        muon_parts.orthogonalise(
            momentum=momentum,
            nesterov=nesterov,
            iterations=iterations,
            mu_dtype=mu_dtype,
        ),
        muon_parts.scale_by_shape(rms),
        _decay(weight_decay, decay_mask),
    )
    others = optax.chain(
        scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype),
        _decay(adam_weight_decay, decay_mask),
        optax.scale(adam_rate),
    )
    return optax.chain(
        _clip(clip_norm),
        optax.partition({"muon": matrices, "adam": others}, muon_parts.labels),
        _rate(learning_rate_schedule, layer_decay),
    )


def _clip(norm: float) -> optax.GradientTransformation:
    if norm < 0:
        raise ValueError(f"optim.clip_norm must be positive, or 0.0 for off; {norm=}")
    return optax.clip_by_global_norm(norm) if norm else optax.identity()


def _decay(
    weight_decay: float, mask_name: str, *, head: float | None = None
) -> optax.GradientTransformation:
    chosen = mask(mask_name)
    if head is None or head == weight_decay:
        return optax.add_decayed_weights(weight_decay, mask=chosen)

    def part(of_head: bool) -> Callable:
        return lambda params: map_paths(
            lambda path, decays: decays and is_head(path) == of_head, chosen(params)
        )

    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=part(False)),
        optax.add_decayed_weights(head, mask=part(True)),
    )


def _trust(coefficient: float, mask_name: str) -> optax.GradientTransformation:
    """Updates of a norm that is a share of their parameter's, layer by layer."""
    scale = per_layer(optax.scale_by_trust_ratio(trust_coefficient=coefficient))
    return optax.masked(scale, mask(mask_name, field="trust_mask"))


def _trace(
    momentum: float, nesterov: bool, mu_dtype: str
) -> optax.GradientTransformation:
    if not momentum:
        return optax.identity()
    dtype = jnp.dtype(mu_dtype)
    return optax.trace(momentum, nesterov=nesterov, accumulator_dtype=dtype)


def _rate(schedule: optax.Schedule, layer_decay: float) -> optax.GradientTransformation:
    scale = optax.scale_by_learning_rate(schedule)
    if layer_decay == 1.0:
        return scale
    return optax.chain(scale_by_layer(layer_decay), scale)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": adamw,
    "sgd": sgd,
    "adafactor": adafactor,
    "lamb": lamb,
    "lars": lars,
    "lion": lion,
    "muon": muon,
}
