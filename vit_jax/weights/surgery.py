"""Weights to another image size, patch size, number of classes or prefix.

Works on leaves: only the position table and the patch kernel are computed, when their
shape changes; everything else stays unread.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.models import position
from vit_jax.models.resample import pi_resize, resize_grid
from vit_jax.weights.base import TRAINING_ONLY, complete
from vit_jax.weights.files import WeightsError
from vit_jax.weights.table import Leaf, constant, whole

LEARNED = ("learned", "learned_cls", "learned_prefix")
FIXED = {"sincos2d": position.sincos2d, "sincos2d_mae": position.sincos2d_mae}

# What may differ between a file and the model that is built from it.
CHANGEABLE = TRAINING_ONLY | {
    *("image_size", "patch_size", "num_classes", "pre_logits", "pool", "final_norm"),
    *("distillation", "cls_token", "position"),
}

Settings = Mapping[str, Any]
Leaves = dict[str, Leaf]


def fit(settings: Settings, leaves: Leaves, target: Settings) -> tuple[Leaves, dict]:
    """Leaves for a model with ``target`` settings from those of ``settings``.

    A table of positions is resampled to the new grid (bicubic, antialiased), a patch
    kernel to the new patch size (PI-resize, arXiv 2212.08013), a head with another
    number of classes is left out, and so are parameters the target has no place for.
    What is left out is for the caller to initialise or to report.

    Args:
      settings: of the weights, complete.
      leaves: of the weights.
      target: of the model, complete.

    Returns:
      The leaves, and what was changed: path to a few words.

    Raises:
      WeightsError: the two differ in what no surgery changes; all of it is named.
    """
    settings, target = complete(settings), complete(target)
    free = CHANGEABLE | ({"rope_base"} if target["rope"] == "none" else set())
    different = [
        f"{name} is {settings[name]!r} in the weights, {target[name]!r} in the model"
        for name in settings
        if name not in free and not _agree(name, settings[name], target[name])
    ]
    if different:
        raise WeightsError("the weights do not fit the model: " + "; ".join(different))
    leaves = dict(leaves)
    changes: dict[str, str] = {}
    _fit_patches(settings, leaves, target, changes)
    _fit_positions(settings, leaves, target, changes)
    if settings["num_classes"] != target["num_classes"] or (
        _head_width(settings) != _head_width(target)
    ):
        for path in [path for path in leaves if path.startswith("head")]:
            if not path.startswith("head_norm/"):
                del leaves[path]
    return leaves, changes


def _agree(name: str, old: Any, new: Any) -> bool:
    """Whether a setting lets the weights keep their meaning."""
    if name == "layer_scale":  # its first value is of no more interest
        return (old > 0) == (new > 0)
    if name == "registers":  # they may be added
        return old in (0, new)
    return old == new


def _head_width(settings: Settings) -> int:
    width = settings["width"] * (2 if settings["pool"] == "cls_gap" else 1)
    return settings["pre_logits"] or width


def grid_of(settings: Settings) -> tuple[int, int]:
    """Patches high and wide."""
    (height, width), (ph, pw) = settings["image_size"], settings["patch_size"]
    if height % ph or width % pw:
        raise WeightsError(
            f"image size {(height, width)} is not divisible by the patch size "
            f"{(ph, pw)}"
        )
    return height // ph, width // pw


def _fit_patches(
    settings: Settings, leaves: Leaves, target: Settings, changes: dict[str, str]
) -> None:
    old, new = settings["patch_size"], target["patch_size"]
    if old == new:
        return
    if settings["stem"] is not None:
        raise WeightsError(
            f"patch size {old} cannot become {new}: the model has a convolutional stem"
        )
    kernel = pi_resize(whole(leaves["embedding/kernel"]), new)
    leaves["embedding/kernel"] = constant(np.asarray(kernel))
    changes["embedding/kernel"] = f"patches of {old} resized to {new}"


def prefix_tokens(settings: Settings) -> list[str]:
    """The prefix's tokens in order: parameter names, registers once each."""
    tokens = ["cls"] if settings["cls_token"] else []
    if settings["distillation"] != "none":
        tokens.append("distillation")
    return tokens + ["registers"] * settings["registers"]


def prefix_rows(settings: Settings) -> list[str]:
    """The tokens of the prefix that have a row in the position table."""
    kind = settings["position"]
    if kind not in ("learned_cls", "learned_prefix"):
        return []
    tokens = prefix_tokens(settings)
    if kind == "learned_cls":
        tokens = [token for token in tokens if token != "registers"]
    return tokens


def _fit_positions(
    settings: Settings, leaves: Leaves, target: Settings, changes: dict[str, str]
) -> None:
    old_kind, new_kind = settings["position"], target["position"]
    old_grid, new_grid = grid_of(settings), grid_of(target)
    old_rows, new_rows = prefix_rows(settings), prefix_rows(target)
    if old_kind == new_kind and old_grid == new_grid and old_rows == new_rows:
        return
    if new_kind not in LEARNED:
        if old_kind != new_kind:
            raise WeightsError(
                f"position is {old_kind!r} in the weights, {new_kind!r} in the model"
            )
        return  # computed, on any grid
    if old_kind == "none":
        raise WeightsError(
            f"position is 'none' in the weights, {new_kind!r} in the model"
        )
    if old_kind in FIXED:
        rows = np.zeros((1, 0, settings["width"]), np.float32)
        patches = np.asarray(FIXED[old_kind](*new_grid, settings["width"]))[None]
    else:
        table = whole(leaves.pop("position_embedding"))
        rows, patches = np.split(table, [len(old_rows)], axis=1)
        patches = np.asarray(resize_grid(patches, old_grid, new_grid))
    prefix = _fit_rows(rows, old_rows, new_rows, leaves)
    leaves["position_embedding"] = constant(np.concatenate([prefix, patches], axis=1))
    changes["position_embedding"] = (
        f"{old_kind} on {old_grid[0]}x{old_grid[1]} patches to "
        f"{new_kind} on {new_grid[0]}x{new_grid[1]}"
    )


def _fit_rows(
    rows: np.ndarray, old: list[str], new: list[str], leaves: Leaves
) -> np.ndarray:
    """Rows of the prefix's tokens: kept, zero where new, folded into their token."""
    kept = np.zeros((1, len(new), rows.shape[-1]), np.float32)
    for token in dict.fromkeys(old):
        places = [place for place, name in enumerate(old) if name == token]
        wanted = [place for place, name in enumerate(new) if name == token]
        if wanted:
            count = min(len(places), len(wanted))
            kept[:, wanted[:count]] = rows[:, places[:count]]
        elif token in leaves:
            leaves[token] = constant(whole(leaves[token]) + rows[:, places])
    return kept


def num_patches(settings: Settings) -> int:
    """Patch tokens of an image."""
    return math.prod(grid_of(settings))
