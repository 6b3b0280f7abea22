"""Everything wrong with a config's `model` section."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

from ml_collections import ConfigDict

from vit_jax.config_file import nearest
from vit_jax.models import attention_choice, variants
from vit_jax.models.settings import DTYPES, Settings, check_vit

_SETTINGS = [field.name for field in dataclasses.fields(Settings)]


def check_model(model: ConfigDict) -> list[str]:
    """Ranges of its fields, the variant, and what the model itself refuses."""
    problems = [
        *outside(
            lambda value: value >= 1,
            "at least 1",
            **{
                f"model__{name}": model[name]
                for name in ("width", "depth", "mlp_dim", "num_heads", "unroll")
            },
        ),
        *outside(
            lambda value: value >= -1, "-1 or more", model__pre_logits=model.pre_logits
        ),
        *outside(
            lambda value: value in (1, 3), "1 or 3", model__channels=model.channels
        ),
    ]
    shapes = _shapes(model)
    if shapes:  # the rest counts with them
        return problems + shapes
    try:
        variants.resolve(**model.to_dict())
    except ValueError as error:
        near = nearest(model.variant.partition("/")[0], variants.VARIANTS)
        return [*problems, f"model.variant: {error}{near}"]
    settings = settings_of(model)
    if settings is None:
        return problems  # said already
    return problems + [
        text if text.startswith("model.") else f"model: {text}"
        for text in check_vit(settings)
    ]


def _shapes(model: ConfigDict) -> list[str]:
    """What is no size, and no list of whole numbers."""
    return [
        *outside(
            is_size,
            "(height, width) or (side,) in pixels",
            model__image_size=model.image_size,
            model__patch_size=model.patch_size,
        ),
        *outside(
            lambda value: all(type(number) is int for number in value),
            "whole numbers",
            model__patch_sizes=model.patch_sizes,
            model__stem=model.stem,
        ),
    ]


def settings_of(model: ConfigDict) -> Settings | None:
    """What the ViT is built from, or None where `check_model` has found no sizes."""
    if _shapes(model):
        return None
    try:
        settings = variants.resolve(**model.to_dict())
    except (TypeError, ValueError):
        return None
    if min(settings["width"], settings["num_heads"]) < 1:
        return None
    known = {name: settings[name] for name in _SETTINGS if name in settings}
    known["num_classes"] = known["num_classes"] or 0  # unset: the data set's
    return Settings(**known)


def num_tokens(model: ConfigDict) -> int | None:
    """Patches and prefix of an image; None as `settings_of`."""
    if (settings := settings_of(model)) is None or min(settings.patch_size) < 1:
        return None
    return math.prod(settings.grid) + settings.num_prefix


def check_attention(
    model: ConfigDict, hardware: attention_choice.Hardware, *, mask: str = "none"
) -> list[str]:
    """What ``model.attention``, where it names a kernel, cannot do on this hardware.

    ``mask`` is the kind that the objective trains with (`objectives.mask_of`).
    """
    name, known = model.attention, attention_choice.PLATFORMS
    if name not in known or model.dtype not in DTYPES:
        return []  # runs anywhere, or `check_model` has a line for it
    try:
        sizes = variants.resolve(**model.to_dict())
    except (TypeError, ValueError):
        return []
    if min(sizes["width"], sizes["num_heads"]) < 1:
        return []
    request = attention_choice.Request(
        num_queries=1,  # a kernel asked for by name takes any number
        num_keys=1,
        head_dim=sizes["width"] // sizes["num_heads"],
        dtype=model.dtype,
        mask=mask,
        dropout=model.attention_dropout > 0,
    )
    return [
        f"model.attention {name!r} {problem}; use 'auto' or 'xla'"
        for problem in attention_choice.problems(name, hardware, request)
    ]


def outside(ok: Callable[[Any], bool], what: str, **fields: Any) -> list[str]:
    """A line for each field that is set and not ``ok``; ``__`` in a name is a dot."""
    return [
        f"{name.replace('__', '.')} must be {what}, got {value!r}"
        for name, value in fields.items()
        if value is not None and not ok(value)
    ]


def is_size(size: Any) -> bool:
    """Whether this is (height, width) or (side,) in pixels."""
    return len(size) in (1, 2) and all(type(side) is int and side > 0 for side in size)


def unknown(field: str, value: Any, known: Iterable[str]) -> list[str]:
    """A line if ``value`` is not one of the known names, with the nearest of them."""
    known = list(known)
    if value in known:
        return []
    hint = nearest(str(value), known)
    return [f"{field} {value!r} is unknown; known: {', '.join(known)}{hint}"]
