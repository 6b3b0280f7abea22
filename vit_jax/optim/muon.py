"""Muon's matrices: which parameters are some, along which axes, and their scale."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from vit_jax.optim.paths import is_stacked, map_paths

# Path pattern to the axes of a layer's matrix, inputs and outputs. Heads are part of
# one dimension: D x (H Dh) for query, key and value [D, H, Dh], and (H Dh) x D for the
# output [H, Dh, D], as if the heads had not been split.
MATRICES: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (
    (r"(^|/)attention/(query|key|value)/kernel$", (0,), (1, 2)),
    (r"(^|/)attention/out/kernel$", (0, 1), (2,)),
    (r"(^|/)mlp/(hidden|gate|out)/kernel$", (0,), (1,)),
)


def dimension_numbers(path: str) -> MuonDimensionNumbers | None:
    """Axes of the matrix, those not named being a batch; None: not one of Muon's.

    Embeddings, the head, norms, biases and tokens are not.
    """
    first = int(is_stacked(path))
    for pattern, inputs, outputs in MATRICES:
        if re.search(pattern, path):
            return MuonDimensionNumbers(
                tuple(first + axis for axis in inputs),
                tuple(first + axis for axis in outputs),
            )
    return None


def labels(params: Any) -> Any:
    """``"muon"`` or ``"adam"`` for each parameter."""
    return map_paths(
        lambda path, _: "adam" if dimension_numbers(path) is None else "muon", params
    )


def orthogonalise(
    *, momentum: float, nesterov: bool, iterations: int, mu_dtype: str
) -> optax.GradientTransformation:
    """The nearest orthogonal matrices, about, to an average of past gradients."""
    return scale_by_muon(
        beta=momentum,
        nesterov=nesterov,
        ns_steps=iterations,
        mu_dtype=jnp.dtype(mu_dtype),
        weight_dimension_numbers=lambda updates: map_paths(
            lambda path, _: dimension_numbers(path), updates
        ),
    )


def scale_by_shape(rms: float) -> optax.GradientTransformation:
    """Brings updates of orthogonal matrices to one size; see `rules.muon`.

    A matrix with orthonormal rows or columns has a root mean square of
    ``1 / sqrt(max(inputs, outputs))``.
    """

    def scale(path: str, update: jax.Array) -> jax.Array:
        axes = dimension_numbers(path)
        assert axes is not None  # of the partition's other part
        inputs, outputs = (
            math.prod(update.shape[axis] for axis in side)  # pyright: ignore
            for side in axes
        )
        if rms:
            return update * (rms * math.sqrt(max(inputs, outputs)))
        return update * math.sqrt(max(1.0, outputs / inputs))

    return optax.stateless(lambda updates, params: map_paths(scale, updates))
