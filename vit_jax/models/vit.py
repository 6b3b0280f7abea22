"""The Vision Transformer (arXiv 2010.11929) and what its users vary.

``embed``, ``encode``, ``pool`` and ``classify`` are separate so that an objective can
drop, mask or reorder tokens between them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from vit_jax.models import parts
from vit_jax.models.layers import dropout, split_key
from vit_jax.models.layout import constrain
from vit_jax.models.position import FIXED
from vit_jax.models.resample import resize_positions
from vit_jax.models.rope import apply_rope, rope_table
from vit_jax.models.settings import Settings, check_vit
from vit_jax.models.stack import apply_blocks
from vit_jax.models.tokens import draw_kept, join, take
from vit_jax.models.variants import resolve

# Keys of options are folded in under numbers that the splits beside them do not reach:
# an option leaves every other draw as it is.
STEM, REGISTERS, DISTILLATION = 6, 7, 8
PATCH_DROPOUT, PATCH_SIZE = 2, 3


class ViT(nnx.Module):
    """Vision Transformer encoder with its head.

    Args:
      key: initialises the parameters.
      settings: the fields of `Settings`, which describes them.

    Raises:
      ValueError: sizes do not divide, a name is unknown, or options exclude each other.
    """

    def __init__(
        self,
        *,
        key: Key[Array, ""],
        **settings: Any,
    ):
        self.settings = chosen = Settings(**settings)
        if problems := check_vit(chosen):
            raise ValueError("; ".join(problems))
        self.image_size, self.patch_size = chosen.image_size, chosen.patch_size
        self.channels, self.grid = chosen.channels, chosen.grid
        self.width, self.depth = chosen.width, chosen.depth
        self.mlp_dim, self.num_heads = chosen.mlp_dim, chosen.num_heads
        self.num_classes, self.num_prefix = chosen.num_classes, chosen.num_prefix

        keys = iter(jax.random.split(key, 6))
        extra = functools.partial(jax.random.fold_in, key)
        self.stem = parts.build_stem(chosen, extra(STEM))
        self.embedding = parts.build_embedding(chosen, next(keys))
        self.position_embedding = parts.build_positions(chosen, next(keys))
        self.cls = (
            nnx.Param(jnp.zeros((1, 1, self.width))) if chosen.cls_token else None
        )
        # Not zeros: without positions it would start as a second CLS.
        self.distillation = parts.build_rows(
            chosen, int(chosen.distillation != "none"), 0.02, extra(DISTILLATION)
        )
        self.registers = parts.build_rows(
            chosen, chosen.registers, 0.02, extra(REGISTERS)
        )
        self.blocks = parts.build_stack(chosen, next(keys))
        self.norm, self.head_norm = parts.build_final_norms(chosen)
        self.pooling = parts.build_pooling(chosen, next(keys))
        self.pre_logits = parts.build_pre_logits(chosen, next(keys))
        self.head, self.head_distillation = parts.build_heads(chosen)

    def grid_of(
        self,
        images: Float[Array, "B H W C"],
        *,
        patch_size: tuple[int, int] | None = None,
    ) -> tuple[int, int]:
        """Patches high and wide that `embed` cuts images into.

        Raises:
          ValueError: the model does not take images of this size.
        """
        size = images.shape[1:3]
        fits = self.settings.dynamic_size or size == self.image_size
        if not fits or images.shape[3] != self.channels:
            raise ValueError(
                f"images are {images.shape[1:]}, the model was built for "
                f"{(*self.image_size, self.channels)} (height, width, channels)"
            )
        patch = patch_size or self.patch_size
        if patch != self.patch_size and self.stem is not None:
            raise ValueError(
                f"patch size {patch} is not available: a model with a stem has only "
                f"its own, {self.patch_size}"
            )
        if size[0] % patch[0] or size[1] % patch[1]:
            raise ValueError(
                f"patch size {patch} does not divide image size {size} (height, width)"
            )
        return size[0] // patch[0], size[1] // patch[1]

    def embed(
        self,
        images: Float[Array, "B H W C"],
        *,
        patch_size: tuple[int, int] | None = None,
    ) -> Float[Array, "B N D"]:
        """Normalised images to tokens with positions, the prefix in front.

        With ``patch_size`` the patches' kernel is resized to it (arXiv 2212.08013).

        Raises:
          ValueError: the model does not take images of this size.
        """
        grid = self.grid_of(images, patch_size=patch_size)
        return self.place(self.embed_patches(images, patch_size=patch_size), grid=grid)

    def embed_patches(
        self,
        images: Float[Array, "B H W C"],
        *,
        patch_size: tuple[int, int] | None = None,
    ) -> Float[Array, "B N D"]:
        """The first half of `embed`: a token for each patch, without its position."""
        self.grid_of(images, patch_size=patch_size)  # raises
        images = constrain(images, "images")
        if self.stem is not None:
            images, patch_size = self.stem(images), None
        return self.embedding(images, patch_size)

    def place(
        self, patches: Float[Array, "B N D"], *, grid: tuple[int, int] | None = None
    ) -> Float[Array, "B T D"]:
        """The second half of `embed`: adds positions, and the prefix in front."""
        prefix = [
            jnp.asarray(token[...])
            for token in (self.cls, self.distillation, self.registers)
            if token is not None
        ]
        return join(prefix, patches, self._positions(grid or self.grid))

    def _positions(self, grid: tuple[int, int]) -> Float[Array, "1 R D"] | None:
        kind = self.settings.position
        if kind in FIXED:
            return FIXED[kind](*grid, self.width)[None]
        if self.position_embedding is None:
            return None
        table = jnp.asarray(self.position_embedding[...])
        return table if grid == self.grid else resize_positions(table, self.grid, grid)

    def encode(
        self,
        tokens: Float[Array, "B N D"],
        *,
        mask: Bool[Array, "#B #H #N N"] | None = None,
        key: Key[Array, ""] | None = None,
        intermediates: bool = False,
        grid: tuple[int, int] | None = None,
        indices: Int[Array, "B M"] | None = None,
    ) -> Any:
        """Tokens through dropout, the blocks and the final norm, ``[B, N, D]``.

        Args:
          tokens: as of `embed`; an objective may have dropped or changed some.
          mask: True where a token may attend.
          key: None means deterministic. With ``patch_dropout`` and a key, fewer tokens
            come out than go in.
          intermediates: the result is ``(tokens, outputs)``; outputs are each block's,
            before the final norm, ``[depth, B, N, D]``.
          grid: patches high and wide of the images, None for the model's own. It and
            ``indices`` matter to rotary embeddings only.
          indices: which patches of the grid follow the prefix, None for all in order.

        Raises:
          ValueError: a rotary embedding does not know where the patches are, or a mask
            meets patch dropout.
        """
        chosen = self.settings
        dropout_key, blocks_key = split_key(key, 2)
        if chosen.patch_dropout and key is not None:
            if mask is not None:
                raise ValueError("a mask and model.patch_dropout exclude each other")
            kept = draw_kept(
                jax.random.fold_in(key, PATCH_DROPOUT),
                (len(tokens), tokens.shape[1] - self.num_prefix),
                chosen.patch_dropout,
            )
            tokens = take(tokens, kept, self.num_prefix)
            indices = (
                kept if indices is None else jnp.take_along_axis(indices, kept, axis=1)
            )
        rotate = self._rotation(tokens.shape[1] - self.num_prefix, grid, indices)
        tokens = dropout(tokens, chosen.dropout, dropout_key)
        tokens, outputs = apply_blocks(
            self.blocks,
            tokens,
            depth=self.depth,
            remat=chosen.remat,
            unroll=chosen.unroll,
            drop_path=chosen.drop_path,
            mask=mask,
            key=blocks_key,
            intermediates=intermediates,
            rotate=rotate,
        )
        tokens = constrain(tokens, "tokens")
        if self.norm is not None:
            tokens = self.norm(tokens)
        return (tokens, outputs) if intermediates else tokens

    def _rotation(
        self,
        patches: int,
        grid: tuple[int, int] | None,
        indices: Int[Array, "B M"] | None,
    ) -> Callable[[jax.Array], jax.Array] | None:
        """What the rotary embedding does to queries and keys of every block."""
        kind = self.settings.rope
        if kind == "none":
            return None
        grid = grid or self.grid
        rows = math.prod(grid) if indices is None else indices.shape[1]
        if rows != patches:
            raise ValueError(
                f"model.rope {kind!r}: {patches} patch tokens, but {rows} places on a "
                f"grid of {grid}; tell encode the images' grid and the tokens' indices"
            )
        head_dim = self.width // self.num_heads
        sin, cos = rope_table(kind, grid, head_dim, self.settings.rope_base)
        if indices is not None:
            sin, cos = sin[indices], cos[indices]  # [B, M, Dh]
        return functools.partial(apply_rope, sin=sin, cos=cos, kind=kind)

    def pool(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B F"]:
        """Encoded tokens to one feature vector an image, through its norm if any."""
        patches = tokens[:, self.num_prefix :]
        if self.pooling is not None:
            features = self.pooling(tokens)
        elif self.settings.pool == "cls":
            features = tokens[:, 0]
        elif self.settings.pool == "gap":
            features = patches.mean(axis=1)
        else:
            features = jnp.concatenate([tokens[:, 0], patches.mean(axis=1)], axis=-1)
        features = constrain(features, "features")
        return features if self.head_norm is None else self.head_norm(features)

    def classify(self, features: Float[Array, "B F"]) -> Float[Array, "B K"]:
        """Features to logits in float32; without a head, what it would be given."""
        if self.pre_logits is not None:
            features = jnp.tanh(self.pre_logits(features))
        features = features.astype(jnp.float32)
        return features if self.head is None else self.head(features)

    def heads(self, tokens: Float[Array, "B N D"]) -> tuple[Float[Array, "B K"], ...]:
        """Encoded tokens to the logits of each head, the distillation token's last."""
        logits = self.classify(self.pool(tokens))
        if self.head_distillation is None:
            return (logits,)
        token = tokens[:, 1].astype(jnp.float32)  # behind CLS
        return logits, self.head_distillation(token)

    def average(self, heads: tuple[Float[Array, "B K"], ...]) -> Float[Array, "B K"]:
        """What the model answers: the mean of its heads' logits."""
        return heads[0] if len(heads) == 1 else (heads[0] + heads[1]) / 2.0

    def logits(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B K"]:
        """Encoded tokens to logits; the mean of both heads if there are two."""
        return self.average(self.heads(tokens))

    def tokens(
        self,
        images: Float[Array, "B H W C"],
        *,
        patch_size: tuple[int, int] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B N D"]:
        """Normalised images to encoded tokens: `embed`, then `encode`."""
        grid = self.grid_of(images, patch_size=patch_size)
        tokens = self.embed(images, patch_size=patch_size)
        return self.encode(tokens, key=key, grid=grid)

    def intermediates(
        self,
        images: Float[Array, "B H W C"],
        layers: Sequence[int],
        *,
        norm: bool = True,
    ) -> Float[Array, "L B N D"]:
        """Tokens after some of the blocks, numbered from 0, or from -1 backwards.

        With ``norm`` they go through the last norm of tokens, if the model has one.

        Raises:
          ValueError: there is no such block.
        """
        if unknown := [i for i in layers if not -self.depth <= i < self.depth]:
            raise ValueError(
                f"layers {unknown} do not exist; the model has 0 to {self.depth - 1}"
            )
        tokens = self.embed(images)
        _, outputs = self.encode(tokens, intermediates=True, grid=self.grid_of(images))
        outputs = outputs[np.asarray(layers)]
        return self.norm(outputs) if norm and self.norm is not None else outputs

    def __call__(
        self, images: Float[Array, "B H W C"], *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "B K"]:
        """Normalised NHWC images to logits; without a key, deterministic."""
        return self.apply(images, self.logits, key=key)

    def apply(
        self,
        images: Float[Array, "B H W C"],
        head: Callable[[jax.Array], Any],
        *,
        key: Key[Array, ""] | None = None,
    ) -> Any:
        """What ``head``, such as `logits`, makes of the encoded tokens of images.

        With ``patch_sizes`` and a key, a patch size is drawn for the whole batch.
        """
        sides = self.settings.patch_sizes
        if not sides or key is None:
            return head(self.tokens(images, key=key))

        def run(images: jax.Array, *, side: int) -> Any:
            return head(self.tokens(images, patch_size=(side, side), key=key))

        draw_key = jax.random.fold_in(key, PATCH_SIZE)
        drawn = jax.random.randint(draw_key, (), 0, len(sides))
        branches = [functools.partial(run, side=side) for side in sides]
        return jax.lax.switch(drawn, branches, images)


def build(*, key: Key[Array, ""], **settings: Any) -> ViT:
    """Builds the ViT of a config's ``model`` section (see `variants.resolve`)."""
    return ViT(**resolve(**settings), key=key)
