"""RandAugment on the host: the sixteen AutoAugment operations (arXiv 1909.13719).

Operations are pure functions of a uint8 HWC image and explicit arguments; `OPS` maps
each name to its function and to the rule that turns a magnitude into arguments. The
constants are those of the TensorFlow AutoAugment code that AugReg (arXiv 2106.10270)
used; where this file departs from it, the docstring concerned says so.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from vit_jax.data.pixels import UInt8Image, with_channels

Number = int | float
Arguments = Callable[[Number, np.random.Generator], tuple[Number, ...]]

MAX_LEVEL = 10.0  # the magnitude at which an argument takes its tabulated value
REFERENCE_SIZE = 224  # the image size that the constants given in pixels assume
FILL = 128  # what a geometric operation or a cutout uncovers
_VALUES = np.arange(256)


def randaugment(
    image: UInt8Image,
    rng: np.random.Generator,
    *,
    layers: int,
    magnitude: Number,
) -> UInt8Image:
    """Applies `layers` random operations, all of one magnitude (arXiv 1909.13719).

    Operations are drawn uniformly with replacement and always applied. Magnitude 10
    is the tabulated value and larger ones extrapolate. Magnitude 0 is not the
    identity: it inverts (Solarize), keeps one bit (Posterize) and darkens to a tenth
    (Brightness), as in the reference, whose AugReg level light1 relies on it.

    Args:
      image: uint8 image [H, W, C] with one or three channels; it is not modified.
      rng: source of the operations, signs and positions.
      layers: number of operations, N in the paper; 0 returns the image as it is.
      magnitude: shared strength, M in the paper, at least 0.
    """
    for _ in range(layers):
        apply, arguments = OPS[_NAMES[int(rng.integers(len(_NAMES)))]]
        image = apply(image, *arguments(magnitude, rng))
    return image


def autocontrast(image: UInt8Image) -> UInt8Image:
    """Stretches each channel to the full range; a constant one stays as it is.

    Integer arithmetic: values that float rounding in PIL and TF may put one lower
    are exact here.
    """
    # One axis at a time: numpy takes 1.4 ms for both at 224 px, with the last short.
    low = image.min(axis=0).min(axis=0).astype(np.int64)
    spread = image.max(axis=0).max(axis=0) - low
    scaled = (_VALUES[:, None] - low) * 255 // np.maximum(spread, 1)
    table = np.where(spread > 0, scaled, _VALUES[:, None])
    return _look_up(image, table)


def equalize(image: UInt8Image) -> UInt8Image:
    """Flattens the histogram of each channel, by PIL's rule, which TF's repeats."""
    return _from_pil(ImageOps.equalize(_to_pil(image)))


def invert(image: UInt8Image) -> UInt8Image:
    """Subtracts every value from 255."""
    return np.subtract(255, image, dtype=np.uint8)


def posterize(image: UInt8Image, bits: int) -> UInt8Image:
    """Keeps the `bits` highest bits, at least 1 (as TF does for 0) and at most 8."""
    mask = (0xFF << (8 - min(max(bits, 1), 8))) & 0xFF
    return np.bitwise_and(image, np.uint8(mask))


def solarize(image: UInt8Image, threshold: int) -> UInt8Image:
    """Inverts the values that reach the threshold, so a higher one changes less.

    A threshold above 255 changes nothing, as the formula and PIL have it. The TF code
    compares in eight bits (seen with TF 2.21): 256 (magnitude 10) wraps to 0, which
    inverts the whole image, and 384 (magnitude 15) to 128. Inverting is an operation of
    its own, and a strength that jumps between 9 and 10 is nothing to reproduce.
    """
    return _look_up(image, np.where(threshold <= _VALUES, 255 - _VALUES, _VALUES))


def solarize_add(image: UInt8Image, addition: int) -> UInt8Image:
    """Adds to the values below 128 and saturates; the others stay."""
    return _look_up(image, np.where(_VALUES < 128, _VALUES + addition, _VALUES))


def color(image: UInt8Image, factor: Number) -> UInt8Image:
    """Scales the distance from gray: 0 is gray, 1 the image; no-op on one channel.

    PIL rounds the gray value and TF truncates it: a difference of one at most before
    scaling.
    """
    if image.shape[2] == 1:
        return image
    return _from_pil(ImageEnhance.Color(_to_pil(image)).enhance(factor))


def contrast(image: UInt8Image, factor: Number) -> UInt8Image:
    """Scales the distance from the mean gray value of the image, as PIL does.

    The TF code uses number of pixels / 256 in place of that mean, which is 196 for
    every 224 px image and nearly black for a small one; this uses the mean.
    """
    gray = image if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    mean = int(gray.mean() + 0.5)
    return _look_up(image, mean + factor * (_VALUES - mean))


def brightness(image: UInt8Image, factor: Number) -> UInt8Image:
    """Scales every value: 0 is black, 1 the image; saturates."""
    return _look_up(image, factor * _VALUES)


def sharpness(image: UInt8Image, factor: Number) -> UInt8Image:
    """Scales the distance from a 3 x 3 smoothed image, the border kept; 1 the image.

    PIL rounds the smoothed values and TF truncates them: a difference of one at most
    before scaling.
    """
    return _from_pil(ImageEnhance.Sharpness(_to_pil(image)).enhance(factor))


def rotate(image: UInt8Image, degrees: Number) -> UInt8Image:
    """Rotates counterclockwise about the centre, nearest neighbour, gray fill."""
    height, width = image.shape[:2]
    centre = ((width - 1) / 2, (height - 1) / 2)
    # OpenCV builds the input-to-output matrix; the inverse rotation samples.
    return _warp(image, cv2.getRotationMatrix2D(centre, -float(degrees), 1.0))


def shear_x(image: UInt8Image, level: Number) -> UInt8Image:
    """Moves row y left by `level * y` pixels, nearest neighbour, gray fill."""
    return _warp(image, np.array([[1.0, level, 0.0], [0.0, 1.0, 0.0]]))


def shear_y(image: UInt8Image, level: Number) -> UInt8Image:
    """Moves column x up by `level * x` pixels, nearest neighbour, gray fill."""
    return _warp(image, np.array([[1.0, 0.0, 0.0], [level, 1.0, 0.0]]))


def translate_x(image: UInt8Image, fraction: Number) -> UInt8Image:
    """Moves the image left by a fraction of its width, whole pixels, gray fill."""
    shift = round(fraction * image.shape[1])
    return _warp(image, np.array([[1.0, 0.0, shift], [0.0, 1.0, 0.0]]))


def translate_y(image: UInt8Image, fraction: Number) -> UInt8Image:
    """Moves the image up by a fraction of its height, whole pixels, gray fill."""
    shift = round(fraction * image.shape[0])
    return _warp(image, np.array([[1.0, 0.0, 0.0], [0.0, 1.0, shift]]))


def cutout(
    image: UInt8Image, fraction: Number, centre_y: Number, centre_x: Number
) -> UInt8Image:
    """Fills a square with gray, clipped by the image border (arXiv 1708.04552).

    Args:
      image: uint8 image [H, W, C].
      fraction: half the square's side, as a fraction of the image's smaller side.
      centre_y: position of the square in [0, 1) of the height.
      centre_x: position of the square in [0, 1) of the width.
    """
    height, width = image.shape[:2]
    half = round(fraction * min(height, width))
    y, x = int(centre_y * height), int(centre_x * width)
    image = image.copy()
    image[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = FILL
    return image


def _none(magnitude: Number, rng: np.random.Generator) -> tuple[Number, ...]:
    """Arguments of an operation that has no strength."""
    del magnitude, rng
    return ()


def _whole(maximum: int) -> Arguments:
    """Arguments of an operation with a whole-number strength, rounded down."""

    def arguments(magnitude: Number, rng: np.random.Generator) -> tuple[Number, ...]:
        del rng
        return (int(magnitude / MAX_LEVEL * maximum),)

    return arguments


def _enhance(magnitude: Number, rng: np.random.Generator) -> tuple[Number, ...]:
    """Arguments of a PIL enhancement: from 0.1 at magnitude 0 to 1.9 at 10."""
    del rng
    return (magnitude / MAX_LEVEL * 1.8 + 0.1,)


def _signed(maximum: float) -> Arguments:
    """Arguments of a geometric operation: either sign with probability one half."""

    def arguments(magnitude: Number, rng: np.random.Generator) -> tuple[Number, ...]:
        level = magnitude / MAX_LEVEL * maximum
        return (level if rng.random() < 0.5 else -level,)

    return arguments


def _cutout_arguments(
    magnitude: Number, rng: np.random.Generator
) -> tuple[Number, ...]:
    """Arguments of cutout: half a side of 40 px at magnitude 10 and 224 px."""
    half = magnitude / MAX_LEVEL * 40 / REFERENCE_SIZE
    return (half, rng.random(), rng.random())


# Translate (100) and Cutout (40) are pixels in the reference, tuned at 224 px. Here
# they are fractions of the side: the same at 224, in proportion elsewhere.
OPS: Mapping[str, tuple[Callable[..., UInt8Image], Arguments]] = MappingProxyType(
    {
        "AutoContrast": (autocontrast, _none),
        "Equalize": (equalize, _none),
        "Invert": (invert, _none),
        "Rotate": (rotate, _signed(30.0)),
        "Posterize": (posterize, _whole(4)),
        "Solarize": (solarize, _whole(256)),
        "SolarizeAdd": (solarize_add, _whole(110)),
        "Color": (color, _enhance),
        "Contrast": (contrast, _enhance),
        "Brightness": (brightness, _enhance),
        "Sharpness": (sharpness, _enhance),
        "ShearX": (shear_x, _signed(0.3)),
        "ShearY": (shear_y, _signed(0.3)),
        "TranslateX": (translate_x, _signed(100 / REFERENCE_SIZE)),
        "TranslateY": (translate_y, _signed(100 / REFERENCE_SIZE)),
        "Cutout": (cutout, _cutout_arguments),
    }
)
_NAMES = tuple(OPS)


def _look_up(image: UInt8Image, table: npt.NDArray[np.number]) -> UInt8Image:
    """Maps values by a table [256] or [256, C]; saturates, then truncates as TF."""
    table = np.clip(table, 0, 255).astype(np.uint8)
    if table.ndim == 1:
        return _shaped(cv2.LUT(image.reshape(image.shape[0], -1), table), image)
    return _shaped(cv2.LUT(image, table[:, None, :]), image)


def _shaped(result: np.ndarray, image: UInt8Image) -> UInt8Image:
    """Gives a result the shape of its image: OpenCV drops a channel axis of one."""
    return result.reshape(image.shape)


def _warp(image: UInt8Image, matrix: np.ndarray) -> UInt8Image:
    """Samples output pixel (x, y) at `matrix @ (x, y, 1)`, nearest neighbour."""
    height, width = image.shape[:2]
    warped = cv2.warpAffine(
        image,
        matrix,
        (width, height),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(FILL, FILL, FILL),
    )
    return _shaped(warped, image)


def _to_pil(image: UInt8Image) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _from_pil(image: Image.Image) -> UInt8Image:
    return with_channels(np.array(image))  # a copy: PIL's memory would be read-only
