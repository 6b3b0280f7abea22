"""Image work on the host: decode, random crops for training, crops for evaluation.

Everything is a pure function of (image, rng): uint8 in, uint8 out. Flip, normalisation,
erasing, mixup and cutmix act on whole batches, on the device, in mixing.py.
A result may share memory with the array that was passed in: copy before writing.
"""

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np

from vit_jax.data.decode import MAX_PIXELS, decode
from vit_jax.data.policies import POLICIES
from vit_jax.data.policies import color_jitter as jitter
from vit_jax.data.randaugment import Number, UInt8Image

_CROP_ATTEMPTS = 100


def inception_crop(
    image: UInt8Image,
    rng: np.random.Generator,
    *,
    image_size: tuple[int, int],
    area: tuple[Number, Number] = (0.05, 1.0),
    ratio: tuple[Number, Number] = (3 / 4, 4 / 3),
) -> UInt8Image:
    """Crops a random box of random shape, then resizes it (arXiv 1409.4842).

    Sampling follows tf.image.sample_distorted_bounding_box: the aspect ratio (width
    over height) is uniform in `ratio` and, given it, the height is uniform over what
    `area` and the image allow. So small areas are likelier than under the uniform
    area and log-uniform ratio of other libraries: a mean of about 0.4, not 0.5, for
    5 to 100%. Unlike TF, the last row and column can start a box, and a box is
    redrawn, not adjusted by a row, when rounding takes it out of `area`. After 100
    attempts the whole image is used.

    Args:
      image: uint8 image [H, W, C].
      rng: source of the box.
      image_size: (height, width) of the result; bilinear, no antialiasing.
      area: smallest and largest area of the box as a fraction of the image's.
      ratio: smallest and largest aspect ratio of the box.
    """
    top, left, height, width = _sample_box(
        image.shape[0], image.shape[1], rng, area=area, ratio=ratio
    )
    return _scale(image[top : top + height, left : left + width], image_size)


def random_crop(
    image: UInt8Image,
    rng: np.random.Generator,
    *,
    image_size: tuple[int, int],
    resize: tuple[int, int],
) -> UInt8Image:
    """Resizes to `resize` (height, width), then crops `image_size` anywhere in it."""
    return _random_window(_scale(image, resize), rng, image_size)


def pad_crop(
    image: UInt8Image,
    rng: np.random.Generator,
    *,
    image_size: tuple[int, int],
    pad: int,
) -> UInt8Image:
    """Pads with `pad` zeros on every side, then crops: a random shift, as for CIFAR.

    An image of another size is resized to `image_size` first.
    """
    image = _scale(image, image_size)
    padded = cv2.copyMakeBorder(
        image, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=(0, 0, 0)
    )
    return _random_window(_with_channels(padded), rng, image_size)


def simple_crop(
    image: UInt8Image,
    rng: np.random.Generator,
    *,
    image_size: tuple[int, int],
    pad: int,
) -> UInt8Image:
    """Fits the smaller side, pads by reflection, then crops (arXiv 2204.07118).

    DeiT-III's simple random crop: it keeps the aspect ratio and most of the image.
    Area interpolation when it shrinks, linear when it enlarges; DeiT-III's is bicubic.

    Args:
      image: uint8 image [H, W, C].
      rng: source of the position.
      image_size: (height, width) of the result.
      pad: pixels on every side, without repeating the border; 4 in the paper.
    """
    height, width = image.shape[:2]
    factor = max(image_size[0] / height, image_size[1] / width)
    covering = (
        max(round(height * factor), image_size[0]),
        max(round(width * factor), image_size[1]),
    )
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    padded = cv2.copyMakeBorder(
        _scale(image, covering, kind), pad, pad, pad, pad, cv2.BORDER_REFLECT_101
    )
    return _random_window(_with_channels(padded), rng, image_size)


def resize(image: UInt8Image, *, image_size: tuple[int, int]) -> UInt8Image:
    """Resizes to `image_size` (height, width), bilinear, whatever the aspect ratio."""
    return _scale(image, image_size)


def resize_small(image: UInt8Image, *, size: int) -> UInt8Image:
    """Brings the smaller side to `size` and keeps the aspect ratio.

    Area interpolation when it shrinks, linear when it enlarges.
    """
    height, width = image.shape[:2]
    factor = size / min(height, width)
    target = (round(height * factor), round(width * factor))
    return _scale(image, target, cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


def central_crop(image: UInt8Image, *, image_size: tuple[int, int]) -> UInt8Image:
    """Cuts `image_size` (height, width) out of the middle.

    An image that is too small is first enlarged, with its aspect ratio, until it
    covers the crop.
    """
    height, width = image.shape[:2]
    factor = max(image_size[0] / height, image_size[1] / width)
    if factor > 1:
        height = max(round(height * factor), image_size[0])
        width = max(round(width * factor), image_size[1])
        image = _scale(image, (height, width))
    top = (height - image_size[0]) // 2
    left = (width - image_size[1]) // 2
    return image[top : top + image_size[0], left : left + image_size[1]]


CROPS: Mapping[str, Callable[..., UInt8Image]] = MappingProxyType(
    {
        "inception": inception_crop,
        "random": random_crop,
        "pad": pad_crop,
        "simple": simple_crop,
        "resize": lambda image, rng, *, image_size: _scale(image, image_size),
    }
)


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
) -> Callable[[bytes | np.ndarray, np.random.Generator], np.ndarray]:
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

    def make_view(pixels: UInt8Image, rng: np.random.Generator) -> UInt8Image:
        # Crops are uncontiguous, which OpenCV and PIL would copy at each operation.
        image = np.ascontiguousarray(crop_image(pixels, rng))
        image = apply_policy(image, rng)
        if color_jitter:
            image = jitter(image, rng, strength=color_jitter)
        return np.ascontiguousarray(image)

    def transform(image: bytes | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        pixels = decode(image, channels=channels, max_pixels=max_pixels, fast=True)
        if views == 1:
            return make_view(pixels, rng)
        return np.stack([make_view(pixels, rng) for _ in range(views)])

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
            image = resize_small(image, size=resize)
            image = central_crop(image, image_size=image_size)
        return np.ascontiguousarray(_scale(image, image_size))

    return transform


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


def _sample_box(
    image_height: int,
    image_width: int,
    rng: np.random.Generator,
    *,
    area: tuple[Number, Number],
    ratio: tuple[Number, Number],
) -> tuple[int, int, int, int]:
    """Draws (top, left, height, width) of an inception crop."""
    smallest, largest = (fraction * image_height * image_width for fraction in area)
    for _ in range(_CROP_ATTEMPTS):
        aspect = rng.uniform(*ratio)
        low = max(round(math.sqrt(smallest / aspect)), 1)
        high = round(math.sqrt(largest / aspect))
        high = min(high, image_height, int((image_width + 0.5) / aspect))
        if low > high:
            continue
        height = int(rng.integers(low, high + 1))
        width = min(max(round(height * aspect), 1), image_width)
        if smallest <= height * width <= largest:
            top = int(rng.integers(image_height - height + 1))
            left = int(rng.integers(image_width - width + 1))
            return top, left, height, width
    return 0, 0, image_height, image_width


def _random_window(
    image: UInt8Image, rng: np.random.Generator, size: tuple[int, int]
) -> UInt8Image:
    """Cuts a window of `size` out of a uniformly random place."""
    top = int(rng.integers(image.shape[0] - size[0] + 1))
    left = int(rng.integers(image.shape[1] - size[1] + 1))
    return image[top : top + size[0], left : left + size[1]]


def _scale(
    image: UInt8Image, size: tuple[int, int], interpolation: int = cv2.INTER_LINEAR
) -> UInt8Image:
    """Resizes to `size` (height, width); returns the image itself if it fits."""
    if image.shape[:2] == size:
        return image
    scaled = cv2.resize(image, (size[1], size[0]), interpolation=interpolation)
    return _with_channels(scaled)


def _with_channels(image: np.ndarray) -> UInt8Image:
    """Restores the channel axis that OpenCV and PIL drop when it is one."""
    return image if image.ndim == 3 else image[:, :, None]
