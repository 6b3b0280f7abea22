"""Encoded images to pixels; damage is an error, never garbled pixels.

Most decoders return something for a file that is cut short or garbled. Only
simplejpeg's strict mode raises for JPEG, so it goes first; PNG chunks are checked
against their CRC; what PIL reads, it reads to the end or raises.
"""

import functools
import io
import struct
import threading
import warnings
import zlib

import cv2
import numpy as np
from PIL import Image

from vit_jax.data.errors import BadExampleError
from vit_jax.data.image_header import Header, cut_jpeg, read_header
from vit_jax.data.memory import Reusable
from vit_jax.data.pixels import UInt8Image, with_channels

# A few files of photographs have more; a decoder would take 3 bytes a pixel for them.
MAX_PIXELS = 100_000_000

# PIL's own limit, where it is not above ours, refuses what we would refuse.
warnings.simplefilter("error", Image.DecompressionBombWarning)

try:
    import simplejpeg
except ImportError:  # a platform without a wheel
    simplejpeg = None

_MAX_SCRATCH = 1 << 24  # bytes a thread keeps


class _Scratch(threading.local):
    def __init__(self):
        self.memory = Reusable()


_scratch = _Scratch()


def decode(
    image: bytes | np.ndarray,
    *,
    channels: int,
    max_pixels: int = MAX_PIXELS,
    fast: bool = False,
    rows: int | None = None,
) -> UInt8Image:
    """Turns encoded bytes or a pixel array into a uint8 image [H, W, channels].

    EXIF orientation is ignored and alpha is dropped, as TensorFlow does.

    Args:
      image: an encoded JPEG, PNG, WebP, ... file, or uint8 pixels [H, W], [H, W, 1] or
        [H, W, 3] in RGB order. Pixels that already fit are returned as they are.
      channels: 3 for RGB, 1 for gray.
      max_pixels: a file whose header says more is not decoded.
      fast: a JPEG transform with less exact integers, TensorFlow's default: pixels
        differ by 1 of 255 on average.
      rows: how many from the top are needed. More may be returned. Of a JPEG the rest
        is not decoded, and not checked for damage: for files that were decoded before.

    Raises:
      BadExampleError: the bytes are no image, are damaged, or hold too many pixels.
      ValueError: an array of another shape or type.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (gray) or 3 (RGB), got {channels}")
    if isinstance(image, bytes):
        return _decode_bytes(image, channels, max_pixels, fast, rows)
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ValueError(
            "expected uint8 pixels [H, W], [H, W, 1] or [H, W, 3], "
            f"got {image.dtype} {list(image.shape)}"
        )
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] == channels:
        return image
    if image.shape[2] == 1:
        return with_channels(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB))
    if image.shape[2] == 3:
        return with_channels(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    raise ValueError(f"expected 1 or 3 channels, got pixels {list(image.shape)}")


def _decode_bytes(
    data: bytes, channels: int, max_pixels: int, fast: bool, rows: int | None
) -> UInt8Image:
    try:
        header = read_header(data)
        if header is None:
            return _pil(data, channels, max_pixels)
        _check_pixels(header.height, header.width, max_pixels)
        if header.format == "jpeg":
            return _jpeg(data, header, channels, max_pixels, fast, rows)
        if header.format == "png":
            _check_png(data)
        elif header.format != "webp":  # OpenCV returns the rest of a short file as 0
            return _pil(data, channels, max_pixels)
        pixels = _opencv(data, channels)
        return _pil(data, channels, max_pixels) if pixels is None else pixels
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything; it is the file's fault
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadExampleError(
            f"cannot decode image: {len(data)} bytes starting {data[:8]!r}: {reason}"
        ) from error


def _check_pixels(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ValueError(
            f"its header says {width:,} x {height:,} pixels, more than "
            f"{max_pixels:,} (data.max_pixels)"
        )


def _jpeg(
    data: bytes,
    header: Header,
    channels: int,
    max_pixels: int,
    fast: bool,
    rows: int | None,
) -> UInt8Image:
    if simplejpeg is None:
        _say_without_simplejpeg()
        if data.rfind(b"\xff\xd9") < 0:
            raise ValueError("the jpeg file is cut short")
        pixels = _opencv(data, channels)
        return _pil(data, channels, max_pixels) if pixels is None else pixels
    wanted = "RGB" if channels == 3 else "GRAY"
    if rows is not None:
        short = cut_jpeg(data, rows)
        if short is not None:
            buffer = _buffer((short.height, header.width, channels))
            try:
                simplejpeg.decode_jpeg(short.data, wanted, fastdct=fast, buffer=buffer)
            except ValueError as error:
                # The first complaint there is, after the last row: data that are left.
                if str(error).endswith(" extraneous bytes before marker 0xd9"):
                    return buffer[:rows]
    height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    if space in ("CMYK", "YCCK"):
        # simplejpeg converts without the inks' inversion. It finds the damage, though.
        simplejpeg.decode_jpeg(data, "CMYK")
        pixels = _opencv(data, channels)
        return _pil(data, channels, max_pixels) if pixels is None else pixels
    return simplejpeg.decode_jpeg(
        data, wanted, fastdct=fast, buffer=_buffer((height, width, channels))
    )


@functools.cache  # once
def _say_without_simplejpeg() -> None:
    warnings.warn(
        "simplejpeg is not installed: JPEG files are decoded more slowly, and garbled "
        "ones are not noticed",
        stacklevel=2,
    )


def _buffer(shape: tuple[int, int, int]) -> np.ndarray:
    """Where to decode to: this thread's own memory again, or new."""
    if shape[0] * shape[1] * shape[2] > _MAX_SCRATCH:
        return np.empty(shape, np.uint8)
    return _scratch.memory.take(shape)


def _check_png(data: bytes) -> None:
    """Raises ValueError unless every chunk to the last is there with its CRC."""
    at = 8
    while True:
        if at + 12 > len(data):
            raise ValueError("the png file is cut short")
        length = struct.unpack_from(">I", data, at)[0]
        end = at + 12 + length
        if end > len(data):
            raise ValueError("the png file is cut short")
        crc = struct.unpack_from(">I", data, end - 4)[0]
        if zlib.crc32(memoryview(data)[at + 4 : end - 4]) != crc:
            raise ValueError(f"a png chunk at byte {at} does not match its CRC")
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end


def _opencv(data: bytes, channels: int) -> UInt8Image | None:
    """Pixels, or None where OpenCV cannot."""
    flags = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
    flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return None if pixels is None else with_channels(pixels)


def _pil(data: bytes, channels: int, max_pixels: int) -> UInt8Image:
    if (Image.MAX_IMAGE_PIXELS or max_pixels) < max_pixels:
        Image.MAX_IMAGE_PIXELS = max_pixels  # ours decides, also where it is larger
    try:
        with Image.open(io.BytesIO(data)) as opened:
            _check_pixels(opened.height, opened.width, max_pixels)
            pixels = np.array(opened.convert("RGB" if channels == 3 else "L"))
    except Image.UnidentifiedImageError:
        raise ValueError("in no format that is known here, or damaged") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(
            f"it says it has more than {max_pixels:,} pixels (data.max_pixels)"
        ) from None
    return with_channels(pixels)
