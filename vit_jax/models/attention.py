"""Scaled dot-product attention behind one function, and the multi-head layer on it."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Key

from vit_jax.models import dense
from vit_jax.models.attention_choice import Request, hardware, mask_kind, resolve
from vit_jax.models.attention_mesh import on_mesh
from vit_jax.models.layout import constrain

ATTENDED = "attended"  # the name that models/stack.py knows the result by


def attend(
    query: Float[Array, "B T H Dh"],
    key: Float[Array, "B S H Dh"],
    value: Float[Array, "B S H Dh"],
    *,
    mask: Bool[Array, "#B #H #T S"] | None = None,
    causal: bool = False,
    implementation: str = "xla",
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "B T H Dh"]:
    """Softmax attention over ``S`` tokens; the softmax is computed in float32.

    Rows, heads and tokens may be split over the mesh of ``jax.set_mesh``. A query whose
    keys are all masked has finite values without a meaning.

    Args:
      query, key, value: per-head projections.
      mask: True where a query may attend to a key; ``[B, 1, 1, S]`` masks keys.
      causal: query i sees the keys up to i (and of those what the mask allows).
      implementation: ``"xla"`` everywhere; ``"cudnn"`` on NVIDIA GPUs (flash
        attention, arXiv 2205.14135); ``"splash"`` on TPU (models/splash.py);
        ``"auto"`` is `choose`'s choice.
      dropout_rate: rate on the attention weights, which ``"xla"`` alone has.
      dropout_key: None means deterministic.

    Raises:
      ValueError: a kernel asked for by name cannot do this here, or is unknown.
    """
    name = _kernel(implementation, query, key, mask, causal, dropout_rate, dropout_key)
    if name == "xla":
        rate = dropout_rate if dropout_key is not None else 0.0
        return _xla(query, key, value, mask, causal, rate, dropout_key)
    if name == "cudnn":
        return on_mesh(
            functools.partial(cudnn, causal=causal),
            *(query, key, value, mask),
            causal=causal,
        )
    from vit_jax.models import splash  # Pallas takes half a second to import

    return on_mesh(
        functools.partial(splash.attend, causal=causal),
        *(query, key, value, mask),
        causal=causal,
    )


def _kernel(
    implementation: str,
    query: jax.Array,
    key: jax.Array,
    mask: jax.Array | None,
    causal: bool,
    dropout_rate: float,
    dropout_key: jax.Array | None,
) -> str:
    """The name of what computes this; see `resolve` for what it raises."""
    request = Request(
        num_queries=query.shape[1],
        num_keys=key.shape[1],
        head_dim=query.shape[3],
        dtype=query.dtype,
        mask=mask_kind(None if mask is None else mask.shape),
        causal=causal,
        dropout=dropout_key is not None and dropout_rate > 0.0,
    )
    return resolve(implementation, hardware(), request)


def _xla(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    causal: bool,
    dropout_rate: float,
    dropout_key: jax.Array | None,
) -> jax.Array:
    key, value = constrain(key, "keys"), constrain(value, "keys")
    rate = dropout_rate if dropout_key is not None else 0.0
    on_cpu = hardware().platform == "cpu"
    if rate == 0.0 and not on_cpu:
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, is_causal=causal, implementation="xla"
        )
    query, key, value = (jnp.swapaxes(array, 1, 2) for array in (query, key, value))
    if on_cpu:
        # XLA's CPU compiler would else put the transpositions into the products, and
        # then walks the largest arrays across their rows: 1.16 times a whole S/16 step.
        query, key, value = lax.optimization_barrier((query, key, value))
    logits = jnp.einsum(
        "bhtd,bhsd->bhts", query, key, preferred_element_type=jnp.float32
    )
    logits = logits * (query.shape[-1] ** -0.5)
    if causal:
        earlier = jnp.tril(jnp.ones(logits.shape[2:], bool))
        mask = earlier if mask is None else mask & earlier
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits)
    if dropout_key is not None and rate > 0.0:
        keep = jax.random.bernoulli(dropout_key, 1.0 - rate, weights.shape)
        weights = jnp.where(keep, weights / (1.0 - rate), 0.0)
    out = jnp.einsum("bhts,bhsd->bhtd", weights.astype(value.dtype), value)
    if on_cpu:
        out = lax.optimization_barrier(out)
    return jnp.swapaxes(out, 1, 2)


def cudnn(
    query: Float[Array, "B T H Dh"],
    key: Float[Array, "B S H Dh"],
    value: Float[Array, "B S H Dh"],
    mask: Bool[Array, "#B #H #T S"] | None = None,
    *,
    causal: bool = False,
) -> Float[Array, "B T H Dh"]:
    """cuDNN's flash attention of one device's rows and heads.

    Its binding trains with even numbers of tokens only: odd ones (197) get another,
    which the lengths of the rows, or the mask, hide. It takes a mask as a bias with an
    entry for every query.

    Raises:
      ValueError: cuDNN is not installed, or refuses.
    """
    rows, num_queries, num_keys = query.shape[0], query.shape[1], key.shape[1]
    hidden = {}
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], num_queries, mask.shape[3]))
        mask = _even(_even(mask, axis=2), axis=3)
    elif num_queries % 2 or num_keys % 2:
        hidden = {
            "query_seq_lengths": jnp.full((rows,), num_queries, jnp.int32),
            "key_value_seq_lengths": jnp.full((rows,), num_keys, jnp.int32),
        }
    try:
        out = jax.nn.dot_product_attention(
            *(_even(array, axis=1) for array in (query, key, value)),
            mask=mask,
            is_causal=causal,
            implementation="cudnn",
            **hidden,
        )
    except NotImplementedError as error:
        raise ValueError(f"attention 'cudnn': {error} Use 'auto' or 'xla'") from error
    except RuntimeError as error:
        raise ValueError(
            f"attention 'cudnn': {error} Install the extra 'cuda', or use 'xla'"
        ) from error
    return out[:, :num_queries]


def _even(array: jax.Array, axis: int) -> jax.Array:
    """With zeros (False) behind an odd number of entries."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, array.shape[axis] % 2)
    return jnp.pad(array, widths)


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
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        qk_norm: Callable[..., nnx.Module] | None = None,
        gradient_dtype: str = "compute",
    ):
        head_dim = width // num_heads
        project = functools.partial(
            nnx.LinearGeneral,
            kernel_init=nnx.initializers.xavier_uniform(),
            dtype=dtype,
            param_dtype=jnp.float32,
            rngs=rngs,
            **dense.options(gradient_dtype),
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
        queries = constrain(self.query(inputs), "queries")
        keys = self.key(context)
        if self.query_norm is not None and self.key_norm is not None:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        if rotate is not None:
            queries, keys = rotate(queries), rotate(keys)
        attended = attend(
            *(queries, keys, self.value(context)),
            mask=mask,
            implementation=self.implementation,
            dropout_rate=self.dropout,
            dropout_key=key,
        )
        attended = checkpoint_name(constrain(attended, "queries"), ATTENDED)
        return self.out(attended)
