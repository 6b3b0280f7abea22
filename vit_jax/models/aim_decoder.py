"""The head of autoregressive image models (arXiv 2401.08541): an MLP on each token."""

import functools
import math
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from vit_jax.models.layers import Mlp
from vit_jax.models.norms import build_norm
from vit_jax.models.position import FIXED, sincos2d_mae
from vit_jax.models.stack import apply_blocks, build_blocks

MLP_RATIO = 4  # of a block's hidden units to its width, as in the paper


class MlpBlock(nnx.Module):
    """``x + MLP(norm(x))``: a block without attention, each token alone."""

    def __init__(
        self,
        *,
        width: int,
        activation: str,
        norm_epsilon: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.norm = build_norm(
            "layer", width, epsilon=norm_epsilon, dtype=dtype, rngs=rngs
        )
        self.mlp = Mlp(
            width=width,
            mlp_dim=MLP_RATIO * width,
            dropout=0.0,
            dtype=dtype,
            rngs=rngs,
            activation=activation,
        )

    def __call__(
        self, tokens: Float[Array, "B N D"], **unused: Any
    ) -> Float[Array, "B N D"]:
        """``unused`` is what a block with attention takes besides."""
        return tokens + self.mlp(self.norm(tokens))


class AimDecoder(nnx.Module):
    """From a token to the pixels of the patch that follows it.

    Args:
      grid: patches high and wide.
      patch_size: height and width of a patch in pixels.
      channels: image channels.
      encoder_width: width of the tokens that come in.
      width, depth: of the residual MLP blocks, whose hidden layers are 4 times as wide;
        a depth of 0 leaves a norm between two linear layers.
      position: of the encoder; what is fixed is added to the tokens once more, as the
        paper does. In place of a learned one it is ``"sincos2d_mae"``.
      activation: of the MLPs, as models/layers.py.
      norm_epsilon: of every norm.
      dtype: computation type; parameters are float32 always, and so are predictions.
      remat: what the backward pass recomputes, a name of models/stack.py.
      unroll: blocks written out per loop iteration.
      key: initialises the parameters.

    Raises:
      ValueError: ``width`` is below 1, or ``depth`` below 0.
    """

    def __init__(
        self,
        *,
        grid: tuple[int, int],
        patch_size: tuple[int, int],
        channels: int = 3,
        encoder_width: int,
        width: int = 2048,
        depth: int = 12,
        position: str = "sincos2d_mae",
        activation: str = "gelu_tanh",
        norm_epsilon: float = 1e-6,
        dtype: str = "float32",
        remat: str = "none",
        unroll: int = 1,
        key: Key[Array, ""],
    ):
        if width < 1 or depth < 0:
            raise ValueError(
                "a decoder needs a width of at least 1 and a depth of at least 0, got "
                f"{width} and {depth}"
            )
        compute_dtype = jnp.dtype(dtype)
        keys = nnx.Rngs(key)
        linear = functools.partial(
            nnx.Linear, kernel_init=nnx.initializers.xavier_uniform(), rngs=keys
        )
        self.grid, self.encoder_width = grid, encoder_width
        self.width, self.depth, self.position = width, depth, position
        self.remat, self.unroll = remat, unroll
        self.embedding = linear(encoder_width, width, dtype=compute_dtype)
        block = functools.partial(
            MlpBlock,
            width=width,
            activation=activation,
            norm_epsilon=norm_epsilon,
            dtype=compute_dtype,
        )
        self.blocks = (
            build_blocks(lambda rngs: block(rngs=rngs), depth, keys.params())
            if depth
            else None
        )
        self.norm = build_norm(
            "layer", width, epsilon=norm_epsilon, dtype=compute_dtype, rngs=keys
        )
        # In float32: its input is, below.
        self.prediction = linear(width, math.prod(patch_size) * channels)

    def place(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """The tokens of all patches with their positions, for the call below."""
        fixed = FIXED.get(self.position, sincos2d_mae)
        return tokens + fixed(*self.grid, self.encoder_width).astype(tokens.dtype)

    def __call__(self, tokens: Float[Array, "B n D"]) -> Float[Array, "B n P"]:
        """Any placed tokens to pixels in float32; a patch is ``(ph, pw, C)``."""
        tokens = self.embedding(tokens)
        if self.blocks is not None:
            tokens, _ = apply_blocks(
                self.blocks,
                tokens,
                depth=self.depth,
                remat=self.remat,
                unroll=min(self.unroll, self.depth),
                drop_path=0.0,
            )
        return self.prediction(self.norm(tokens).astype(jnp.float32))

    def forward_flops(self, tokens: int) -> int:
        """Multiply-adds times two of so many tokens; matrix products only."""
        products = self.embedding.in_features * self.embedding.out_features
        products += self.depth * 2 * MLP_RATIO * self.width**2
        products += self.prediction.in_features * self.prediction.out_features
        return 2 * tokens * products
