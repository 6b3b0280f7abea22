"""Scaled dot-product attention behind one function, and the multi-head layer on it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

IMPLEMENTATIONS = ("xla", "cudnn")


def attend(
    query: Float[Array, "B T H Dh"],
    key: Float[Array, "B S H Dh"],
    value: Float[Array, "B S H Dh"],
    *,
    mask: Bool[Array, "#B #H #T S"] | None = None,
    implementation: Any = "xla",
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "B T H Dh"]:
    """Softmax attention over ``S`` tokens; the softmax is computed in float32.

    Args:
      query, key, value: per-head projections.
      mask: True where a query may attend to a key.
      implementation: ``"xla"`` everywhere; ``"cudnn"`` on NVIDIA GPUs in bf16.
      dropout_rate: rate on the attention weights; needs the plain computation, so
        it always runs as ``"xla"``.
      dropout_key: None means deterministic.
    """
    if dropout_key is None or dropout_rate == 0.0:
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, implementation=implementation
        )
    logits = jnp.einsum(
        "bthd,bshd->bhts", query, key, preferred_element_type=jnp.float32
    )
    logits = logits / jnp.sqrt(query.shape[-1]).astype(jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits)
    keep = jax.random.bernoulli(dropout_key, 1.0 - dropout_rate, weights.shape)
    weights = jnp.where(keep, weights / (1.0 - dropout_rate), 0.0).astype(value.dtype)
    return jnp.einsum("bhts,bshd->bthd", weights, value)


class Attention(nnx.Module):
    """Multi-head attention with separate query, key, value and output projections.

    Kernels are ``[D, H, Dh]`` and ``[H, Dh, D]``; xavier-uniform bounds are those of
    the flattened ``[D, D]`` matrices, biases start at 0. ``qk_norm(head_dim, rngs=)``
    builds the norms of queries and keys (arXiv 2302.05442), None is for none.
    """

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        dropout: float,
        implementation: str,
        remat: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        qk_norm: Callable[..., nnx.Module] | None = None,
    ):
        head_dim = width // num_heads
        project = functools.partial(
            nnx.LinearGeneral,
            kernel_init=nnx.initializers.xavier_uniform(),
            dtype=dtype,
            param_dtype=jnp.float32,
            rngs=rngs,
        )
        self.query = project(width, (num_heads, head_dim))
        self.key = project(width, (num_heads, head_dim))
        self.value = project(width, (num_heads, head_dim))
        self.out = project((num_heads, head_dim), width, axis=(-2, -1))
        # Constants at first: with keys of the stream, what follows would change.
        constant = nnx.Rngs(0)
        self.query_norm = qk_norm(head_dim, rngs=constant) if qk_norm else None
        self.key_norm = qk_norm(head_dim, rngs=constant) if qk_norm else None
        self.dropout = dropout
        self.implementation = implementation
        self.remat = remat

    def __call__(
        self,
        inputs: Float[Array, "B T D"],
        context: Float[Array, "B S D"] | None = None,
        *,
        mask: Bool[Array, "#B #H #T S"] | None = None,
        rotate: Callable[[jax.Array], jax.Array] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """Attends from ``inputs`` to ``context`` (None: to itself).

        ``rotate`` is what a rotary embedding does to queries and keys, each
        ``[B, T, H, Dh]``; it comes after their norms.
        """
        context = inputs if context is None else context
        queries, keys = self.query(inputs), self.key(context)
        if self.query_norm is not None and self.key_norm is not None:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        if rotate is not None:
            queries, keys = rotate(queries), rotate(keys)
        run = functools.partial(
            attend,
            mask=mask,
            implementation=self.implementation,
            dropout_rate=self.dropout,
            dropout_key=key,
        )
        if self.remat:  # only the attention weights are recomputed, not projections
            run = jax.checkpoint(run)
        return self.out(run(queries, keys, self.value(context)))
