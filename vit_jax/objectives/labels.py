"""What the labels of a batch become before a loss, and what a class weighs in it."""

import math
import pathlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

ClassWeights = Sequence[float | str]


def as_targets(
    labels: Float[Array, "B K"], *, loss: str, threshold: float | None
) -> Float[Array, "B K"]:
    """Labels as a loss wants them; one-hot and mixed ones stay as they are.

    An image with several labels (a row whose sum is above 1) gives each of them an
    equal share under ``"softmax"``, where a row is a distribution, and 1 under
    ``"sigmoid"``, where each class is a question of its own. A row of zeros is an image
    without a label.

    Args:
      labels: one-hot, multi-hot or soft.
      loss: ``"softmax"`` or ``"sigmoid"``.
      threshold: labels above it become 1, all others 0; None leaves them. At 0 both
        classes of a mixed image count in full, as DeiT-III trains (arXiv 2204.07118).
    """
    if threshold is not None:
        return (labels > threshold).astype(labels.dtype)
    if loss == "softmax":
        return labels / jnp.maximum(labels.sum(axis=-1, keepdims=True), 1.0)
    return labels


def hits(logits: Float[Array, "B K"], labels: Float[Array, "B K"]) -> Bool[Array, "B"]:
    """Whether the largest logit is of a class whose label no other's exceeds.

    With several labels any of them will do; without one nothing is right.
    """
    best = labels.max(axis=-1)
    chosen = logits.argmax(axis=-1)[:, None]
    found = jnp.take_along_axis(labels, chosen, axis=-1)[:, 0]
    return (found == best) & (best > 0)


def read_class_weights(path: str) -> tuple[float, ...]:
    """Weights of a file: an ``.npy`` of one axis, or text with a number a line.

    Raises:
      ValueError: it is not there, or holds something else.
    """
    file = pathlib.Path(path).expanduser()
    try:
        if file.suffix == ".npy":
            numbers = np.load(file, allow_pickle=False)
        else:
            numbers = np.array([float(line) for line in file.read_text().split()])
        if numbers.ndim != 1 or numbers.dtype.kind not in "fiu":
            raise ValueError(f"it holds {numbers.dtype} {list(numbers.shape)}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"objective.class_weights {path!r} cannot be read ({reason}); it must be "
            "an .npy of one axis, or text with a number a line"
        ) from None
    return tuple(float(number) for number in numbers)


def file_of(weights: ClassWeights) -> str | None:
    """The file that a config names in the place of the weights, if it does."""
    if len(weights) == 1 and isinstance(weights[0], str):
        return weights[0]
    return None


def resolve_class_weights(
    weights: ClassWeights, num_classes: int | None
) -> ClassWeights:
    """Weights as numbers: those of the file, where a config names one.

    Raises:
      ValueError: the file cannot be read, or does not fit.
    """
    if (file := file_of(weights)) is None:
        return weights
    numbers = read_class_weights(file)
    if problems := class_weight_problems(numbers, num_classes):
        raise ValueError(f"{file}: {problems[0]}")
    return numbers


def class_weight_problems(weights: ClassWeights, num_classes: int | None) -> list[str]:
    """What is wrong with weights given as numbers, a line each."""
    name = "objective.class_weights"
    wrong = [
        weight
        for weight in weights
        if isinstance(weight, bool)
        or not isinstance(weight, int | float)
        or not 0 <= weight < math.inf
    ]
    if wrong:
        return [
            f"{name} must be finite numbers that are not negative, got {wrong[0]!r}; a "
            'file is given alone: ("weights.npy",)'
        ]
    if weights and not any(weights):
        return [f"{name} are all 0: nothing would be learned"]
    if weights and num_classes and len(weights) != num_classes:
        return [f"{name} are {len(weights)}, but there are {num_classes} classes"]
    return []
