"""Accuracy, loss and calibration over a whole split, exact to the last example."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from vit_jax.data.errors import DataError
from vit_jax.evals.base import Context, OnSplits, Params, Settings
from vit_jax.evals.class_maps import CLASSES, chosen_classes, label_map
from vit_jax.sharding import replicated

BINS = 15  # of the calibration error (arXiv 1706.04599)


class Classification(OnSplits):
    """How right ``predict(images)["logits"]`` is.

    The last batch is padded and masked, and counts are summed on the devices, so the
    result does not depend on the batch size, the devices or the processes.

    With several labels an example (ReaL, arXiv 2006.07159) a prediction is right when
    it is one of them, and examples without a label are left out.

    Args:
      context: of the run.
      data: another data set than the run's, or "".
      split: of it.
      label_key: feature that holds the labels, or "" for the run's.
      labels: "one" an example, or "many".
      classes: "all", or which the predictions are among: of `class_maps.CLASSES`.
      loading: batch size and resize, for `context.open`.

    Raises:
      DataError: the data set's classes and the model's do not match.
    """

    needs_logits: ClassVar[bool] = True
    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "labels": ("one", "many"),
        "classes": CLASSES,
    }

    def __init__(
        self,
        context: Context,
        *,
        data: str,
        split: str,
        label_key: str,
        labels: str,
        classes: str,
        **loading: Any,
    ):
        self._many = labels == "many"
        opened = context.open(
            split, data=data, label_key=label_key, many=self._many, **loading
        )
        super().__init__(context, [opened])
        self.loader, self._name = opened.loader, opened.name
        ours, names = context.num_classes, context.class_names
        several = bool(opened.loader.label_shape)
        if several and not self._many:
            opened.loader.close()
            raise self.error(
                f"examples of {opened.name} have several labels; set evals."
                f"{context.name}.labels='many'"
            )
        try:
            mapped = label_map(opened.num_classes, opened.class_names, ours, names)
            if names is None and len(opened.class_names or ()) == ours:
                names = opened.class_names  # matched by number
            self._allowed = chosen_classes(classes, ours, names, mapped)
        except DataError as error:
            opened.loader.close()
            raise self.error(f"{opened.name}: {error}") from error
        self._classes = classes

        def count(params: Params, frozen: Params, batch: dict[str, jax.Array]) -> Any:
            logits = context.predict(params, frozen, batch["image"])["logits"]
            if self._allowed is not None:
                logits = jnp.where(self._allowed, logits, -jnp.inf)
            labels = batch["label"]
            labels = jnp.where(labels < 0, labels, jnp.asarray(mapped)[labels])
            return counts(logits, labels, batch["mask"], self._allowed)

        # Else another process might hold a part of what is read here.
        self._count = jax.jit(count, out_shardings=replicated(context.mesh))

    @classmethod
    def results(cls, settings: Settings) -> tuple[str, ...]:
        """All but the count of examples; ``loss`` is the negative log-likelihood."""
        per_class = () if settings["labels"] == "many" else ("class_accuracy",)
        return ("accuracy", "top5", "loss", "ece", *per_class)

    def run(self, params: Params, frozen: Params) -> dict[str, float]:
        """Returns what `results` names, and the number of ``examples``.

        Accuracies are in 0..1: ``accuracy`` of the first guess, ``top5`` of the first
        five, ``class_accuracy`` the mean over classes of each one's. ``ece`` is the
        expected calibration error.
        """
        parts: list[dict[str, jax.Array]] = []
        with self.context.batches(self.loader) as batches:
            for batch in batches:
                self.context.beat()
                parts.append(self._count(params, frozen, batch))
                # Two may run ahead: more would fill memory, and delay a stop.
                jax.block_until_ready(parts[-3:][0])
                self.context.beat()
        sums: dict[str, np.ndarray] = jax.tree.map(
            lambda *each: np.sum(np.asarray(each, np.float64), axis=0),
            *jax.device_get(parts),
        )
        self._check(sums)
        return summarize(sums, per_class=not self._many)

    def _check(self, sums: Mapping[str, np.ndarray]) -> None:
        """Whether there was something to measure, and all of it of the right classes.

        Raises:
          DataError: there was not.
        """
        if sums["outside"]:
            raise self.error(
                f"{int(sums['outside'])} labels of {self._name} are not among the "
                f"classes of {self._classes!r}; set classes='all', or data and split "
                "to what belongs to these classes"
            )
        if not sums["examples"]:
            what = "has a label" if self._many and sums["unlabelled"] else "is good"
            raise self.error(f"not one example of {self._name} {what}")


def counts(
    logits: Float[Array, "B K"],
    labels: Int[Array, "B *M"],
    mask: Any,
    allowed: np.ndarray | None,
) -> dict[str, Any]:
    """Sums over a batch, from which `summarize` makes the results.

    Args:
      logits: minus infinity where a class is not ``allowed``.
      labels: a class each, or all that are right, each once, padded with -1.
      mask: True for rows that count.
      allowed: True for classes that predictions are among, None for all.
    """
    num_classes = logits.shape[-1]
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    guesses = jax.lax.top_k(logits, min(5, num_classes))[1]  # [B, 5], lower ones first
    good = mask
    if labels.ndim == 2:
        there = labels >= 0
        mask = mask & there.any(axis=-1)
        right = (guesses[:, :, None] == labels[:, None]).any(axis=-1)
        chosen = jnp.take_along_axis(log_p, labels, axis=-1)
        chosen = jnp.where(there, chosen, -jnp.inf)
        losses = -jax.nn.logsumexp(chosen, axis=-1)  # of the set's whole probability
    else:
        right = guesses == labels[:, None]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    outside = jnp.zeros((), jnp.int32)
    if allowed is not None:
        strange = (labels >= 0) & ~jnp.asarray(allowed)[labels]
        outside = (mask & strange.reshape(len(labels), -1).any(axis=-1)).sum()
    correct = right[:, 0] & mask
    confidence = jnp.exp(log_p.max(axis=-1))
    edges = jnp.ceil(confidence * BINS).astype(jnp.int32) - 1  # (low, high], as there
    bins = jnp.clip(edges, 0, BINS - 1)
    sums = {
        "examples": mask.sum(),
        "unlabelled": good.sum() - mask.sum(),
        "outside": outside,
        "correct": correct.sum(),
        "top5": (right.any(axis=-1) & mask).sum(),
        "loss": jnp.where(mask, losses, 0.0).sum(),
        "bin_correct": jnp.zeros(BINS, jnp.int32).at[bins].add(correct),
        # Not by scatter, whose order of additions a GPU does not keep.
        "bin_confidence": (
            jax.nn.one_hot(bins, BINS) * jnp.where(mask, confidence, 0.0)[:, None]
        ).sum(axis=0),
    }
    if labels.ndim == 1:
        none = jnp.zeros(num_classes, jnp.int32)
        sums["class_examples"] = none.at[labels].add(mask)
        sums["class_correct"] = none.at[labels].add(correct)
    return sums


def summarize(sums: Mapping[str, Any], *, per_class: bool) -> dict[str, float]:
    """The results from the sums over all batches."""
    examples = float(sums["examples"])
    gaps = np.abs(sums["bin_correct"] - sums["bin_confidence"])
    results = {
        "accuracy": float(sums["correct"]) / examples,
        "top5": float(sums["top5"]) / examples,
        "loss": float(sums["loss"]) / examples,
        "ece": float(gaps.sum()) / examples,
    }
    if per_class:
        present = sums["class_examples"] > 0
        rates = sums["class_correct"][present] / sums["class_examples"][present]
        results["class_accuracy"] = float(rates.mean())
    return results | {"examples": examples}
