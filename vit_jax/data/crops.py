"""Crops and resizing of one image; those of training are in `CROPS`, by name.

Pure functions of a uint8 image [H, W, C], and of a generator where they are random.
A result may share memory with the image that was passed in: copy before writing.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np

from vit_jax.data.pixels import UInt8Image, with_channels
from vit_jax.data.randaugment import Number

RATIO = (3 / 4, 4 / 3)  # of an inception crop, width over height
_CROP_ATTEMPTS = 100
# A side this many times the other, brought to a crop's height, would take gigabytes.
_MAX_ASPECT = 100


def inception_crop(
    image: UInt8Image,
    rng: np.random.Generator,
    *,
    image_size: tuple[int, int],
    area: tuple[Number, Number] = (0.05, 1.0),
    ratio: tuple[Number, Number] = RATIO,
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
    top, left, height, width = sample_box(
        image.shape[0], image.shape[1], rng, area=area, ratio=ratio
    )
    return scale(image[top : top + height, left : left + width], image_size)


def random_crop(
    image: UInt8Image,
    rng: np.random.Generator,
    *,
    image_size: tuple[int, int],
    resize: tuple[int, int],
) -> UInt8Image:
    """Resizes to `resize` (height, width), then crops `image_size` anywhere in it."""
    return _random_window(scale(image, resize), rng, image_size)


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
    image = scale(image, image_size)
    padded = cv2.copyMakeBorder(
        image, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=(0, 0, 0)
    )
    return _random_window(with_channels(padded), rng, image_size)


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
    Of an extremely long image a random part is taken, see `long_part`.

    Args:
      image: uint8 image [H, W, C].
      rng: source of the position.
      image_size: (height, width) of the result.
      pad: pixels on every side, without repeating the border; 4 in the paper.
    """
    image = long_part(image, image_size, rng)
    height, width = image.shape[:2]
    factor = max(image_size[0] / height, image_size[1] / width)
    covering = (
        max(round(height * factor), image_size[0]),
        max(round(width * factor), image_size[1]),
    )
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    padded = cv2.copyMakeBorder(
        scale(image, covering, kind), pad, pad, pad, pad, cv2.BORDER_REFLECT_101
    )
    return _random_window(with_channels(padded), rng, image_size)


def resize(image: UInt8Image, *, image_size: tuple[int, int]) -> UInt8Image:
    """Resizes to `image_size` (height, width), bilinear, whatever the aspect ratio."""
    return scale(image, image_size)


def long_part(
    image: UInt8Image,
    image_size: tuple[int, int],
    rng: np.random.Generator | None = None,
) -> UInt8Image:
    """The middle of an extremely long image, or a random part; any other as it is.

    A file of 400 bytes may hold 60,000 x 2 pixels: a smaller side of 256 would make
    7,680,000 x 256 of them, of which a crop takes one in thirty thousand.

    Args:
      image: uint8 image [H, W, C].
      image_size: (height, width) of the crop that follows; the part is longer.
      rng: source of the position.
    """
    aspect = max(_MAX_ASPECT, math.ceil(max(image_size) / min(image_size)))
    axis = int(image.shape[1] > image.shape[0])
    side = aspect * image.shape[1 - axis]
    rest = image.shape[axis] - side
    if rest <= 0:
        return image
    start = rest // 2 if rng is None else int(rng.integers(rest + 1))
    part = slice(start, start + side)
    return image[:, part] if axis else image[part]


def resize_small(image: UInt8Image, *, size: int) -> UInt8Image:
    """Brings the smaller side to `size` and keeps the aspect ratio.

    Area interpolation when it shrinks, linear when it enlarges.
    """
    height, width = image.shape[:2]
    factor = size / min(height, width)
    target = (round(height * factor), round(width * factor))
    return scale(image, target, cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


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
        image = scale(image, (height, width))
    top = (height - image_size[0]) // 2
    left = (width - image_size[1]) // 2
    return image[top : top + image_size[0], left : left + image_size[1]]


CROPS: Mapping[str, Callable[..., UInt8Image]] = MappingProxyType(
    {
        "inception": inception_crop,
        "random": random_crop,
        "pad": pad_crop,
        "simple": simple_crop,
        "resize": lambda image, rng, *, image_size: scale(image, image_size),
    }
)


def sample_box(
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


def scale(
    image: UInt8Image, size: tuple[int, int], interpolation: int = cv2.INTER_LINEAR
) -> UInt8Image:
    """Resizes to `size` (height, width); returns the image itself if it fits."""
    if image.shape[:2] == size:
        return image
    scaled = cv2.resize(image, (size[1], size[0]), interpolation=interpolation)
    return with_channels(scaled)
