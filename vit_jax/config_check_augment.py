"""Everything wrong with a config's mean, std and `data.augment` section."""

import inspect
import math

from ml_collections import ConfigDict

from vit_jax.config_check_model import is_size, outside, unknown
from vit_jax.data import augment, crops, erasing, mixing, policies
from vit_jax.objectives import OBJECTIVES


def check_augmentation(config: ConfigDict) -> list[str]:
    """Names, ranges, and what the transform itself refuses."""
    section = config.data.augment
    problems = [
        *_colors(config),
        *_ranges(section),
        *_copies(config),
        *unknown("data.augment.policy", section.policy, policies.POLICIES),
        *unknown("data.augment.mix_per", section.mix_per, mixing.MIX_PER),
        *unknown("data.augment.erase_fill", section.erase_fill, erasing.FILLS),
        *unknown("data.augment.crop", section.crop, crops.CROPS),
    ]
    for name, fits in (
        ("area", len(section.area) == 2),
        ("resize", len(section.resize) == 2 and is_size(section.resize)),
    ):
        if not fits:
            problems.append(f"data.augment.{name} needs two numbers: {section[name]!r}")
    image_size = config.model.image_size
    if problems or not is_size(image_size):
        return problems  # the rest counts with them
    known = inspect.signature(augment.train_transform).parameters
    settings = {key: section[key] for key in section if key in known}
    try:
        augment.train_transform(
            image_size=tuple(image_size) * 2 if len(image_size) == 1 else image_size,
            channels=config.model.channels,
            **settings,
        )
    except ValueError as error:
        problems.append(f"data.augment: {error}")
    return problems


def _colors(config: ConfigDict) -> list[str]:
    """Mean and std: one value, or one for each channel."""
    channels = config.model.channels
    problems = [
        f"data.{name} has {len(config.data[name])} values; it needs 1, or one for "
        f"each of {channels} channels (model.channels)"
        for name in ("mean", "std")
        if len(config.data[name]) not in (1, channels)
    ]
    for name, what, ok in (
        ("mean", "numbers", math.isfinite),
        ("std", "positive numbers", lambda value: 0 < value < math.inf),
    ):
        values = config.data[name]
        if not all(isinstance(value, int | float) and ok(value) for value in values):
            problems.append(f"data.{name} must be {what}, got {values!r}")
    return problems


def _ranges(section: ConfigDict) -> list[str]:
    """Single numbers."""
    return [
        *outside(
            lambda value: 0 <= value < math.inf,
            "finite and not negative",
            **_named(
                section,
                "randaugment_layers",
                "randaugment_magnitude",
                "color_jitter",
                "mixup",
                "cutmix",
            ),
        ),
        *outside(
            lambda value: 0 <= value <= 1,
            "in [0, 1]",
            **_named(section, "mix_prob", "mix_switch", "erase"),
        ),
        *outside(
            lambda value: value >= 1,
            "at least 1",
            **_named(section, "repeats", "views"),
        ),
    ]


def _copies(config: ConfigDict) -> list[str]:
    """Copies and views of an image against the batch and the objective."""
    section, batch_size = config.data.augment, config.train.batch_size
    problems = []
    if section.repeats > 1 and batch_size % section.repeats:
        problems.append(
            f"data.augment.repeats {section.repeats} does not divide "
            f"train.batch_size {batch_size}"
        )
    name = str(config.objective.get("name"))
    if section.views > 1 and name in OBJECTIVES:
        problems.append(
            f"data.augment.views is {section.views}, but objective {name!r} takes "
            "one view of an image; data.augment.repeats gives it copies as rows"
        )
    return problems


def _named(section: ConfigDict, *names: str) -> dict[str, object]:
    return {f"data__augment__{name}": section[name] for name in names}
