"""Striped images whose class can be seen: ``patterns``, or ``patterns:NUMBER`` of them.

For short runs whose loss must fall without any data set. A class is a colour (a
brightness, of one channel) and a width of stripes; direction, phase and noise are an
image's own. Colours outlive crops, flips, and most of what an augmentation does.
"""

import colorsys
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.data import synthetic
from vit_jax.data.facts import DatasetFacts

NUM_EXAMPLES = 2_048
NUM_CLASSES = 10
STRIPES = (1.0, 4.0)  # periods across an image, of the first class and the last
CONTRAST = 60  # of stripes and noise, in grey values
NOISE = 10


def describe(text: str, *, num_classes: int | None = None) -> DatasetFacts:
    """As `synthetic.describe`, of ``patterns:NUMBER``.

    Raises:
      DataError: the number is none.
    """
    return synthetic.describe(
        text or str(NUM_EXAMPLES),
        num_classes=num_classes or NUM_CLASSES,
        kind="patterns",
    )


@functools.lru_cache(maxsize=4096)
def _colour(label: int, classes: int, channels: int) -> tuple[float, ...]:
    """A class's mean colour: around the colour wheel, or from dark to bright."""
    if channels == 3:
        return tuple(
            255 * value for value in colorsys.hsv_to_rgb(label / classes, 1, 0.8)
        )
    return (255 * (label + 0.5) / classes,) * channels


class PatternSource(synthetic.Numbered):
    """Random access to uint8 images of stripes; labels go round the classes.

    Args:
      text: how many, as in `describe`.
      split: a split expression.
      image_shape: height, width, channels.
      num_classes: labels are below it.

    Raises:
      DataError: as `describe`, or there is no such split.
    """

    def __init__(
        self,
        text: str,
        split: str,
        *,
        image_shape: Sequence[int] = (32, 32, 3),
        num_classes: int | None = None,
    ):
        facts = describe(text, num_classes=num_classes)
        super().__init__(split, facts=facts, image_shape=image_shape)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``{"image": uint8 [H, W, C], "label": int}``."""
        number = self._number(index)
        height, width, channels = self._shape
        label = number % self._classes
        rng = np.random.Generator(np.random.Philox(number))
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        share = label / max(self._classes - 1, 1)
        periods = STRIPES[0] + share * (STRIPES[1] - STRIPES[0])
        across = np.sin(angle) * (np.arange(height) / height)[:, None]
        across = across + np.cos(angle) * np.arange(width) / width
        stripes = CONTRAST * np.sin(2 * np.pi * periods * across + phase)
        noise = rng.normal(0, NOISE, self._shape)
        pixels = np.array(_colour(label, self._classes, channels)) + noise
        image = np.clip(pixels + stripes[..., None], 0, 255).astype(np.uint8)
        return {"image": image, "label": label}
