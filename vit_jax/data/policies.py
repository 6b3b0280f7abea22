"""Named augmentation policies of the host, and colour jitter.

A policy takes a uint8 image [H, W, C] and the row's generator to another such image.
`POLICIES` maps the names a config may give to them.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np

from vit_jax.data.pixels import UInt8Image
from vit_jax.data.randaugment import (
    OPS,
    Number,
    brightness,
    color,
    contrast,
    randaugment,
    solarize,
)

SubPolicy = tuple[tuple[str, float, int], tuple[str, float, int]]

# (operation, probability, magnitude), twice: policy_v0 of the TensorFlow code.
IMAGENET_POLICY: tuple[SubPolicy, ...] = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateY", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)

SOLARIZE_THRESHOLD = 128  # of 3-Augment: PIL's default
BLUR_SIGMA = (0.1, 2.0)  # of 3-Augment, in pixels whatever the image's size


def autoaugment(image: UInt8Image, rng: np.random.Generator) -> UInt8Image:
    """Applies one of 25 learnt pairs of operations (arXiv 1805.09501).

    The operations and the meaning of a magnitude are RandAugment's (randaugment.py).
    TranslateY differs from the TensorFlow code: its 250 pixels at magnitude 10 would
    move a 224-pixel image out of sight, so this keeps RandAugment's share of the side,
    0.446; the paper has 150 of 331 pixels, 0.453.
    """
    for name, probability, magnitude in IMAGENET_POLICY[
        int(rng.integers(len(IMAGENET_POLICY)))
    ]:
        if rng.random() < probability:
            apply, arguments = OPS[name]
            image = apply(image, *arguments(magnitude, rng))
    return image


def three_augment(image: UInt8Image, rng: np.random.Generator) -> UInt8Image:
    """Applies one of grayscale, solarize and Gaussian blur (arXiv 2204.07118).

    DeiT-III adds flip and colour jitter of 0.3: `flip` and `color_jitter` of a config.
    """
    choice = int(rng.integers(3))
    if choice == 0:
        return grayscale(image)
    if choice == 1:
        return solarize(image, SOLARIZE_THRESHOLD)
    return gaussian_blur(image, rng.uniform(*BLUR_SIGMA))


def grayscale(image: UInt8Image) -> UInt8Image:
    """Replaces every channel by the luma; one channel stays as it is."""
    if image.shape[2] == 1:
        return image
    gray = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    return np.repeat(gray[:, :, None], image.shape[2], axis=2)


def gaussian_blur(image: UInt8Image, sigma: float) -> UInt8Image:
    """Smooths by a Gaussian of `sigma` pixels, the border repeated.

    PIL approximates it by box filters, which takes ten times as long.
    """
    blurred = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    blurred = np.asarray(blurred, np.uint8)
    return blurred.reshape(image.shape)  # OpenCV drops a channel axis of one


def color_jitter(
    image: UInt8Image, rng: np.random.Generator, *, strength: Number
) -> UInt8Image:
    """Scales brightness, contrast and saturation, in random order.

    Each factor is uniform over `1 - strength` to `1 + strength`, at least 0, as in
    torchvision's ColorJitter without its hue.
    """
    low, high = max(0.0, 1.0 - strength), 1.0 + strength
    for index in rng.permutation(len(_JITTERS)):
        image = _JITTERS[index](image, rng.uniform(low, high))
    return image


_JITTERS = (brightness, contrast, color)

POLICIES: Mapping[str, Callable[..., UInt8Image]] = MappingProxyType(
    {
        "none": lambda image, rng: image,
        "randaugment": randaugment,
        "autoaugment": autoaugment,
        "three_augment": three_augment,
    }
)
