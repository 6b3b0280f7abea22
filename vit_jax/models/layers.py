"""The parts of a ViT: patch embedding, dropout, drop-path, MLP, block, attention pool.

Randomness is an explicit ``key``; ``None`` means deterministic. No layer keeps state.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from vit_jax.models import dense
from vit_jax.models.attention import Attention
from vit_jax.models.layout import constrain
from vit_jax.models.norms import build_norm
from vit_jax.models.resample import pi_resize

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu_tanh": functools.partial(nnx.gelu, approximate=True),
    "gelu": functools.partial(nnx.gelu, approximate=False),
}
MLPS = ("dense", "swiglu")


def split_key(key: Key[Array, ""] | None, num: int) -> list:
    """Splits a key in ``num``, or passes None on ``num`` times."""
    return [None] * num if key is None else list(jax.random.split(key, num))


def dropout(
    inputs: Float[Array, "..."], rate: float, key: Key[Array, ""] | None
) -> Float[Array, "..."]:
    """Zeroes elements at ``rate`` and scales the rest by ``1 / (1 - rate)``."""
    if key is None or rate == 0.0:
        return inputs
    keep = jax.random.bernoulli(key, 1.0 - rate, inputs.shape)
    return jnp.where(keep, inputs / (1.0 - rate), 0).astype(inputs.dtype)


def drop_path(
    residual: Float[Array, "B ..."],
    rate: float | Float[Array, ""],
    key: Key[Array, ""] | None,
) -> Float[Array, "B ..."]:
    """Drops the whole residual branch of a row at ``rate`` (arXiv 1603.09382).

    ``rate`` may be traced: under a scan each layer has its own. Kept rows are scaled
    by ``1 / (1 - rate)``.
    """
    if key is None or (isinstance(rate, float) and rate == 0.0):
        return residual
    shape = residual.shape[:1] + (1,) * (residual.ndim - 1)
    keep = jax.random.bernoulli(key, 1.0 - rate, shape)
    # Scaled in float32: 1 / keep rounded to bfloat16 would bias every kept branch.
    scaled = residual.astype(jnp.float32) / (1.0 - rate)
    return jnp.where(keep, scaled, 0.0).astype(residual.dtype)


class Mlp(nnx.Module):
    """Two dense layers with a GELU between them; ``"swiglu"`` has a gate instead.

    ``"dense"`` is ``out(gelu(hidden(x)))``, ``"swiglu"`` (arXiv 2002.05202)
    ``out(silu(gate(x)) * hidden(x))``. Kernels xavier-uniform, biases normal(1e-6), as
    in arXiv 2010.11929's code.
    """

    def __init__(
        self,
        *,
        width: int,
        mlp_dim: int,
        dropout: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        activation: str = "gelu_tanh",
        kind: str = "dense",
        gradient_dtype: str = "compute",
    ):
        linear = functools.partial(
            nnx.Linear,
            kernel_init=nnx.initializers.xavier_uniform(),
            bias_init=nnx.initializers.normal(stddev=1e-6),
            dtype=dtype,
            param_dtype=jnp.float32,
            rngs=rngs,
            **dense.options(gradient_dtype),
        )
        self.hidden = linear(width, mlp_dim)
        self.out = linear(mlp_dim, width)
        self.gate = linear(width, mlp_dim) if kind == "swiglu" else None
        self.activation = activation
        self.dropout = dropout

    def __call__(
        self, inputs: Float[Array, "... D"], *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "... D"]:
        hidden = constrain(self.hidden(inputs), "hidden")
        if self.gate is None:
            hidden = ACTIVATIONS[self.activation](hidden)
        else:
            hidden = nnx.silu(self.gate(inputs)) * hidden
        return self.out(dropout(hidden, self.dropout, key))


class Block(nnx.Module):
    """Pre-norm block: ``x + drop(attention(LN(x)))``, then ``x + drop(MLP(LN(x)))``.

    Args:
      width, mlp_dim, num_heads: sizes of the tokens, the MLP and the attention.
      dropout, attention_dropout: rates on branches and on attention weights.
      attention: kernel of models/attention.py.
      dtype: computation type.
      rngs: initialises the parameters; the options below leave the others' values.
      activation: of the dense MLP, a name of ``ACTIVATIONS``.
      norm, norm_epsilon: kind (models/norms.py) and epsilon of every norm.
      qk_norm: norms of queries and keys over a head's dimensions (arXiv 2302.05442).
      mlp: ``"dense"`` or ``"swiglu"``.
      layer_scale: first value of a scale per channel on each branch, 0 for no scale
        (arXiv 2103.17239).
      parallel: both branches read the same norm: ``x + attention(n) + MLP(n)``
        (arXiv 2302.05442).
      gradient_dtype: of the kernels' gradients (models/dense.py).
    """

    def __init__(
        self,
        *,
        width: int,
        mlp_dim: int,
        num_heads: int,
        dropout: float,
        attention_dropout: float,
        attention: str,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        activation: str = "gelu_tanh",
        norm: str = "layer",
        norm_epsilon: float = 1e-6,
        qk_norm: bool = False,
        mlp: str = "dense",
        layer_scale: float = 0.0,
        parallel: bool = False,
        gradient_dtype: str = "compute",
    ):
        make_norm = functools.partial(
            build_norm, norm, epsilon=norm_epsilon, dtype=dtype
        )
        self.attention_norm = make_norm(width, rngs=rngs)
        self.attention = Attention(
            width=width,
            num_heads=num_heads,
            dropout=attention_dropout,
            implementation=attention,
            dtype=dtype,
            rngs=rngs,
            qk_norm=make_norm if qk_norm else None,
            gradient_dtype=gradient_dtype,
        )
        mlp_norm = make_norm(width, rngs=rngs)  # takes its keys from the stream anyway
        self.mlp_norm = None if parallel else mlp_norm
        self.mlp = Mlp(
            width=width,
            mlp_dim=mlp_dim,
            dropout=dropout,
            dtype=dtype,
            rngs=rngs,
            activation=activation,
            kind=mlp,
            gradient_dtype=gradient_dtype,
        )
        scale = jnp.full((width,), layer_scale)
        self.attention_scale = nnx.Param(scale) if layer_scale else None
        self.mlp_scale = nnx.Param(scale) if layer_scale else None
        self.dropout = dropout

    def __call__(
        self,
        tokens: Float[Array, "B N D"],
        *,
        mask: Bool[Array, "#B #H #N N"] | None = None,
        rotate: Callable[[jax.Array], jax.Array] | None = None,
        drop_path_rate: float | Float[Array, ""] = 0.0,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B N D"]:
        keys = split_key(key, 6)

        def regularize(
            branch: jax.Array, scale: nnx.Param | None, keys: list
        ) -> jax.Array:
            branch = dropout(branch, self.dropout, keys[0])
            if scale is not None:
                branch = branch * scale[...].astype(branch.dtype)
            return drop_path(branch, drop_path_rate, keys[1])

        normed = self.attention_norm(tokens)
        branch = self.attention(normed, mask=mask, rotate=rotate, key=keys[0])
        tokens = tokens + regularize(branch, self.attention_scale, keys[1:3])
        if self.mlp_norm is not None:
            normed = self.mlp_norm(tokens)
        branch = self.mlp(normed, key=keys[3])
        return tokens + regularize(branch, self.mlp_scale, keys[4:6])


def patchify(
    images: Float[Array, "B H W C"], patch_size: tuple[int, int]
) -> Float[Array, "B N P"]:
    """Cuts images into flattened patches, row by row; a patch is ``(ph, pw, C)``."""
    batch, height, width, channels = images.shape
    ph, pw = patch_size
    patches = images.reshape(batch, height // ph, ph, width // pw, pw, channels)
    patches = patches.transpose(0, 1, 3, 2, 4, 5)  # [B, H/ph, W/pw, ph, pw, C]
    return patches.reshape(batch, -1, ph * pw * channels)


class PatchEmbedding(nnx.Module):
    """Linear projection of patches; the kernel is ``[ph, pw, C, D]`` as on disk."""

    def __init__(
        self,
        *,
        patch_size: tuple[int, int],
        channels: int,
        width: int,
        dtype: jnp.dtype,
        key: jax.Array,
        gradient_dtype: str = "compute",
    ):
        shape = (*patch_size, channels, width)
        kernel = nnx.initializers.lecun_normal(in_axis=(0, 1, 2))(key, shape)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros((width,)))
        self.patch_size = patch_size
        self.dtype = dtype
        self.dot_general = dense.options(gradient_dtype)["dot_general"]

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        patch_size: tuple[int, int] | None = None,
    ) -> Float[Array, "B N D"]:
        """Embeds patches of the kernel's size, or of another that it is resized to."""
        patch_size = patch_size or self.patch_size
        patches = patchify(images.astype(self.dtype), patch_size)
        kernel = pi_resize(self.kernel[...], patch_size)
        kernel = kernel.reshape(-1, kernel.shape[-1])
        tokens = self.dot_general(patches, kernel, (((2,), (0,)), ((), ())))
        return tokens + self.bias[...].astype(self.dtype)


class AttentionPool(nnx.Module):
    """MAP head: a learned probe attends to all tokens (arXiv 2106.04560)."""

    def __init__(
        self,
        *,
        width: int,
        mlp_dim: int,
        num_heads: int,
        dtype: jnp.dtype,
        key: jax.Array,
        activation: str = "gelu_tanh",
        norm: str = "layer",
        norm_epsilon: float = 1e-6,
    ):
        probe_key, key = jax.random.split(key)
        rngs = nnx.Rngs(key)
        self.probe = nnx.Param(
            nnx.initializers.xavier_uniform()(probe_key, (1, 1, width))
        )
        self.attention = Attention(
            width=width,
            num_heads=num_heads,
            dropout=0.0,
            implementation="xla",
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = build_norm(
            norm, width, epsilon=norm_epsilon, dtype=dtype, rngs=rngs
        )
        self.mlp = Mlp(
            width=width,
            mlp_dim=mlp_dim,
            dropout=0.0,
            dtype=dtype,
            rngs=rngs,
            activation=activation,
        )

    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        probe = self.probe[...].astype(tokens.dtype)
        probe = jnp.broadcast_to(probe, (tokens.shape[0], *probe.shape[1:]))
        pooled = self.attention(probe, tokens)
        pooled = pooled + self.mlp(self.norm(pooled))
        return pooled[:, 0]
