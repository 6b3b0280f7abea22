"""The parts of a ViT from its settings and a key; None where it has no such part."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.models.layers import AttentionPool, Block, PatchEmbedding
from vit_jax.models.norms import build_norm
from vit_jax.models.settings import Settings
from vit_jax.models.stack import build_blocks
from vit_jax.models.stem import ResNetStem, stem_features, stem_stride


def build_stem(settings: Settings, key: jax.Array) -> ResNetStem | None:
    """The ResNet of a hybrid."""
    if settings.stem is None:
        return None
    return ResNetStem(
        units=settings.stem,
        channels=settings.channels,
        dtype=jnp.dtype(settings.dtype),
        key=key,
    )


def build_embedding(settings: Settings, key: jax.Array) -> PatchEmbedding:
    """The projection of patches, of images or of the stem's output."""
    (height, width), channels = settings.patch_size, settings.channels
    if settings.stem is not None:
        stride, channels = stem_stride(settings.stem), stem_features(settings.stem)
        height, width = height // stride, width // stride
    return PatchEmbedding(
        patch_size=(height, width),
        channels=channels,
        width=settings.width,
        dtype=jnp.dtype(settings.dtype),
        key=key,
        gradient_dtype=settings.gradient_dtype,
    )


def build_positions(settings: Settings, key: jax.Array) -> nnx.Param | None:
    """The table of learned positions."""
    # As the code each form comes from: big_vision's, and the paper's.
    learned = settings.position == "learned"
    stddev = 1.0 / math.sqrt(settings.width) if learned else 0.02
    return build_rows(settings, settings.position_rows, stddev, key)


def build_rows(
    settings: Settings, rows: int, stddev: float, key: jax.Array
) -> nnx.Param | None:
    """A parameter ``[1, rows, width]`` from a normal distribution."""
    if not rows:
        return None
    init = nnx.initializers.normal(stddev)
    return nnx.Param(init(key, (1, rows, settings.width)))


def build_stack(settings: Settings, key: jax.Array) -> nnx.Module:
    """The blocks, with a layer axis in front of every parameter."""

    def make_block(rngs: nnx.Rngs) -> Block:
        return Block(
            width=settings.width,
            mlp_dim=settings.mlp_dim,
            num_heads=settings.num_heads,
            dropout=settings.dropout,
            attention_dropout=settings.attention_dropout,
            attention=settings.attention,
            dtype=jnp.dtype(settings.dtype),
            rngs=rngs,
            activation=settings.activation,
            norm=settings.norm,
            norm_epsilon=settings.norm_epsilon,
            qk_norm=settings.qk_norm,
            mlp=settings.mlp,
            layer_scale=settings.layer_scale,
            parallel=settings.parallel_blocks,
            gradient_dtype=settings.gradient_dtype,
        )

    return build_blocks(make_block, settings.depth, key)


def build_final_norms(
    settings: Settings,
) -> tuple[nnx.Module | None, nnx.Module | None]:
    """The norms of the tokens and of the pooled features."""
    make = functools.partial(
        build_norm,
        settings.norm,
        epsilon=settings.norm_epsilon,
        dtype=jnp.dtype(settings.dtype),
        rngs=nnx.Rngs(0),
    )
    return (
        None if settings.final_norm == "features" else make(settings.width),
        None if settings.final_norm == "tokens" else make(settings.num_features),
    )


def build_pooling(settings: Settings, key: jax.Array) -> AttentionPool | None:
    """The MAP head."""
    if settings.pool != "map":
        return None
    return AttentionPool(
        width=settings.width,
        mlp_dim=settings.mlp_dim,
        num_heads=settings.num_heads,
        dtype=jnp.dtype(settings.dtype),
        key=key,
        activation=settings.activation,
        norm=settings.norm,
        norm_epsilon=settings.norm_epsilon,
    )


def build_pre_logits(settings: Settings, key: jax.Array) -> nnx.Linear | None:
    """The tanh layer before the head."""
    if not settings.pre_logits:
        return None
    return nnx.Linear(
        settings.num_features,
        settings.pre_logits,
        dtype=jnp.dtype(settings.dtype),
        rngs=nnx.Rngs(key),
    )


def build_heads(settings: Settings) -> tuple[nnx.Linear | None, nnx.Linear | None]:
    """The head and the distillation token's head, in float32."""
    if not settings.num_classes:
        return None, None
    make = functools.partial(
        nnx.Linear,  # zeros and a constant: no randomness to key
        out_features=settings.num_classes,
        kernel_init=nnx.initializers.zeros_init(),
        bias_init=nnx.initializers.constant(settings.head_bias),
        rngs=nnx.Rngs(0),
    )
    with_second = settings.distillation == "head"
    return (
        make(settings.pre_logits or settings.num_features),
        make(settings.width) if with_second else None,
    )
