"""Distillation: DeiT's through a token, and consistent, patient function matching.

arXiv 2012.12877 and 2106.05237.

DeiT: the class head learns the labels, the distillation token's head the teacher's
answer, hard (its argmax) or soft (a Kullback-Leibler divergence at a temperature); the
mean of both heads answers. DeiT's code divides the soft term by the number of classes
as well as by the batch; the paper's formula, and this, divides by the batch.

Function matching: ``match="soft", alpha=1.0, token=False``. Teacher and student see the
same crop and the same mixup of it, no label is used, and training is long. It is what
the data do that makes it consistent: images are handed to both as the batch has them.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from vit_jax.models.vit import ViT
from vit_jax.objectives.base import Batch
from vit_jax.objectives.labels import ClassWeights, hits
from vit_jax.objectives.supervised import Supervised
from vit_jax.objectives.teachers import as_teacher

MATCHES = ("hard", "soft")


def match_teacher(
    logits: Float[Array, "B K"],
    taught: Float[Array, "B K"],
    *,
    match: str,
    temperature: float,
) -> Float[Array, "B"]:
    """Per-example distance of logits to a teacher's, in float32.

    ``"hard"`` is the cross-entropy with the teacher's argmax. ``"soft"`` is
    ``T^2 KL(softmax(taught / T) || softmax(logits / T))``: the factor keeps the size of
    the gradient whatever the temperature (arXiv 1503.02531).
    """
    logits = logits.astype(jnp.float32)
    if match == "hard":
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, taught.argmax(axis=-1)
        )
    wanted = jax.nn.log_softmax(taught / temperature)
    given = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * jnp.sum(jnp.exp(wanted) * (wanted - given), axis=-1)


class Distillation(Supervised):
    """A student that learns from a frozen teacher, and from labels beside it.

    The loss is ``(1 - alpha) * labels + alpha * teacher``.

    Args:
      encoder: the student, built with its head.
      teacher: a `Teacher`, `Stored` logits, or any function of the student's images;
        without one (None, or the section of a config) there are predictions only.
      match: ``"hard"`` or ``"soft"``.
      alpha: share of the teacher in the loss, in (0, 1]; at 1 no label is used.
      temperature: of the soft match.
      token: the teacher is matched by the distillation token's head and the labels by
        the class head; else both by what answers (the mean, where there are two).
      loss, label_smoothing, class_weights, threshold: of the labels, as `Supervised`.

    Raises:
      ValueError: a setting is unknown, or settings exclude each other.
    """

    frozen: ClassVar[tuple[str, ...]] = ("teacher",)

    def __init__(
        self,
        *,
        encoder: ViT,
        teacher: Any,
        match: str,
        alpha: float,
        temperature: float,
        token: bool,
        loss: str,
        label_smoothing: float,
        class_weights: ClassWeights = (),
        threshold: float | None = None,
    ):
        super().__init__(
            encoder=encoder,
            loss=loss,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
            threshold=threshold,
        )
        problems = check_distillation(
            match=match,
            alpha=alpha,
            temperature=temperature,
            token=token,
            distillation=encoder.settings.distillation,
        )
        if problems:
            raise ValueError("; ".join(problems))
        self.teacher = as_teacher(teacher)
        self.match, self.alpha, self.temperature = match, alpha, temperature
        self.token = token

    def loss(
        self, batch: Batch, *, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
        """The loss of labels and teacher.

        Metrics: ``accuracy`` as `Supervised`'s, ``agreement`` with the teacher's first
        choice, and the two losses.
        """
        if self.teacher is None:
            raise ValueError("this objective was built without a teacher")
        heads = self.encoder.apply(batch["images"], self.encoder.heads, key=key)
        answer = self.encoder.average(heads)
        taught = self.teacher(batch)
        if taught.shape != answer.shape:
            raise ValueError(
                f"the teacher's logits are {taught.shape}, the student's {answer.shape}"
            )
        distances = match_teacher(
            heads[-1] if self.token else answer,
            taught,
            match=self.match,
            temperature=self.temperature,
        )
        loss = teacher_loss = distances.mean()
        metrics = {
            "accuracy": hits(answer, batch["labels"]).astype(jnp.float32).mean(),
            "agreement": (answer.argmax(-1) == taught.argmax(-1))
            .astype(jnp.float32)
            .mean(),
            "teacher_loss": teacher_loss,
        }
        if self.alpha < 1.0:
            label_loss = self.label_loss(
                heads[0] if self.token else answer, batch["labels"]
            )
            loss = (1.0 - self.alpha) * label_loss + self.alpha * teacher_loss
            metrics["label_loss"] = label_loss
        return loss, metrics

    def train_flops(self) -> int:
        """The student forward and backward, the teacher forward."""
        return super().train_flops() + getattr(self.teacher, "flops", 0)


def check_distillation(
    *, match: str, alpha: float, temperature: float, token: bool, distillation: str
) -> list[str]:
    """Everything wrong with the settings of a `Distillation`, a line each."""
    problems = []
    if match not in MATCHES:
        problems.append(
            f"objective.match {match!r} is unknown; known: {', '.join(MATCHES)}"
        )
    if not 0 < alpha <= 1:
        problems.append(f"objective.alpha must be in (0, 1], got {alpha!r}")
    if not 0 < temperature < float("inf"):
        problems.append(
            f"objective.temperature must be finite and positive, got {temperature!r}"
        )
    if match == "hard" and temperature != 1:
        problems.append(
            "objective.match 'hard' takes the teacher's first choice, whatever the "
            f"temperature: objective.temperature must be 1.0, got {temperature!r}"
        )
    if token and distillation != "head":
        problems.append(
            "objective.token True matches the teacher through the distillation token: "
            f"model.distillation must be 'head', not {distillation!r}"
        )
    if token and alpha == 1:
        problems.append(
            "objective.alpha 1.0 uses no labels, and with objective.token the class "
            "head would learn nothing: set objective.token to False, or a smaller alpha"
        )
    return problems
