"""Means over many rows an image, whose logits must not all be in memory at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def chunked_mean(
    loss_fn: Callable[[Any, Any], Any],
    features: Any,
    targets: Any,
    weights: Float[Array, "B N"] | Bool[Array, "B N"] | None = None,
    *,
    chunk: int,
) -> Any:
    """Weighted mean of ``loss_fn(features, targets)`` over rows and tokens.

    For heads with a large output at every token: what ``loss_fn`` makes of the
    features (logits, pixels) exists for ``chunk`` tokens of each image at a time, in
    the forward and in the backward pass, which computes it again. The head is what
    ``loss_fn`` closes over; its gradient is summed over the chunks::

        def loss_fn(features, targets):  # [B, n, D], [B, n] -> [B, n]
            logits = self.head(features)  # [B, n, K]
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets)

        loss = chunked_mean(loss_fn, tokens, codes, masked, chunk=32)

    Value and gradients are those of one call over all tokens, but for the order of the
    sum. A chunk takes every n-th token of every image: rows, and tokens too where
    their number allows it, stay on the devices that hold them. Where the chunks do not
    come out even, the last token is repeated with the weight 0.

    Args:
      loss_fn: treats each row and token alone; returns an array ``[B, n]`` or a tree
        of such, for example a loss and ``{"accuracy": ...}``.
      features: an array ``[B, N, ...]``, or a tree of such.
      targets: the same.
      weights: of each token in the mean, None for 1. All zero: the mean is 0.
      chunk: the largest number of tokens of an image at a time; N or more: no chunks,
        and nothing is computed again.

    Returns:
      The tree of ``loss_fn`` with a float32 scalar in place of each array.

    Raises:
      ValueError: ``chunk`` is below 1, or shapes do not fit.
    """
    shape = _common_shape(features, targets, weights)
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 token, got {chunk}")
    weights = jnp.ones(shape, jnp.float32) if weights is None else weights
    num_chunks = -(-shape[1] // chunk)

    def sums(features: Any, targets: Any, weights: jax.Array) -> Any:
        losses = loss_fn(features, targets)
        for path, leaf in jax.tree.leaves_with_path(losses):
            if leaf.shape != weights.shape:
                raise ValueError(
                    f"loss_fn{jax.tree_util.keystr(path)} must have a value for each "
                    f"token, {weights.shape}; it has the shape {leaf.shape}"
                )
        return jax.tree.map(
            lambda leaf: jnp.sum(leaf.astype(jnp.float32) * weights), losses
        )

    if num_chunks == 1:
        totals = sums(features, targets, weights)
    else:
        # Inside a scan the compiler cannot merge the two computations of a chunk.
        run = jax.checkpoint(sums, prevent_cse=False)
        parts = _split((features, targets, weights), num_chunks)

        def add(totals: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, totals, run(*part)), None

        first = jax.tree.map(lambda leaf: leaf[0], parts)
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(sums, *first),
        )
        totals, _ = jax.lax.scan(add, zeros, parts)
    weight = weights.astype(jnp.float32).sum()
    return jax.tree.map(
        lambda total: total / jnp.where(weight == 0.0, 1.0, weight), totals
    )


def _common_shape(features: Any, targets: Any, weights: Any) -> tuple[int, int]:
    """Rows and tokens, which all arrays have in front."""
    shapes = {leaf.shape for leaf in jax.tree.leaves((features, targets, weights))}
    leading = {shape[:2] for shape in shapes}
    if len(leading) != 1 or min(map(len, shapes)) < 2:
        listed = ", ".join(map(str, sorted(shapes)))
        raise ValueError(f"arrays must begin with the same [B, N], got {listed}")
    return leading.pop()


def _split(arrays: Any, num_chunks: int) -> Any:
    """``[B, N, ...]`` to ``[num_chunks, B, n, ...]``; the last token fills up."""
    (features, targets, weights) = arrays
    missing = -weights.shape[1] % num_chunks

    def split(array: jax.Array, mode: str) -> jax.Array:
        widths = [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)
        array = jnp.pad(array, widths, mode=mode) if missing else array
        array = array.reshape(array.shape[0], -1, num_chunks, *array.shape[2:])
        return jnp.moveaxis(array, 2, 0)

    filled = jax.tree.map(lambda leaf: split(leaf, "edge"), (features, targets))
    return *filled, split(weights, "constant")
