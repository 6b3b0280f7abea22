"""The decoder of masked autoencoders (arXiv 2111.06377): visible tokens to pixels."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from vit_jax.models.layers import Block
from vit_jax.models.norms import build_norm
from vit_jax.models.position import sincos2d_mae
from vit_jax.models.stack import apply_blocks, build_blocks

POSITIONS = ("sincos2d_mae", "learned")


class MaeDecoder(nnx.Module):
    """A small ViT over all patches, of which the encoder has seen some.

    Args:
      grid: patches high and wide.
      patch_size: height and width of a patch in pixels.
      channels: image channels.
      encoder_width: width of the tokens that come in.
      width, depth, mlp_dim, num_heads: Transformer dimensions.
      activation: of the MLPs, as models/layers.py.
      norm_epsilon: of every norm.
      prefix: tokens before the patches (CLS and its like); they are decoded too, but
        nothing is predicted from them.
      position: ``"sincos2d_mae"`` (fixed; zeros for the prefix) or ``"learned"`` (a row
        for every token).
      dtype: computation type; parameters are float32 always, and so are predictions.
      attention: kernel of models/attention.py.
      remat: what the backward pass recomputes, a name of models/stack.py.
      unroll: blocks written out per loop iteration.
      key: initialises the parameters.

    Raises:
      ValueError: ``position`` is unknown, or ``num_heads`` does not divide ``width``.
    """

    def __init__(
        self,
        *,
        grid: tuple[int, int],
        patch_size: tuple[int, int],
        channels: int = 3,
        encoder_width: int,
        width: int = 512,
        depth: int = 8,
        mlp_dim: int,
        num_heads: int = 16,
        activation: str = "gelu_tanh",
        norm_epsilon: float = 1e-6,
        prefix: int = 1,
        position: str = "sincos2d_mae",
        dtype: str = "float32",
        attention: str = "xla",
        remat: str = "elementwise",
        unroll: int = 1,
        key: Key[Array, ""],
    ):
        if position not in POSITIONS:
            raise ValueError(
                f"decoder position {position!r} is unknown; "
                f"known: {', '.join(POSITIONS)}"
            )
        if width % num_heads:
            raise ValueError(
                f"decoder num_heads {num_heads} does not divide its width {width}"
            )
        compute_dtype = jnp.dtype(dtype)
        keys = jax.random.split(key, 5)
        normal = nnx.initializers.normal(0.02)
        xavier = nnx.initializers.xavier_uniform()
        self.grid, self.width, self.depth, self.prefix = grid, width, depth, prefix
        self.mlp_dim = mlp_dim
        self.remat, self.unroll = remat, unroll

        self.embedding = nnx.Linear(
            encoder_width,
            width,
            kernel_init=xavier,
            dtype=compute_dtype,
            rngs=nnx.Rngs(keys[0]),
        )
        self.mask_token = nnx.Param(normal(keys[1], (1, 1, width)))
        self.position_kind = position
        if position == "learned":
            rows = prefix + math.prod(grid)
            self.position_embedding = nnx.Param(normal(keys[2], (1, rows, width)))
        self.blocks = build_blocks(
            lambda rngs: Block(
                width=width,
                mlp_dim=mlp_dim,
                num_heads=num_heads,
                dropout=0.0,
                attention_dropout=0.0,
                attention=attention,
                activation=activation,
                norm_epsilon=norm_epsilon,
                dtype=compute_dtype,
                rngs=rngs,
            ),
            depth,
            keys[3],
        )
        self.norm = build_norm(
            "layer", width, epsilon=norm_epsilon, dtype=compute_dtype, rngs=nnx.Rngs(0)
        )
        self.prediction = nnx.Linear(  # in float32: its input is, below
            width,
            math.prod(patch_size) * channels,
            kernel_init=xavier,
            rngs=nnx.Rngs(keys[4]),
        )

    def _positions(self) -> Float[Array, "1 T D"]:
        """A row for every token, prefix first."""
        if self.position_kind == "learned":
            return self.position_embedding[...]
        table = sincos2d_mae(*self.grid, self.width)
        return jnp.pad(table, ((self.prefix, 0), (0, 0)))[None]

    def __call__(
        self, visible: Float[Array, "B K Denc"], restore: Int[Array, "B N"]
    ) -> Float[Array, "B N P"]:
        """Predicts the pixels of every patch.

        Args:
          visible: the encoder's prefix tokens and those of the patches it was given.
          restore: for each patch of the grid its place among the visible patches
            followed by the missing ones.

        Returns:
          Patches row by row, in float32; a patch is ``(ph, pw, C)``.
        """
        tokens = self.embedding(visible)
        batch, missing = len(tokens), self.prefix + restore.shape[1] - tokens.shape[1]
        masks = self.mask_token[...].astype(tokens.dtype)
        masks = jnp.broadcast_to(masks, (batch, missing, self.width))
        patches = jnp.concatenate([tokens[:, self.prefix :], masks], axis=1)
        patches = jnp.take_along_axis(patches, restore[:, :, None], axis=1)
        tokens = jnp.concatenate([tokens[:, : self.prefix], patches], axis=1)
        tokens = tokens + self._positions().astype(tokens.dtype)
        tokens, _ = apply_blocks(
            self.blocks,
            tokens,
            depth=self.depth,
            remat=self.remat,
            unroll=self.unroll,
            drop_path=0.0,
        )
        patches = self.norm(tokens)[:, self.prefix :]
        return self.prediction(patches.astype(jnp.float32))
