"""Classification with labels: softmax or sigmoid cross-entropy."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from vit_jax.models.flops import forward_flops
from vit_jax.models.vit import ViT
from vit_jax.objectives.base import Batch, Objective
from vit_jax.objectives.labels import (
    ClassWeights,
    as_targets,
    class_weight_problems,
    hits,
)

LOSSES = ("softmax", "sigmoid")


def smooth_labels(labels: Float[Array, "B K"], smoothing: float) -> Float[Array, "B K"]:
    """Moves ``smoothing`` of each row's mass to the uniform distribution."""
    return labels * (1.0 - smoothing) + smoothing / labels.shape[-1]


def cross_entropy(
    logits: Float[Array, "B K"],
    labels: Float[Array, "B K"],
    *,
    loss: str,
    class_weights: Float[Array, "K"] | None = None,
) -> Float[Array, "B"]:
    """Per-example loss in float32 against soft labels.

    ``"sigmoid"`` sums the binary losses over classes (as arXiv 2006.07159 and the
    ViT paper's pre-training do), it does not average them. ``class_weights`` multiply
    the term of their class: of the label in ``"softmax"``, of both answers in
    ``"sigmoid"``.
    """
    if loss == "softmax":
        if class_weights is not None:
            labels = labels * class_weights
        return optax.softmax_cross_entropy(logits, labels)
    losses = optax.sigmoid_binary_cross_entropy(logits, labels)
    if class_weights is not None:
        losses = losses * class_weights
    return losses.sum(axis=-1)


class Supervised(Objective):
    """Cross-entropy against ``batch["labels"]``, float ``[B, K]``.

    Labels are one-hot, multi-hot or soft (`labels.as_targets`). Where the encoder has a
    distillation head, the logits are the mean of both heads'.

    Args:
      encoder: the ViT, built with its head.
      loss: ``"softmax"`` or ``"sigmoid"``.
      label_smoothing: mass moved to the uniform distribution, in [0, 1).
      class_weights: of each class in the loss, as they are; empty: all 1. The mean is
        over images, not over their weights, so that the loss of a batch is the mean of
        its parts': weights with a mean of 1 over the images of the training set keep
        the size of the loss.
      threshold: labels above it become 1, the others 0; None leaves them as they are.

    Raises:
      ValueError: the loss is unknown, the encoder has no head, or the weights do not
        fit it.
    """

    def __init__(
        self,
        *,
        encoder: ViT,
        loss: str,
        label_smoothing: float,
        class_weights: ClassWeights = (),
        threshold: float | None = None,
    ):
        if loss not in LOSSES:
            raise ValueError(
                f"objective.loss {loss!r} is unknown; known: {', '.join(LOSSES)}"
            )
        if encoder.head is None:
            raise ValueError(
                "objective 'supervised' needs a head; model.num_classes must be at "
                f"least 1, got {encoder.num_classes}"
            )
        if problems := class_weight_problems(class_weights, encoder.num_classes):
            raise ValueError("; ".join(problems))
        self.encoder = encoder
        self.loss_kind = loss
        self.label_smoothing = label_smoothing
        self.class_weights = tuple(class_weights)
        self.threshold = threshold

    def loss(
        self, batch: Batch, *, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
        """Mean cross-entropy; ``accuracy`` is against each row's largest labels."""
        logits = self.encoder(batch["images"], key=key)
        correct = hits(logits, batch["labels"])
        loss = self.label_loss(logits, batch["labels"])
        return loss, {"accuracy": correct.astype(jnp.float32).mean()}

    def label_loss(
        self, logits: Float[Array, "B K"], labels: Float[Array, "B K"]
    ) -> Float[Array, ""]:
        """Mean cross-entropy of logits with the labels of a batch."""
        labels = as_targets(labels, loss=self.loss_kind, threshold=self.threshold)
        labels = smooth_labels(labels, self.label_smoothing)
        weights = jnp.asarray(self.class_weights) if self.class_weights else None
        losses = cross_entropy(
            logits, labels, loss=self.loss_kind, class_weights=weights
        )
        return losses.mean()

    def predict(self, images: Float[Array, "B H W C"]) -> dict[str, jax.Array]:
        """Features before the head, and logits."""
        tokens = self.encoder.tokens(images)
        return {
            "features": self.encoder.pool(tokens),
            "logits": self.encoder.logits(tokens),
        }

    def train_flops(self) -> int:
        """Three forward passes' worth: the backward pass costs two."""
        return 3 * forward_flops(self.encoder)
