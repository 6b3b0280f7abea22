"""Optimizers of the linear probe, and its normalisation of features."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

EPSILON = 1e-6  # of the normalisation (MAE)
MOMENTUM = 0.1  # of its running statistics (PyTorch's)
TRUST = 0.001  # coefficient of LARS

Probe = dict[str, jax.Array]  # kernel [D, K], bias [K]


class Stats(NamedTuple):
    """Mean and variance of the features."""

    mean: jax.Array
    variance: jax.Array


def normalize(features: jax.Array, stats: Stats) -> jax.Array:
    """Features of mean 0 and variance 1; there is no scale and no offset."""
    return (features - stats.mean) / jnp.sqrt(stats.variance + EPSILON)


def logits_of(probe: Probe, features: jax.Array) -> jax.Array:
    """Of normalised features."""
    product = jnp.matmul(features, probe["kernel"], precision="highest")
    return product + probe["bias"]


def init(key: jax.Array, width: int, num_classes: int) -> Probe:
    """A small kernel and no bias (MAE)."""
    kernel = 0.01 * jax.random.truncated_normal(key, -2, 2, (width, num_classes))
    return {"kernel": kernel, "bias": jnp.zeros(num_classes)}


def build(
    name: str,
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    warmup_steps: int,
    total_steps: int,
) -> optax.GradientTransformation:
    """LARS (arXiv 1708.03888) or SGD with momentum: linear warm-up, cosine to 0.

    Decay and LARS's trust ratio act on the kernel alone.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup_steps, max(total_steps, warmup_steps + 1)
    )
    kernel_only = {"kernel": True, "bias": False}
    parts = [optax.add_decayed_weights(weight_decay, kernel_only)]
    if name == "lars":
        ratio = optax.scale_by_trust_ratio(trust_coefficient=TRUST)
        parts.append(optax.masked(ratio, kernel_only))
    return optax.chain(
        *parts, optax.trace(momentum), optax.scale_by_learning_rate(schedule)
    )


def sgd_step(
    tx: optax.GradientTransformation,
) -> Any:
    """``step(state, features, labels) -> (state, loss)`` on a batch of raw features.

    The state is ``(probe, opt_state, stats)``. The batch is normalised by its own mean
    and variance, as batch normalisation does, and the running ones are kept.
    """

    def step(state: Any, features: jax.Array, labels: jax.Array) -> Any:
        probe, opt_state, stats = state
        rows = len(features)
        batch = Stats(features.mean(axis=0), features.var(axis=0))
        inputs = normalize(features, batch)

        def loss_of(probe: Probe) -> jax.Array:
            logits = logits_of(probe, inputs)
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, labels
            ).mean()

        loss, grads = jax.value_and_grad(loss_of)(probe)
        updates, opt_state = tx.update(grads, opt_state, probe)
        unbiased = batch._replace(variance=batch.variance * rows / max(rows - 1, 1))
        stats = jax.tree.map(
            lambda old, new: (1 - MOMENTUM) * old + MOMENTUM * new, stats, unbiased
        )
        return (optax.apply_updates(probe, updates), opt_state, stats), loss

    return step


def statistics(features: jax.Array, mask: Any) -> Stats:
    """Mean and variance over a whole bank ``[C, B, D]`` with mask ``[C, B]``."""

    def total(term: Any) -> jax.Array:
        def add(sums: jax.Array, chunk: Any) -> tuple[jax.Array, None]:
            rows, keep = chunk
            return sums + jnp.where(keep[:, None], term(rows), 0.0).sum(axis=0), None

        start = jnp.zeros(features.shape[-1])
        return jax.lax.scan(add, start, (features, mask))[0]

    count = mask.sum()
    mean = total(lambda rows: rows) / count
    return Stats(mean, total(lambda rows: (rows - mean) ** 2) / count)


def full_loss(
    probe: Probe,
    features: jax.Array,
    labels: jax.Array,
    stats: Stats,
    weight_decay: float,
) -> jax.Array:
    """Mean cross-entropy over a whole bank, plus half the decay times ``|kernel|^2``.

    ``labels`` are ``[C, B]``, negative where a row does not count.
    """

    @jax.checkpoint  # else the normalised features of all chunks are kept
    def add(total: jax.Array, chunk: Any) -> tuple[jax.Array, None]:
        rows, given = chunk
        logits = logits_of(probe, normalize(rows, stats))
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits, jnp.maximum(given, 0)
        )
        return total + jnp.where(given >= 0, losses, 0.0).sum(), None

    total, _ = jax.lax.scan(add, jnp.zeros(()), (features, labels))
    penalty = 0.5 * weight_decay * (probe["kernel"] ** 2).sum()
    return total / (labels >= 0).sum() + penalty


def lbfgs_step(weight_decay: float) -> Any:
    """``step(probe, state, data, stats)``, an iteration over the data of `full_loss`.

    It returns the probe, the state of `optax.lbfgs`, the objective before the step and
    the largest entry of its gradient.
    """
    tx = optax.lbfgs()

    def step(probe: Probe, state: Any, data: Any, stats: Stats) -> Any:
        def objective(probe: Probe) -> jax.Array:
            return full_loss(probe, data[0], data[1], stats, weight_decay)

        value, grad = optax.value_and_grad_from_state(objective)(probe, state=state)
        updates, state = tx.update(
            grad, state, probe, value=value, grad=grad, value_fn=objective
        )
        largest = jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(grad)])
        return optax.apply_updates(probe, updates), state, value, largest.max()

    return step
