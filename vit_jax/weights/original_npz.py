"""The npz files of google-research/vision_transformer: the paper's models and AugReg's.

Their names have changed over the years, the arrays have not: modules of a block are
numbered together or class by class, and a train state or the image tower of a model
with two may be around it. Positions have a row for CLS (arXiv 2010.11929, 2106.10270).
"""

import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vit_jax.models.stem import stem_stride
from vit_jax.weights import linen
from vit_jax.weights.arrays import Arrays
from vit_jax.weights.base import (
    Anything,
    Card,
    Inferred,
    Params,
    Preprocessing,
    refuse_what_does_not_fit,
)
from vit_jax.weights.files import WeightsError
from vit_jax.weights.grids import grid_of, square_grid
from vit_jax.weights.positions import laid_out
from vit_jax.weights.table import Codec, Row, encode

POSITION = "Transformer/posembed_input/pos_embedding"
# As the released files are, so that every reader of those reads ours.
WRITTEN = linen.Layout(tree="", numbers=linen.PRE_LINEN)

# GroupNorm's parameters were [1, 1, 1, C] in the Flax of the time and are [C] since.
group_norm_vector = Codec(lambda array: (_flat(array),), lambda array: array)


def _flat(array: np.ndarray) -> np.ndarray:
    if array.size != array.shape[-1]:
        raise ValueError(f"{array.shape} is not one vector")
    return array.reshape(-1)


def recognise(arrays: Arrays) -> bool:
    """Whether the encoder has positions where this codebase keeps them."""
    layout = linen.find_layout(arrays)
    return layout is not None and layout.tree + POSITION in arrays


def infer(
    arrays: Arrays,
    *,
    num_heads: int | None = None,
    image_size: tuple[int, int] | None = None,
) -> Inferred:
    """The model of a file; GELU is the tanh approximation, epsilons are 1e-6.

    Args:
      arrays: of the file.
      num_heads: must be the file's if given; it is in the shapes.
      image_size: it was trained at; needed where the patches were no square.

    Raises:
      WeightsError: shapes are not this codebase's, or the grid is not known.
    """
    layout = linen.find_layout(arrays)
    if layout is None:
        raise WeightsError(f"{arrays.name}: not a ViT of vision_transformer")
    settings = linen.sizes(arrays, layout, num_heads)
    if f"{layout.tree}conv_root/kernel" in arrays:
        settings |= _stem_settings(arrays, layout.tree, settings["patch_size"])
    patch_size = settings["patch_size"]
    cls = f"{layout.tree}cls" in arrays
    _, rows, _ = linen.shape(arrays, layout.tree + POSITION, "1, positions, features")
    grid = square_grid(arrays.name, rows - cls, grid_of(image_size, patch_size))
    size = (grid[0] * patch_size[0], grid[1] * patch_size[1])
    settings |= {
        "image_size": size,
        "cls_token": cls,
        "pool": "cls" if cls else "gap",
        "position": "learned_cls" if cls else "learned",
    }
    return Inferred(
        settings=settings,
        rows=_rows(layout, settings),
        preprocessing=Preprocessing(size),
    )


def write(
    path: pathlib.Path, settings: Mapping[str, Any], params: Params, card: Card
) -> None:
    """Writes an npz file with the names of the released ones; it has no ``card``.

    Raises:
      WeightsError: the codebase has no such model, or the path is taken.
    """
    cls = settings["cls_token"]
    refuse_what_does_not_fit(
        "npz",
        settings,
        {
            # A CLS token is what tells that it is pooled.
            "pool": ("cls",) if cls else ("gap",),
            "cls_token": Anything(),
            "position": ("learned", "learned_cls", "sincos2d", "sincos2d_mae"),
            "pre_logits": Anything(),
            "stem": Anything(),
        },
    )
    arrays = encode(
        laid_out(settings, params, prefix_rows=int(cls)), _rows(WRITTEN, settings)
    )
    linen.save_npz(path, arrays)


def _rows(layout: linen.Layout, settings: Mapping[str, Any]) -> list[Row]:
    names = {POSITION: "position_embedding"}
    if settings["cls_token"]:
        names["cls"] = "cls"
    rows = linen.rows(layout, names | linen.head_names(settings))
    if settings.get("stem") is not None:
        rows += _stem_rows(layout.tree, settings["stem"])
    return rows


def _stem_settings(
    arrays: Arrays, tree: str, kernel_size: tuple[int, int]
) -> dict[str, Any]:
    """The ResNet in front: its units, and sizes in pixels of the image."""
    *_, channels, width = linen.shape(
        arrays, f"{tree}conv_root/kernel", "height, width, channels, features"
    )
    if width != 64:
        raise WeightsError(
            f"{arrays.name}: the ResNet's root has {width} channels; 64 can be loaded"
        )
    stages = _count(arrays, f"{tree}block{{}}/unit1/conv1/kernel")
    stem = tuple(
        _count(arrays, f"{tree}block{stage}/unit{{}}/conv1/kernel")
        for stage in range(1, stages + 1)
    )
    stride = stem_stride(stem)
    patch_size = (kernel_size[0] * stride, kernel_size[1] * stride)
    return {"stem": stem, "patch_size": patch_size, "channels": channels}


def _count(arrays: Arrays, name: str) -> int:
    """How many arrays there are with ``{}`` in a name 1, 2 and so on."""
    return next(n for n in itertools.count() if name.format(n + 1) not in arrays)


def _stem_rows(tree: str, stem: tuple[int, ...]) -> Iterator[Row]:
    yield from _conv_rows(f"{tree}conv_root", f"{tree}gn_root", "stem/root")
    for stage, units in enumerate(stem, 1):
        for unit in range(1, units + 1):
            place = f"block{stage}/unit{unit}"
            theirs, ours = f"{tree}{place}", f"stem/{place}"
            for index in (1, 2, 3):
                yield from _conv_rows(
                    f"{theirs}/conv{index}",
                    f"{theirs}/gn{index}",
                    f"{ours}/conv{index}",
                )
            if unit == 1:  # the only one whose input and output differ in shape
                yield from _conv_rows(
                    f"{theirs}/conv_proj", f"{theirs}/gn_proj", f"{ours}/projection"
                )


def _conv_rows(conv: str, group_norm: str, ours: str) -> Iterator[Row]:
    """Rows of a convolution without a bias and of the GroupNorm after it."""
    yield Row(f"{conv}/kernel", (f"{ours}/kernel",), linen.same)
    for leaf in ("scale", "bias"):
        yield Row(f"{group_norm}/{leaf}", (f"{ours}_norm/{leaf}",), group_norm_vector)
