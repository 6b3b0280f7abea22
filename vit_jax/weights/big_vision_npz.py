"""The npz files of google-research/big_vision: its ViTs and SigLIP's image towers.

Positions are added before CLS joins, or computed and not in the file; blocks are one by
one or stacked by a scan; MAP heads (arXiv 2106.04560) have names of their own. Files
from before 2022 kept the positions elsewhere and gave CLS a row, and are read too.
"""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

from vit_jax.weights import linen, original_npz
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
from vit_jax.weights.table import Row, encode

POSITION, OLD_POSITION = "pos_embedding", "Transformer/pos_embedding"
MAP_HEAD, OLD_MAP_HEAD = "MAPHead_0/", ""
# Computed positions leave the size open; the codebase's recipes train at this one.
PIXELS = 224


def recognise(arrays: Arrays) -> bool:
    """Whether there is an encoder with these names, and not of the original code.

    Without positions they are computed, which is newer than the old numbers of a
    block's modules: with those, no positions are another codebase's.
    """
    layout = linen.find_layout(arrays)
    if layout is None or original_npz.recognise(arrays):
        return False
    return layout.numbers == linen.LINEN or _position_name(arrays, layout) is not None


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
      image_size: it was trained at; needed where the patches were no square. Computed
        positions fit any, and are for about 224 pixels without it.

    Raises:
      WeightsError: shapes are not this codebase's, or the grid is not known.
    """
    layout = linen.find_layout(arrays)
    if layout is None:
        raise WeightsError(f"{arrays.name}: not a ViT of big_vision")
    settings = linen.sizes(arrays, layout, num_heads)
    map_head = next(
        (
            head
            for head in (MAP_HEAD, OLD_MAP_HEAD)
            if f"{layout.tree}{head}probe" in arrays
        ),
        None,
    )
    settings["cls_token"] = f"{layout.tree}cls" in arrays
    if map_head is not None:
        settings["pool"] = "map"
    else:
        settings["pool"] = "cls" if settings["cls_token"] else "gap"
    settings |= _position_settings(arrays, layout, settings, image_size)
    return Inferred(
        settings=settings,
        rows=_rows(
            layout,
            settings,
            position=_position_name(arrays, layout) or POSITION,
            map_head=map_head or OLD_MAP_HEAD,
        ),
        preprocessing=_preprocessing(settings),
    )


def write(
    path: pathlib.Path,
    settings: Mapping[str, Any],
    params: Params,
    card: Card,
    *,
    scan: bool = False,
) -> None:
    """Writes an npz file with the names of today's codebase; it has no ``card``.

    CLS gets its own position added, because the codebase has no row for it.

    Args:
      path: of the file.
      settings: complete.
      params: path within the ViT -> array.
      card: not used.
      scan: whether the blocks are stacked, as models with ``scan=True`` want them.

    Raises:
      WeightsError: the codebase has no such model, or the path is taken.
    """
    cls = settings["cls_token"]
    refuse_what_does_not_fit(
        "big_vision",
        settings,
        {
            # A CLS token is what tells that it is pooled.
            "pool": ("cls",) if cls else ("gap", "map"),
            "cls_token": Anything(),
            "position": ("learned", "learned_cls", "sincos2d", "sincos2d_mae"),
            "pre_logits": Anything(),
        },
    )
    layout = linen.Layout(tree="params/", numbers=linen.LINEN, scan=scan)
    if settings["position"] != "sincos2d":
        params = laid_out(settings, params, prefix_rows=0)
    linen.save_npz(path, encode(params, _rows(layout, settings)))


def _rows(
    layout: linen.Layout,
    settings: Mapping[str, Any],
    *,
    position: str = POSITION,
    map_head: str = MAP_HEAD,
) -> list[Row]:
    names = linen.head_names(settings)
    if settings["position"] != "sincos2d":
        names[position] = "position_embedding"
    if settings["cls_token"]:
        names["cls"] = "cls"
    if settings["pool"] == "map":
        names |= {
            f"{map_head}probe": "pooling/probe",
            **linen.attention(
                f"{map_head}MultiHeadDotProductAttention_0", "pooling/attention"
            ),
            **linen.norm(f"{map_head}LayerNorm_0", "pooling/norm"),
            **linen.mlp(f"{map_head}MlpBlock_0", "pooling/mlp"),
        }
    return linen.rows(layout, names)


def _position_name(arrays: Arrays, layout: linen.Layout) -> str | None:
    """Where in the tree the positions are; None where they are computed."""
    for name in (POSITION, OLD_POSITION):
        if layout.tree + name in arrays:
            return name
    return None


def _position_settings(
    arrays: Arrays,
    layout: linen.Layout,
    settings: Mapping[str, Any],
    image_size: tuple[int, int] | None,
) -> dict[str, Any]:
    """``position`` and ``image_size``."""
    patch_size = settings["patch_size"]
    grid = grid_of(image_size, patch_size)
    name = _position_name(arrays, layout)
    if name is None:
        position = "sincos2d"
        grid = grid or (
            max(PIXELS // patch_size[0], 1),
            max(PIXELS // patch_size[1], 1),
        )
    else:
        _, rows, _ = linen.shape(arrays, layout.tree + name, "1, positions, features")
        own_row = settings["cls_token"] and _has_cls_row(rows, grid)
        position = "learned_cls" if own_row else "learned"
        grid = square_grid(arrays.name, rows - own_row, grid)
    size = (grid[0] * patch_size[0], grid[1] * patch_size[1])
    return {"position": position, "image_size": size}


def _has_cls_row(rows: int, grid: tuple[int, int] | None) -> bool:
    """Whether one of so many positions is for CLS: they are a grid without it."""
    if grid is not None and math.prod(grid) in (rows - 1, rows):
        return math.prod(grid) == rows - 1
    return math.isqrt(rows) ** 2 != rows and math.isqrt(rows - 1) ** 2 == rows - 1


def _preprocessing(settings: Mapping[str, Any]) -> Preprocessing:
    """Classifiers crop 7/8 of the image; towers of two and MAP heads take all of it."""
    size = settings["image_size"]
    if settings["pool"] == "map" or not settings["num_classes"]:
        return Preprocessing(size)
    return Preprocessing(size, resize=round(min(size) * 8 / 7), interpolation="area")
