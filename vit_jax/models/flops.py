"""Floating-point operations of a ViT, counted from its sizes."""

import math

from vit_jax.models.vit import ViT


def forward_flops(model: ViT) -> int:
    """Multiply-adds times two of one image's forward pass, head included.

    Counts matrix products only, as the literature does: ``2 * N * D * M`` per
    projection and ``4 * N^2 * D`` per attention.
    """
    patches = math.prod(model.grid)
    tokens = patches + (model.cls is not None)
    patch_dim = math.prod(model.patch_size) * model.channels
    width, mlp_dim = model.width, model.mlp_dim
    block = tokens * (8 * width**2 + 4 * width * mlp_dim) + 4 * tokens**2 * width
    total = 2 * patches * patch_dim * width + model.depth * block
    if model.pooling is not None:
        total += tokens * 4 * width**2 + 4 * width**2 + 4 * tokens * width
        total += 4 * width * mlp_dim
    hidden = width
    if model.pre_logits is not None:
        hidden = model.pre_logits.out_features
        total += 2 * width * hidden
    return total + 2 * hidden * model.num_classes
