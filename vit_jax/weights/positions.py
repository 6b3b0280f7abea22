"""Position embeddings in the form a format keeps them: one table, with prefix rows.

A format has a row per prefix token (CLS, distillation, registers), for some of them, or
for none. What it has no row for is added to the token itself, which is the same model.
"""

import collections
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vit_jax.models.position import FIXED
from vit_jax.models.settings import Settings
from vit_jax.weights.table import Leaf, whole

_TOKENS = ("cls", "distillation", "registers")  # in the order of the sequence


def position_table(
    settings: Mapping[str, Any], params: Mapping[str, Any], *, prefix_rows: int
) -> np.ndarray:
    """The table ``[1, prefix_rows + N, D]`` of a model with any ``position``.

    Fixed positions are computed and ``"none"`` is zeros. Prefix rows that the model
    does not have are zeros; those beyond ``prefix_rows`` are left out, and
    `prefix_tokens` has them.

    Args:
      settings: complete.
      params: path within the ViT -> array.
      prefix_rows: rows before the patches' that the format has.
    """
    patches = _patch_rows(settings, params)
    kept = _prefix_table(settings, params)[:prefix_rows]
    empty = np.zeros((prefix_rows - len(kept), settings["width"]), np.float32)
    return np.concatenate([kept, empty, patches])[None]


def prefix_tokens(
    settings: Mapping[str, Any], params: Mapping[str, Any], *, prefix_rows: int
) -> dict[str, np.ndarray]:
    """``cls``, ``distillation`` and ``registers``, those the model has, by path.

    Each is ``[1, number, D]`` and holds its rows of the model's table from
    ``prefix_rows`` on, added, because `position_table` leaves these out.
    """
    rows = _prefix_table(settings, params)
    tokens, first = {}, 0
    for name in _TOKENS:
        if name not in params:
            continue
        token = _array(params[name])
        for place in range(max(first, prefix_rows), first + token.shape[1]):
            if place < len(rows):
                token[0, place - first] += rows[place]
        tokens[name] = token
        first += token.shape[1]
    return tokens


def cls_token(
    settings: Mapping[str, Any], params: Mapping[str, Any], *, prefix_rows: int
) -> np.ndarray:
    """The CLS token ``[1, 1, D]``, with its position where the format has no row."""
    return prefix_tokens(settings, params, prefix_rows=prefix_rows)["cls"]


def laid_out(
    settings: Mapping[str, Any], params: Mapping[str, Any], *, prefix_rows: int
) -> Mapping[str, Any]:
    """``params`` with the table and the prefix tokens as a format keeps them.

    The others are still fetched one at a time.
    """
    table = position_table(settings, params, prefix_rows=prefix_rows)
    tokens = prefix_tokens(settings, params, prefix_rows=prefix_rows)
    changed = {"position_embedding": table, **tokens}
    return collections.ChainMap(changed, params)  # pyright: ignore[reportArgumentType]


def _array(value: Any) -> np.ndarray:
    """A parameter's numbers, wherever they are, in memory of its own."""
    return np.array(whole(value) if isinstance(value, Leaf) else value, np.float32)


def _prefix_rows(settings: Mapping[str, Any]) -> int:
    """Rows of the model's own table that belong to prefix tokens."""
    chosen = Settings(**settings)
    return max(0, chosen.position_rows - math.prod(chosen.grid))


def _prefix_table(settings: Mapping[str, Any], params: Mapping[str, Any]) -> np.ndarray:
    """The model's own rows for prefix tokens, ``[rows, D]``."""
    rows = _prefix_rows(settings)
    if not rows:
        return np.zeros((0, settings["width"]), np.float32)
    return _array(params["position_embedding"])[0, :rows]


def _patch_rows(settings: Mapping[str, Any], params: Mapping[str, Any]) -> np.ndarray:
    """Rows of the patches, ``[N, D]``."""
    kind, dim = settings["position"], settings["width"]
    grid = Settings(**settings).grid
    if kind == "none":
        return np.zeros((math.prod(grid), dim), np.float32)
    if kind in FIXED:
        # Compiled as within the model, so that the numbers are the same.
        return np.asarray(jax.jit(lambda: FIXED[kind](*grid, dim))(), np.float32)
    return _array(params["position_embedding"])[0, _prefix_rows(settings) :]
