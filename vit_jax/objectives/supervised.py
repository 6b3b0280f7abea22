"""Classification with labels: softmax or sigmoid cross-entropy."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from vit_jax.models.flops import forward_flops
from vit_jax.models.vit import ViT
from vit_jax.objectives.base import Batch, Objective

LOSSES = ("softmax", "sigmoid")


def smooth_labels(labels: Float[Array, "B K"], smoothing: float) -> Float[Array, "B K"]:
    """Moves ``smoothing`` of each row's mass to the uniform distribution."""
    return labels * (1.0 - smoothing) + smoothing / labels.shape[-1]


def cross_entropy(
    logits: Float[Array, "B K"], labels: Float[Array, "B K"], *, loss: str
) -> Float[Array, "B"]:
    """Per-example loss in float32 against soft labels.

    ``"sigmoid"`` sums the binary losses over classes (as arXiv 2006.07159 and the
    ViT paper's pre-training do), it does not average them.
    """
    if loss == "softmax":
        return optax.softmax_cross_entropy(logits, labels)
    return optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=-1)


class Supervised(Objective):
    """Cross-entropy against ``batch["labels"]``, float ``[B, K]`` (one-hot or soft).

    Args:
      encoder: the ViT, built with its head.
      loss: ``"softmax"`` or ``"sigmoid"``.
      label_smoothing: mass moved to the uniform distribution, in [0, 1).

    Raises:
      ValueError: the loss is unknown, or the encoder has no head.
    """

    def __init__(self, *, encoder: ViT, loss: str, label_smoothing: float):
        if loss not in LOSSES:
            raise ValueError(
                f"objective.loss {loss!r} is unknown; known: {', '.join(LOSSES)}"
            )
        if encoder.head is None:
            raise ValueError(
                "objective 'supervised' needs a head; model.num_classes must be at "
                f"least 1, got {encoder.num_classes}"
            )
        self.encoder = encoder
        self.loss_kind = loss
        self.label_smoothing = label_smoothing

    def loss(
        self, batch: Batch, *, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
        """Mean cross-entropy; ``accuracy`` is against each row's largest label."""
        logits = self.encoder(batch["images"], key=key)
        labels = smooth_labels(batch["labels"], self.label_smoothing)
        losses = cross_entropy(logits, labels, loss=self.loss_kind)
        correct = logits.argmax(axis=-1) == batch["labels"].argmax(axis=-1)
        return losses.mean(), {"accuracy": correct.astype(jnp.float32).mean()}

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
