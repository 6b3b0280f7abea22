"""Accuracy and loss over a whole split, exact to the last example."""

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from vit_jax.data.errors import DataError
from vit_jax.data.mixing import normalize
from vit_jax.data.pipeline import Loader, eval_batches
from vit_jax.data.rows import BadExample
from vit_jax.objectives.base import merge


class Classification:
    """Top-1 accuracy and softmax cross-entropy of ``predict(images)["logits"]``.

    The last batch is padded and masked, and counts are summed on the devices, so the
    result does not depend on the batch size, the devices or the processes.

    Args:
      loader: the split, in order, as the model sees it.
      graphdef: structure of the objective (`objectives.base.split`).
      mean, std: normalisation of pixels, as in training.
      beat: called when a batch arrived and when it was counted; what it raises ends
        the evaluation.
    """

    needs_logits: ClassVar[bool] = True

    def __init__(
        self,
        *,
        loader: Loader,
        graphdef: Any,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        beat: Callable[[], None] = lambda: None,
    ):
        self.loader, self._beat = loader, beat

        @jax.jit
        def count(params, frozen, batch):
            images = normalize(batch["image"], mean, std)
            logits = merge(graphdef, params, frozen).predict(images)["logits"]
            labels, mask = batch["label"], batch["mask"]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            correct = (logits.argmax(axis=-1) == labels) & mask
            return {
                "correct": correct.sum(),
                "loss": jnp.where(mask, losses, 0.0).sum(),
                "examples": mask.sum(),
            }

        self._count = count

    def run(self, params: dict[str, Any], frozen: dict[str, Any]) -> dict[str, float]:
        """Returns ``accuracy`` in 0..1, mean ``loss`` and the count of ``examples``."""
        counts: list[dict[str, jax.Array]] = []
        with contextlib.closing(eval_batches(self.loader)) as batches:
            for batch in batches:
                self._beat()
                counts.append(self._count(params, frozen, batch))
                # Two may run ahead: more would fill memory, and delay a stop.
                jax.block_until_ready(counts[-3:][0])
                self._beat()
        sums = jax.tree.map(
            lambda *parts: sum(map(float, parts)), *jax.device_get(counts)
        )
        if not sums["examples"]:
            raise DataError("not one example of the evaluation's split is good")
        return {
            "accuracy": sums["correct"] / sums["examples"],
            "loss": sums["loss"] / sums["examples"],
            "examples": sums["examples"],
        }

    def take_bad(self) -> list[BadExample]:
        """Damaged examples that were left out, since the last call."""
        return self.loader.take_bad()

    def close(self) -> None:
        """Ends the loader's threads."""
        self.loader.close()
