"""Preparing images as other libraries' models want them: antialiased, as PIL resizes.

Our own evaluation (augment.py) resizes by OpenCV, which does not low-pass for
``"bilinear"`` and ``"bicubic"``; on photographs the two differ visibly.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from vit_jax.data.crops import long_part
from vit_jax.data.decode import decode
from vit_jax.data.pixels import UInt8Image

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}


def antialiased_transform(
    *, image_size: tuple[int, int], channels: int, resize: int, interpolation: str
) -> Callable[[bytes | np.ndarray], UInt8Image]:
    """Builds the transform: decode, resize, central crop, rounding as torchvision does.

    Args:
      image_size: (height, width) of the result.
      channels: 3 for RGB, 1 for gray.
      resize: the smaller side before the central crop, more where the crop would not
        fit; 0 resizes straight to `image_size`.
      interpolation: a name of `FILTERS`; ``"area"`` enlarges as ``"bilinear"`` does.

    Returns:
      A function image -> contiguous uint8 [H, W, C].

    Raises ValueError for an unknown interpolation.
    """
    if interpolation not in FILTERS:
        known = ", ".join(FILTERS)
        raise ValueError(f"interpolation {interpolation!r} is unknown; known: {known}")

    def transform(image: bytes | np.ndarray) -> UInt8Image:
        pixels = decode(image, channels=channels)
        size = image_size
        if resize:
            pixels = long_part(pixels, image_size)
            size = _covering(pixels.shape[:2], image_size, resize)
        enlarges = min(size) > min(pixels.shape[:2])
        kind = "bilinear" if interpolation == "area" and enlarges else interpolation
        # PIL has no [H, W, 1].
        scaled = Image.fromarray(pixels if channels == 3 else pixels[:, :, 0]).resize(
            (size[1], size[0]), FILTERS[kind]
        )
        top, left = (
            round((side - crop) / 2)
            for side, crop in zip(size, image_size, strict=True)
        )
        box = (left, top, left + image_size[1], top + image_size[0])
        cropped = np.array(scaled.crop(box))
        return cropped.reshape(*image_size, channels)

    return transform


def _covering(
    size: tuple[int, ...], crop: tuple[int, int], resize: int
) -> tuple[int, int]:
    """`size` with a smaller side of `resize`, or larger until it covers `crop`."""
    short = min(size)
    height, width = (resize * side // short for side in size)
    factor = max(1.0, crop[0] / height, crop[1] / width)
    return math.ceil(height * factor), math.ceil(width * factor)
