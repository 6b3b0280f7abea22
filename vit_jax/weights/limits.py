"""Bounds of what a file may say about its model, whichever format it is in.

Sizes that arrays have are bounded by the file's length; those that a config or a
product of two sizes makes are not, and what is not finite would fail much later.
"""

import math
from collections.abc import Mapping
from typing import Any

from vit_jax.weights.base import Preprocessing
from vit_jax.weights.files import WeightsError

MAX_SIDE = 1 << 14  # pixels; of an image, and of one before it is cropped
MAX_NUMBERS = 1 << 26  # of an image: 4096 x 4096 pixels in colour
MAX_PATCHES = 1 << 14
MAX_ROPE_BASE = 1e9


def check_model(
    name: str, settings: Mapping[str, Any], preparation: Preprocessing
) -> None:
    """Refuses a model of a size that none has, or with numbers that compute nothing.

    Args:
      name: of the file, for the message.
      settings: complete.
      preparation: how its images are prepared.

    Raises:
      WeightsError: names the first that is out of bounds.
    """
    (height, width), patch = settings["image_size"], settings["patch_size"]
    for side, step in zip((height, width), patch, strict=True):
        _check(name, "image_size", settings["image_size"], 0 < step <= side <= MAX_SIDE)
        _check(name, "patch_size", patch, side % step == 0)
    pixels = height * width * settings["channels"]
    _check(name, "image_size", (height, width), pixels <= MAX_NUMBERS)
    patches = height * width // math.prod(patch)
    _check(name, "number of patches", patches, patches <= MAX_PATCHES)
    epsilon, base = settings["norm_epsilon"], settings["rope_base"]
    _check(name, "norm_epsilon", epsilon, 0 < epsilon < 1)
    _check(name, "rope_base", base, 0 < base <= MAX_ROPE_BASE)
    scale = settings["layer_scale"]
    _check(name, "layer_scale", scale, abs(scale) < math.inf)
    mean, std, resize = preparation.mean, preparation.std, preparation.resize
    _check(name, "mean", mean, bool(mean) and all(map(math.isfinite, mean)))
    _check(name, "std", std, bool(std) and all(0 < each < math.inf for each in std))
    _check(name, "resize before the crop", resize, 0 <= resize <= 8 * MAX_SIDE)


def _check(name: str, what: str, value: Any, good: bool) -> None:
    if not good:
        raise WeightsError(f"{name}: {what} is {value}, which no model has")
