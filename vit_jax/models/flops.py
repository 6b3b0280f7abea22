"""Floating-point operations of a ViT, counted from its sizes."""

import math

from vit_jax.models.stem import stem_flops
from vit_jax.models.vit import ViT


def forward_flops(model: ViT) -> int:
    """Multiply-adds times two of one image's forward pass, heads included.

    Counts matrix products and convolutions only, as the literature does:
    ``2 * N * D * M`` per projection and ``4 * N^2 * D`` per attention. At the size the
    model was built for, without patch dropout.
    """
    chosen, width, mlp_dim = model.settings, model.width, model.mlp_dim
    patches = math.prod(model.grid)
    tokens = model.num_prefix + patches
    projections = 3 if chosen.mlp == "swiglu" else 2
    block = tokens * (8 * width**2 + 2 * projections * width * mlp_dim)
    block += 4 * tokens**2 * width
    total = 2 * patches * math.prod(model.embedding.kernel.shape)
    total += model.depth * block
    if chosen.stem is not None:
        total += stem_flops(chosen.stem, model.channels, model.image_size)
    if model.pooling is not None:
        total += tokens * 4 * width**2 + 4 * width**2 + 4 * tokens * width
        total += 4 * width * mlp_dim
    dense = (model.pre_logits, model.head, model.head_distillation)
    for layer in dense:
        if layer is not None:
            total += 2 * layer.in_features * layer.out_features
    return total
