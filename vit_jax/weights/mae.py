"""The files that MAE (arXiv 2111.06377) was released as, with their decoder.

The encoder's names are timm's, and a file that has the encoder alone is timm's format.
Neither numbers of heads nor epsilon are in the file: the published ones are known.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from vit_jax.weights import codecs
from vit_jax.weights.arrays import Arrays
from vit_jax.weights.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Card,
    Inferred,
    Params,
    Preprocessing,
)
from vit_jax.weights.files import WeightsError
from vit_jax.weights.grids import grid_of, square_grid
from vit_jax.weights.table import Row

# Heads of the published encoders by width and depth, and of their decoders by width.
HEADS = {(768, 12): 12, (1024, 24): 16, (1280, 32): 16}
DECODER_HEADS = {512: 16}
NORM_EPSILON = 1e-6
CROP = 224 / 256  # side of the evaluated crop, of the resized image's smaller side


def recognise(arrays: Arrays) -> bool:
    """Whether there is a decoder beside an encoder with timm's names."""
    return "patch_embed.proj.weight" in arrays and "decoder_embed.weight" in arrays


def infer(
    arrays: Arrays,
    *,
    num_heads: int | None = None,
    image_size: tuple[int, int] | None = None,
) -> Inferred:
    """The encoder, and the decoder if it is of the published width.

    The heads of another decoder are not known: it is left out, and its arrays are
    listed as unused.

    Args:
      arrays: of the file.
      num_heads: of the encoder, where it is not one of the published ones.
      image_size: it was trained at, where the patches were no square.

    Raises:
      WeightsError: the number of heads or the grid is not known, or shapes are not
        MAE's.
    """
    width, channels, *patch_size = _shape(arrays, "patch_embed.proj.weight", 4)
    patch = (patch_size[0], patch_size[1])
    positions = _shape(arrays, "pos_embed", 3)[1]
    grid = square_grid(arrays.name, positions - 1, grid_of(image_size, patch))
    settings = {
        "image_size": (grid[0] * patch[0], grid[1] * patch[1]),
        "patch_size": patch,
        "channels": channels,
        **_stack(arrays, "blocks."),
        "num_classes": 0,
        "pool": "cls",
        "cls_token": True,
        "position": "learned_cls",
        "activation": "gelu",
        "norm_epsilon": NORM_EPSILON,
    }
    published = HEADS.get((width, settings["depth"])) if _published(arrays) else None
    settings["num_heads"] = _num_heads(arrays, width, num_heads, published)
    decoder = _decoder(arrays, grid, patch, channels, width)
    size = settings["image_size"]
    return Inferred(
        settings=settings,
        rows=_rows(settings["num_heads"]),
        preprocessing=Preprocessing(
            size, IMAGENET_MEAN, IMAGENET_STD, round(min(size) / CROP), "bicubic"
        ),
        decoder=decoder,
        decoder_rows=_decoder_rows(decoder["num_heads"]) if decoder else (),
    )


def write(
    path: pathlib.Path, settings: Mapping[str, Any], params: Params, card: Card
) -> None:
    """Refuses: what makes a file MAE's is its decoder, which a ViT does not have.

    Raises:
      WeightsError: always.
    """
    raise WeightsError(
        f"{path}: 'mae' files are only read: a ViT has no decoder; choose --to timm, "
        "which keeps the encoder under the same names"
    )


def _shape(arrays: Arrays, name: str, rank: int) -> tuple[int, ...]:
    shape = arrays.shape(name)
    if len(shape) != rank or 0 in shape:
        raise WeightsError(f"{arrays.name}: {name} is {shape}, which is not MAE's")
    return shape


def _stack(arrays: Arrays, prefix: str) -> dict[str, int]:
    """Width, depth and MLP of a stack of blocks."""
    depth = arrays.count(prefix)
    mlp_dim, width = _shape(arrays, f"{prefix}0.mlp.fc1.weight", 2)
    return {"width": width, "depth": depth, "mlp_dim": mlp_dim}


def _published(arrays: Arrays) -> bool:
    return _shape(arrays, "decoder_embed.weight", 2)[0] in DECODER_HEADS


def _num_heads(
    arrays: Arrays, width: int, asked: int | None, published: int | None
) -> int:
    heads = asked or published
    if heads is None:
        raise WeightsError(
            f"{arrays.name}: the number of heads is not in the file, and the sizes are "
            "not published ones; give num_heads (--num_heads), for a width of "
            f"{width} often {max(1, width // 64)}"
        )
    if heads < 1 or width % heads:
        raise WeightsError(
            f"{arrays.name}: {heads} heads do not divide a width of {width}"
        )
    return heads


def _decoder(
    arrays: Arrays,
    grid: tuple[int, int],
    patch_size: tuple[int, int],
    channels: int,
    encoder_width: int,
) -> dict[str, Any] | None:
    """Keyword arguments of `MaeDecoder`, or None where its heads are not known."""
    if not _published(arrays):
        return None
    stack = _stack(arrays, "decoder_blocks.")
    if stack["width"] not in DECODER_HEADS:
        raise WeightsError(
            f"{arrays.name}: the decoder's embedding and its blocks differ in width"
        )
    return {
        "grid": grid,
        "patch_size": patch_size,
        "channels": channels,
        "encoder_width": encoder_width,
        **stack,
        "num_heads": DECODER_HEADS[stack["width"]],
        "activation": "gelu",
        "norm_epsilon": NORM_EPSILON,
        "prefix": 1,
        "position": "learned",
    }


def _rows(num_heads: int) -> list[Row]:
    return [
        Row("cls_token", ("cls",), codecs.same),
        Row("pos_embed", ("position_embedding",), codecs.same),
        Row("patch_embed.proj.weight", ("embedding/kernel",), codecs.convolution),
        Row("patch_embed.proj.bias", ("embedding/bias",), codecs.same),
        *_norm("norm", "norm"),
        *_block_rows("blocks.{i}.", num_heads),
    ]


def _decoder_rows(num_heads: int) -> list[Row]:
    return [
        Row("mask_token", ("mask_token",), codecs.same),
        Row("decoder_pos_embed", ("position_embedding",), codecs.same),
        *_dense("decoder_embed", "embedding"),
        *_norm("decoder_norm", "norm"),
        *_dense("decoder_pred", "prediction"),
        *_block_rows("decoder_blocks.{i}.", num_heads),
    ]


def _block_rows(prefix: str, num_heads: int) -> list[Row]:
    attention = "blocks/attention/"
    parts = [f"{attention}{part}" for part in ("query", "key", "value")]
    return [
        *_norm(f"{prefix}norm1", "blocks/attention_norm"),
        Row(
            f"{prefix}attn.qkv.weight",
            tuple(f"{part}/kernel" for part in parts),
            codecs.packed_heads_in(num_heads, 3),
        ),
        Row(
            f"{prefix}attn.qkv.bias",
            tuple(f"{part}/bias" for part in parts),
            codecs.packed_heads_bias(num_heads, 3),
        ),
        Row(
            f"{prefix}attn.proj.weight",
            (f"{attention}out/kernel",),
            codecs.heads_out(num_heads),
        ),
        Row(f"{prefix}attn.proj.bias", (f"{attention}out/bias",), codecs.same),
        *_norm(f"{prefix}norm2", "blocks/mlp_norm"),
        *_dense(f"{prefix}mlp.fc1", "blocks/mlp/hidden"),
        *_dense(f"{prefix}mlp.fc2", "blocks/mlp/out"),
    ]


def _norm(theirs: str, ours: str) -> list[Row]:
    return [
        Row(f"{theirs}.weight", (f"{ours}/scale",), codecs.same),
        Row(f"{theirs}.bias", (f"{ours}/bias",), codecs.same),
    ]


def _dense(theirs: str, ours: str) -> list[Row]:
    return [
        Row(f"{theirs}.weight", (f"{ours}/kernel",), codecs.transposed),
        Row(f"{theirs}.bias", (f"{ours}/bias",), codecs.same),
    ]
