"""Normalisation of the last axis: LayerNorm, or RMSNorm without mean and bias."""

import functools

import jax.numpy as jnp
from flax import nnx

NORMS = ("layer", "rms")

layer_norm = functools.partial(nnx.LayerNorm, epsilon=1e-6, param_dtype=jnp.float32)


def build_norm(
    kind: str, width: int, *, epsilon: float, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.Module:
    """``"layer"`` (arXiv 1607.06450) or ``"rms"`` (arXiv 1910.07467) over ``width``.

    Both take as many keys of the stream, so that what is drawn after them does not
    depend on the kind.
    """
    if kind == "layer":
        return layer_norm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)
    norm = nnx.RMSNorm(
        width, epsilon=epsilon, dtype=dtype, param_dtype=jnp.float32, rngs=rngs
    )
    rngs.params()  # LayerNorm's for the bias
    return norm
