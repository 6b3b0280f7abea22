"""Floating-point operations of a ViT and of a decoder, counted from their sizes.

Matrix products and convolutions only, a multiply-add counted as two, as the literature
does.
"""

import math

from vit_jax.models.mae_decoder import MaeDecoder
from vit_jax.models.stem import stem_flops
from vit_jax.models.vit import ViT


def forward_flops(model: ViT) -> int:
    """Operations of one image's forward pass, heads included.

    At the size the model was built for, without patch dropout.
    """
    width, mlp_dim = model.width, model.mlp_dim
    tokens = model.num_prefix + math.prod(model.grid)
    total = embedding_flops(model) + encoder_flops(model, tokens)
    if model.pooling is not None:
        total += tokens * 4 * width**2 + 4 * width**2 + 4 * tokens * width
        total += 4 * width * mlp_dim
    dense = (model.pre_logits, model.head, model.head_distillation)
    for layer in dense:
        if layer is not None:
            total += 2 * layer.in_features * layer.out_features
    return total


def embedding_flops(model: ViT) -> int:
    """Operations from an image to all of its patch tokens."""
    total = 2 * math.prod(model.grid) * math.prod(model.embedding.kernel.shape)
    if model.settings.stem is not None:
        total += stem_flops(model.settings.stem, model.channels, model.image_size)
    return total


def encoder_flops(model: ViT, tokens: int) -> int:
    """Operations of the blocks on so many tokens of an image."""
    return blocks_flops(
        tokens,
        width=model.width,
        depth=model.depth,
        mlp_dim=model.mlp_dim,
        products=3 if model.settings.mlp == "swiglu" else 2,
    )


def blocks_flops(
    tokens: int, *, width: int, depth: int, mlp_dim: int, products: int = 2
) -> int:
    """Operations of a stack: ``2 N D M`` a projection, ``4 N^2 D`` an attention.

    ``products`` are the matrix products of an MLP.
    """
    block = tokens * (8 * width**2 + 2 * products * width * mlp_dim)
    return depth * (block + 4 * tokens**2 * width)


def decoder_flops(decoder: MaeDecoder, visible: int) -> int:
    """Operations of a decoder that is given so many patches of an image."""
    width, patches = decoder.width, math.prod(decoder.grid)
    total = 2 * (decoder.prefix + visible) * decoder.embedding.in_features * width
    total += blocks_flops(
        decoder.prefix + patches,
        width=width,
        depth=decoder.depth,
        mlp_dim=decoder.mlp_dim,
    )
    return total + 2 * patches * width * decoder.prediction.out_features
