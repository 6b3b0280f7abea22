"""Features of whole splits: kept on the devices in shards, or gathered on the host."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax.evals.base import Context, Params, Split
from vit_jax.sharding import BATCH_AXES, replicated

NO_LABEL = -1  # of rows that are padding or damaged


class Bank(NamedTuple):
    """The features of a split: chunk by chunk, the rows of a chunk over the devices."""

    features: jax.Array  # float32 [C, B, D]
    labels: np.ndarray  # int32 [C, B]; NO_LABEL where a row does not count

    @property
    def size(self) -> int:
        """Rows that count."""
        return int((self.labels != NO_LABEL).sum())


class Extractor:
    """Computes ``predict(images)["features"]`` in float32; compiled once.

    Args:
      context: of the run.
    """

    def __init__(self, context: Context):
        self._context = context
        mesh = context.mesh
        whole = replicated(mesh)
        self._bank_sharding = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))

        def rows(params: Params, frozen: Params, batch: Any, draw: Any) -> Any:
            key = None
            if draw is not None:
                key = jax.random.fold_in(jax.random.key(context.seed), draw[0])
                key = jax.random.fold_in(key, draw[1])
            features = context.predict(params, frozen, batch["image"], key)["features"]
            labels = jnp.where(batch["mask"], batch["label"], NO_LABEL)
            return features.astype(jnp.float32), labels

        self._rows = jax.jit(rows, out_shardings=whole)

        self._zeros: Any = None

        def put(features: jax.Array, number: jax.Array, batch: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_index_in_dim(features, batch, number, 0)

        self._put = jax.jit(put, donate_argnums=0, out_shardings=self._bank_sharding)

    def batches(
        self,
        split: Split,
        params: Params,
        frozen: Params,
        *,
        epoch: int | None = None,
    ) -> Iterator[tuple[jax.Array, jax.Array]]:
        """Features ``[B, D]`` and labels ``[B]`` of every batch, a copy everywhere.

        Args:
          split: what to read.
          params, frozen: of the objective.
          epoch: of training: what is drawn is drawn for it, and images are mirrored at
            random. None leaves them as they are.
        """
        with self._context.batches(split.loader, epoch=epoch or 0) as batches:
            for number, batch in enumerate(batches):
                self._context.beat()
                draw = None if epoch is None else np.asarray([epoch, number], np.int32)
                done = jax.block_until_ready(self._rows(params, frozen, batch, draw))
                self._context.beat()
                yield done

    def bank(
        self, split: Split, params: Params, frozen: Params, epoch: int | None = None
    ) -> Bank:
        """The features of a split, on the devices; ``epoch`` as of `batches`."""
        chunks = -(-len(split.loader.source) // split.loader.batch_size)
        features: Any = None
        labels: list[np.ndarray] = []
        for number, (rows, row_labels) in enumerate(
            self.batches(split, params, frozen, epoch=epoch)
        ):
            if features is None:
                features = self._empty((chunks, *rows.shape))
            features = self._put(features, number, rows)
            labels.append(np.asarray(row_labels))
        return Bank(features, np.stack(labels))

    def _empty(self, shape: tuple[int, ...]) -> jax.Array:
        if self._zeros is None:  # a split's size does not change: compiled once
            make = functools.partial(jnp.zeros, shape)
            self._zeros = jax.jit(make, out_shardings=self._bank_sharding)
        return self._zeros()

    def host(
        self, split: Split, params: Params, frozen: Params
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features ``[N, D]`` and labels ``[N]`` of a split, without what is bad."""
        features, labels = [], []
        for rows, row_labels in self.batches(split, params, frozen):
            given = np.asarray(row_labels)
            features.append(np.asarray(rows)[given != NO_LABEL])
            labels.append(given[given != NO_LABEL])
        return np.concatenate(features), np.concatenate(labels)


def num_classes_of(splits: Sequence[Split], fail: Callable[[str], Exception]) -> int:
    """The number of classes of the data set that splits are of.

    Raises:
      Exception: what ``fail`` makes of a text: it is not known, or an example has
        several labels.
    """
    for split in splits:
        if split.loader.label_shape:
            raise fail(
                f"examples of {split.name} have several labels, and this needs one of "
                "each; 'classification' with labels='many' measures them"
            )
    split = splits[0]
    if not split.num_classes:
        raise fail(f"{split.name}: its data set does not say how many classes it has")
    return split.num_classes


def score(
    logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Counts of rows, of right first guesses and of right first five."""
    mask = labels != NO_LABEL
    guesses = jax.lax.top_k(logits, min(5, logits.shape[-1]))[1]
    right = guesses == labels[:, None]
    return (
        mask.sum(),
        (right[:, 0] & mask).sum(),
        (right.any(axis=-1) & mask).sum(),
    )


def mean_scores(
    counts: list[tuple[jax.Array, jax.Array, jax.Array]],
) -> dict[str, float]:
    """``accuracy``, ``top5`` and the number of ``examples`` from those of batches."""
    examples, first, five = np.asarray(jax.device_get(counts), np.int64).sum(axis=0)
    return {
        "accuracy": float(first / max(examples, 1)),
        "top5": float(five / max(examples, 1)),
        "examples": float(examples),
    }
