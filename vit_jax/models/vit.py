"""The Vision Transformer (arXiv 2010.11929) and what its users vary.

``embed``, ``encode``, ``pool`` and ``classify`` are separate so that an objective can
drop, mask or reorder tokens between them.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from vit_jax.models.attention import IMPLEMENTATIONS
from vit_jax.models.layers import (
    AttentionPool,
    Block,
    PatchEmbedding,
    dropout,
    layer_norm,
    split_key,
)
from vit_jax.models.position import sincos2d
from vit_jax.models.stack import REMAT, apply_blocks, build_blocks
from vit_jax.models.variants import resolve

POOLS = ("cls", "gap", "map")
POSITIONS = ("learned", "learned_cls", "sincos2d")
DTYPES = ("float32", "bfloat16")


class ViT(nnx.Module):
    """Vision Transformer encoder with its head.

    Args:
      image_size: height and width in pixels.
      patch_size: height and width of a patch; must divide ``image_size``.
      channels: image channels.
      width, depth, mlp_dim, num_heads: Transformer dimensions.
      num_classes: logits of the head.
      pool: ``"cls"``, ``"gap"`` (mean of the patch tokens) or ``"map"``.
      cls_token: whether a CLS token is prepended.
      position: ``"learned"`` (added to patches; CLS gets none; drawn from
        normal(1 / sqrt(width)), as big_vision), ``"learned_cls"`` (has a row for CLS;
        normal(0.02), as the paper's code) or ``"sincos2d"``.
      pre_logits: width of a tanh layer before the head, 0 for none.
      head_bias: initial bias of the head (e.g. -6.9 for a sigmoid loss over 1,000
        classes: log(1/1000)).
      dropout, attention_dropout, drop_path: rates, active when a key is given.
      dtype: computation type; parameters are float32 always, and so are logits.
      attention: kernel of models/attention.py.
      remat: what the backward pass recomputes, a name of models/stack.py.
      unroll: blocks written out per loop iteration; ``depth`` removes the loop.
      sharding: how activations are laid out over a mesh (batch axis first), or None.
      key: initialises the parameters.

    Raises:
      ValueError: sizes do not divide, or a name is unknown.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        patch_size: tuple[int, int],
        channels: int = 3,
        width: int,
        depth: int,
        mlp_dim: int,
        num_heads: int,
        num_classes: int,
        pool: str = "gap",
        cls_token: bool = False,
        position: str = "sincos2d",
        pre_logits: int = 0,
        head_bias: float = 0.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        dtype: str = "float32",
        attention: str = "xla",
        remat: str = "none",
        unroll: int = 1,
        sharding: jax.sharding.Sharding | None = None,
        key: Key[Array, ""],
    ):
        problems = check_vit(
            image_size=image_size,
            patch_size=patch_size,
            width=width,
            num_heads=num_heads,
            pool=pool,
            cls_token=cls_token,
            position=position,
            dtype=dtype,
            attention=attention,
            remat=remat,
        )
        if problems:
            raise ValueError("; ".join(problems))
        compute_dtype = jnp.dtype(dtype)
        keys = iter(jax.random.split(key, 6))
        self.grid = (image_size[0] // patch_size[0], image_size[1] // patch_size[1])
        self.image_size, self.patch_size, self.channels = (
            image_size,
            patch_size,
            channels,
        )
        self.width, self.depth, self.mlp_dim = width, depth, mlp_dim
        self.num_heads, self.num_classes = num_heads, num_classes
        self.pool_kind, self.position_kind = pool, position
        self.dropout, self.drop_path = dropout, drop_path
        self.remat, self.unroll, self.sharding = remat, unroll, sharding

        self.embedding = PatchEmbedding(
            patch_size=patch_size,
            channels=channels,
            width=width,
            dtype=compute_dtype,
            key=next(keys),
        )
        position_key = next(keys)
        if position != "sincos2d":
            rows = math.prod(self.grid) + (position == "learned_cls")
            # As the code each form comes from: the paper's, and big_vision's.
            stddev = 0.02 if position == "learned_cls" else 1.0 / math.sqrt(width)
            init = nnx.initializers.normal(stddev)
            self.position_embedding = nnx.Param(init(position_key, (1, rows, width)))
        self.cls = nnx.Param(jnp.zeros((1, 1, width))) if cls_token else None
        self.blocks = build_blocks(
            lambda rngs: Block(
                width=width,
                mlp_dim=mlp_dim,
                num_heads=num_heads,
                dropout=dropout,
                attention_dropout=attention_dropout,
                attention=attention,
                remat_attention=remat == "attention",
                dtype=compute_dtype,
                rngs=rngs,
            ),
            depth,
            next(keys),
        )
        self.norm = layer_norm(width, dtype=compute_dtype, rngs=nnx.Rngs(0))
        pool_key, pre_logits_key, _ = keys
        self.pooling = (
            AttentionPool(
                width=width,
                mlp_dim=mlp_dim,
                num_heads=num_heads,
                dtype=compute_dtype,
                key=pool_key,
            )
            if pool == "map"
            else None
        )
        self.pre_logits = (
            nnx.Linear(
                width, pre_logits, dtype=compute_dtype, rngs=nnx.Rngs(pre_logits_key)
            )
            if pre_logits
            else None
        )
        self.head = nnx.Linear(  # zeros and a constant: no randomness to key
            pre_logits or width,
            num_classes,
            kernel_init=nnx.initializers.zeros_init(),
            bias_init=nnx.initializers.constant(head_bias),
            rngs=nnx.Rngs(0),
        )

    def _constrain(self, array: jax.Array) -> jax.Array:
        """Keeps the batch axis where the mesh has it, through every layer."""
        if self.sharding is None:
            return array
        return jax.lax.with_sharding_constraint(array, self.sharding)

    def embed(self, images: Float[Array, "B H W C"]) -> Float[Array, "B N D"]:
        """Normalised images to tokens: patches, positions, CLS first if any."""
        if images.shape[1:] != (*self.image_size, self.channels):
            raise ValueError(
                f"images are {images.shape[1:]}, the model was built for "
                f"{(*self.image_size, self.channels)} (height, width, channels)"
            )
        tokens = self.embedding(self._constrain(images))  # [B, N, D]
        if self.position_kind == "sincos2d":
            position = sincos2d(*self.grid, self.width)[None]
        else:
            position = self.position_embedding[...]
        position = position.astype(tokens.dtype)
        if self.position_kind != "learned_cls":
            tokens = tokens + position
        if self.cls is not None:
            cls = self.cls[...].astype(tokens.dtype)
            cls = jnp.broadcast_to(cls, (tokens.shape[0], 1, self.width))
            tokens = jnp.concatenate([cls, tokens], axis=1)  # [B, 1+N, D]
        if self.position_kind == "learned_cls":
            tokens = tokens + position
        return tokens

    def encode(
        self,
        tokens: Float[Array, "B N D"],
        *,
        mask: Bool[Array, "#B #H #N N"] | None = None,
        key: Key[Array, ""] | None = None,
        intermediates: bool = False,
    ) -> Any:
        """Tokens through dropout, the blocks and the final norm, ``[B, N, D]``.

        ``mask`` is True where a token may attend. With ``intermediates`` the result
        is ``(tokens, outputs)``; outputs are each block's, before the final norm,
        ``[depth, B, N, D]``.
        """
        dropout_key, blocks_key = split_key(key, 2)
        tokens = dropout(tokens, self.dropout, dropout_key)
        tokens, outputs = apply_blocks(
            self.blocks,
            tokens,
            depth=self.depth,
            remat=self.remat,
            unroll=self.unroll,
            drop_path=self.drop_path,
            mask=mask,
            key=blocks_key,
            intermediates=intermediates,
            constrain=self._constrain,
        )
        tokens = self.norm(self._constrain(tokens))
        return (tokens, outputs) if intermediates else tokens

    def pool(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        """Encoded tokens to one feature vector an image."""
        if self.pooling is not None:
            return self.pooling(tokens)
        if self.pool_kind == "cls":
            return tokens[:, 0]
        first_patch = 0 if self.cls is None else 1
        return tokens[:, first_patch:].mean(axis=1)

    def classify(self, features: Float[Array, "B D"]) -> Float[Array, "B K"]:
        """Features to logits in float32."""
        if self.pre_logits is not None:
            features = jnp.tanh(self.pre_logits(features))
        return self.head(features.astype(jnp.float32))

    def __call__(
        self, images: Float[Array, "B H W C"], *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "B K"]:
        """Normalised NHWC images to logits; without a key, deterministic."""
        return self.classify(self.pool(self.encode(self.embed(images), key=key)))


def check_vit(
    *,
    image_size: tuple[int, int],
    patch_size: tuple[int, int],
    width: int,
    num_heads: int,
    pool: str,
    cls_token: bool,
    position: str,
    dtype: str,
    attention: str,
    remat: str,
) -> list[str]:
    """Everything wrong with a ViT's settings, a line each; empty when it is sound."""
    problems = []
    if image_size[0] % patch_size[0] or image_size[1] % patch_size[1]:
        problems.append(
            f"patch size {patch_size} does not divide image size {image_size} "
            "(height, width)"
        )
    if width % num_heads:
        problems.append(f"num_heads {num_heads} does not divide width {width}")
    if position == "sincos2d" and (width % 4 or width < 8):
        problems.append(
            f"position 'sincos2d' needs a width in fours, at least 8; got {width}"
        )
    for field, value, known in (
        ("pool", pool, POOLS),
        ("position", position, POSITIONS),
        ("dtype", dtype, DTYPES),
        ("attention", attention, IMPLEMENTATIONS),
        ("remat", remat, tuple(REMAT)),
    ):
        if value not in known:
            problems.append(
                f"model.{field} {value!r} is unknown; known: {', '.join(known)}"
            )
    if not cls_token and (pool == "cls" or position == "learned_cls"):
        problems.append("pool 'cls' and position 'learned_cls' need cls_token=True")
    return problems


def build(*, key: Key[Array, ""], sharding: Any = None, **settings: Any) -> ViT:
    """Builds the ViT of a config's ``model`` section (see `variants.resolve`)."""
    return ViT(**resolve(**settings), sharding=sharding, key=key)
