"""Classification by weighted nearest neighbours, as DINO evaluates (arXiv 2104.14294).

The training split's features stay on the devices, each with its share; similarities
are computed against one chunk of them at a time, so memory is bounded by a chunk.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax.evals.base import POSITIVE, Context, OnSplits, Params, Range, at_least
from vit_jax.evals.features import (
    NO_LABEL,
    Extractor,
    mean_scores,
    num_classes_of,
    score,
)
from vit_jax.sharding import BATCH_AXES, replicated


class KNN(OnSplits):
    """Votes of the ``k`` training examples of the largest cosine similarity.

    A vote weighs ``exp(similarity / temperature)``. Of equal similarities the example
    that comes first in the split counts, of equal classes the lower one. Exact: no
    index, no approximation.

    Args:
      context: of the run.
      data: another data set than the run's, or "".
      train_split, split: what votes, and what is classified.
      k: number of votes.
      temperature: see above.
      loading: batch size and resize, for `context.open`.
    """

    RANGES: ClassVar[Mapping[str, Range]] = {
        "k": at_least(1),
        "temperature": POSITIVE,
    }

    def __init__(
        self,
        context: Context,
        *,
        data: str,
        train_split: str,
        split: str,
        k: int,
        temperature: float,
        **loading: Any,
    ):
        self._train = context.open(train_split, data=data, **loading)
        self._test = context.open(split, data=data, **loading)
        super().__init__(context, [self._train, self._test])
        num_classes = num_classes_of(self._splits, self.error)
        self._extractor = Extractor(context)
        self._k, self._compiled = k, False
        self._check(len(self._train.loader.source))
        over_rows = NamedSharding(context.mesh, PartitionSpec(BATCH_AXES))
        whole = replicated(context.mesh)

        def count(bank: jax.Array, bank_labels: Any, rows: Any, labels: Any) -> Any:
            # Each device has its part of the queries, and one chunk after the other.
            rows = jax.lax.with_sharding_constraint(rows, over_rows)
            votes = vote(
                unit(rows),
                (bank, bank_labels),
                k=k,
                temperature=temperature,
                num_classes=num_classes,
                place=lambda chunk: jax.lax.with_sharding_constraint(chunk, whole),
            )
            return score(votes, labels)

        self._count = jax.jit(count, out_shardings=whole)
        self._unit = jax.jit(unit, donate_argnums=0)

    @classmethod
    def results(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """First guess, and first five."""
        return ("accuracy", "top5")

    def run(self, params: Params, frozen: Params) -> dict[str, float]:
        """Returns ``accuracy``, ``top5`` and the number of ``examples``."""
        bank = self._extractor.bank(self._train, params, frozen)
        self._check(bank.size)
        features = self._unit(bank.features)
        counts = []
        for rows, labels in self._extractor.batches(self._test, params, frozen):
            with self.context.compiles(not self._compiled):
                counted = self._count(features, bank.labels, rows, labels)
                counts.append(jax.block_until_ready(counted))
            self._compiled = True
        return mean_scores(counts)

    def _check(self, size: int) -> None:
        """Whether there are ``k`` that can vote.

        Raises:
          DataError: there are not.
        """
        if size < self._k:
            raise self.error(
                f"k is {self._k}, but {self._train.name} has {size} examples; lower k, "
                "or take more of the split"
            )


def unit(features: jax.Array) -> jax.Array:
    """Rows of length 1; a row of zeros stays one."""
    length = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.maximum(length, 1e-12)


def vote(
    queries: jax.Array,
    bank: tuple[jax.Array, Any],
    *,
    k: int,
    temperature: float,
    num_classes: int,
    place: Any = lambda chunk: chunk,
) -> jax.Array:
    """Weights of the classes, ``[Q, K]``.

    Args:
      queries: ``[Q, D]``, of length 1 as the bank's rows.
      bank: features ``[C, B, D]`` and labels ``[C, B]``, NO_LABEL where there is none.
      k, temperature, num_classes: see `KNN`.
      place: puts a chunk where it is needed.
    """
    rows = len(queries)
    none = jnp.full((rows, k), -jnp.inf), jnp.full((rows, k), NO_LABEL, jnp.int32)

    def merge(best: Any, chunk: Any) -> tuple[Any, None]:
        features, labels = place(chunk[0]), chunk[1]
        near = jnp.matmul(queries, features.T, precision="highest")  # [Q, B]
        near = jnp.where(labels == NO_LABEL, -jnp.inf, near)
        # Those so far first: of equal ones top_k takes the one that came first.
        near = jnp.concatenate([best[0], near], axis=1)
        labels = jnp.concatenate(
            [best[1], jnp.broadcast_to(labels, (rows, len(labels)))], axis=1
        )
        values, places = jax.lax.top_k(near, k)
        return (values, jnp.take_along_axis(labels, places, axis=1)), None

    (near, labels), _ = jax.lax.scan(merge, none, bank)
    # Relative to the nearest, which changes no order and cannot overflow.
    weights = jnp.exp((near - near[:, :1]) / temperature)
    return (weights[:, :, None] * jax.nn.one_hot(labels, num_classes)).sum(axis=1)
