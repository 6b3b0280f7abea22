"""Image work on the host: decode, random crops for training, crops for evaluation.

Everything is a pure function of (image, rng): uint8 in, uint8 out. Flip, normalisation,
erasing, mixup and cutmix act on whole batches, on the device, in mixing.py.
A result may share memory with the array that was passed in: copy before writing.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from vit_jax.data.crops import (
    CROPS,
    RATIO,
    central_crop,
    long_part,
    resize_small,
    sample_box,
    scale,
)
from vit_jax.data.decode import MAX_PIXELS, decode
from vit_jax.data.image_header import Header, read_header
from vit_jax.data.pixels import UInt8Image
from vit_jax.data.policies import POLICIES
from vit_jax.data.policies import color_jitter as jitter
from vit_jax.data.randaugment import Number


def train_transform(
    *,
    image_size: tuple[int, int],
    channels: int,
    crop: str,
    area: tuple[Number, Number],
    resize: tuple[int, int] | None,
    pad: int,
    policy: str,
    randaugment_layers: int,
    randaugment_magnitude: Number,
    color_jitter: Number,
    views: int,
    max_pixels: int = MAX_PIXELS,
) -> Callable[..., np.ndarray]:
    """Builds the training transform: decode, crop, policy, colour jitter.

    Args:
      image_size: (height, width) of the result.
      channels: 3 for RGB, 1 for gray.
      crop: a name in `CROPS`.
      area: range of the area fraction; used by "inception" only.
      resize: (height, width) before the crop; used by "random" only.
      pad: pixels on every side, zeros for "pad" and reflected for "simple".
      policy: a name in `POLICIES`.
      randaugment_layers: number of operations of "randaugment"; 0 is none.
      randaugment_magnitude: shared strength of them.
      color_jitter: strength for brightness, contrast and saturation; 0 is off.
      views: how many times an image is cropped and augmented.
      max_pixels: of an encoded image; one that says it has more is damaged.

    Returns:
      A function (image, rng) -> contiguous uint8 [H, W, C], or [V, H, W, C] where
      `views` is more than 1: the first view is the image that one view would give.
      With ``sound=True`` the file was decoded whole before, and what lies below the
      crop need not be again; the result is the same.

    Raises ValueError for an unknown name or an argument out of range.
    """
    for what, name, known in (("crop", crop, CROPS), ("policy", policy, POLICIES)):
        if name not in known:
            raise ValueError(
                f"unknown {what} {name!r}; known: {', '.join(sorted(known))}"
            )
    _check_train(image_size, crop, area, resize, pad)
    if not 0 <= color_jitter < math.inf or views < 1:
        raise ValueError(
            "color_jitter must be finite and not negative and views at least 1, got "
            f"({color_jitter}, {views})"
        )
    if randaugment_layers < 0 or randaugment_magnitude < 0:
        raise ValueError(
            "randaugment layers and magnitude must not be negative, got "
            f"({randaugment_layers}, {randaugment_magnitude})"
        )
    settings: dict[str, dict[str, Any]] = {
        "inception": {"area": area},
        "random": {"resize": resize},
        "pad": {"pad": pad},
        "simple": {"pad": pad},
        "randaugment": {
            "layers": randaugment_layers,
            "magnitude": randaugment_magnitude,
        },
    }
    crop_image = functools.partial(
        CROPS[crop], image_size=image_size, **settings.get(crop, {})
    )
    apply_policy = functools.partial(POLICIES[policy], **settings.get(policy, {}))

    def finish(image: UInt8Image, rng: np.random.Generator) -> UInt8Image:
        # Crops are uncontiguous, which OpenCV and PIL would copy at each operation.
        image = apply_policy(np.ascontiguousarray(image), rng)
        if color_jitter:
            image = jitter(image, rng, strength=color_jitter)
        return np.ascontiguousarray(image)

    read = functools.partial(
        decode, channels=channels, max_pixels=max_pixels, fast=True
    )

    def transform(
        image: bytes | np.ndarray, rng: np.random.Generator, *, sound: bool = False
    ) -> np.ndarray:
        if sound and crop == "inception" and views == 1 and isinstance(image, bytes):
            header = _jpeg_header(image)
            if header is not None:  # as inception_crop, without the rows below it
                top, left, height, width = sample_box(
                    header.height, header.width, rng, area=area, ratio=RATIO
                )
                pixels = read(image, rows=top + height)
                part = pixels[top : top + height, left : left + width]
                return finish(scale(part, image_size), rng)
        pixels = read(image)
        if views == 1:
            return finish(crop_image(pixels, rng), rng)
        return np.stack([finish(crop_image(pixels, rng), rng) for _ in range(views)])

    return transform


def eval_transform(
    *,
    image_size: tuple[int, int],
    channels: int,
    resize: int,
    max_pixels: int = MAX_PIXELS,
) -> Callable[[bytes | np.ndarray], UInt8Image]:
    """Builds the evaluation transform: decode, resize, central crop.

    Args:
      image_size: (height, width) of the result.
      channels: 3 for RGB, 1 for gray.
      resize: the smaller side before the central crop, for example 256 for 224; 0
        resizes straight to `image_size` and crops nothing.
      max_pixels: of an encoded image; one that says it has more is damaged.

    Returns:
      A function image -> contiguous uint8 [H, W, C].
    """
    if resize < 0:
        raise ValueError(f"resize must be 0 (no crop) or positive, got {resize}")

    def transform(image: bytes | np.ndarray) -> UInt8Image:
        image = decode(image, channels=channels, max_pixels=max_pixels)
        if resize:
            image = resize_small(long_part(image, image_size), size=resize)
            image = central_crop(image, image_size=image_size)
        return np.ascontiguousarray(scale(image, image_size))

    return transform


def _jpeg_header(image: bytes) -> Header | None:
    """Of a JPEG: other headers may differ from what is decoded, as a GIF's screen."""
    try:
        header = read_header(image)
    except ValueError:  # told when it is decoded
        return None
    return header if header is not None and header.format == "jpeg" else None


def _check_train(
    image_size: tuple[int, int],
    crop: str,
    area: tuple[Number, Number],
    resize: tuple[int, int] | None,
    pad: int,
) -> None:
    """Reports what the chosen crop cannot work with, before any image is read."""
    if crop == "inception" and not 0 < area[0] <= area[1] <= 1:
        raise ValueError(f"area must satisfy 0 < low <= high <= 1, got {area}")
    if crop == "random" and (
        resize is None or resize[0] < image_size[0] or resize[1] < image_size[1]
    ):
        raise ValueError(
            f'"random" needs resize of at least {image_size}, got {resize}'
        )
    if crop in ("pad", "simple") and pad < 0:
        raise ValueError(f"pad must not be negative, got {pad}")
    if crop == "simple" and pad >= min(image_size):
        raise ValueError(
            f'"simple" reflects pad pixels, so pad must be less than {min(image_size)} '
            f"(image_size), got {pad}"
        )
