"""Format and dimensions of an encoded image from its first bytes, nothing decoded.

A file of some kilobytes may claim billions of pixels; the claim is read here, before a
decoder would make room for it.
"""

import struct
from typing import NamedTuple


class Header(NamedTuple):
    """What an image file says of itself."""

    format: str  # jpeg | png | webp | gif | bmp
    height: int
    width: int


def read_header(data: bytes) -> Header | None:
    """The header of a JPEG, PNG, WebP, GIF or BMP file; None for anything else.

    Raises:
      ValueError: the first bytes are of such a file and the dimensions are not there.
    """
    for magic, name, reader in _READERS:
        if data.startswith(magic):
            try:
                height, width = reader(data)
            except (struct.error, IndexError):
                raise ValueError(f"the {name} header is cut short") from None
            if height <= 0 or width <= 0:
                raise ValueError(f"the {name} header says {width} x {height} pixels")
            return Header(name, height, width)
    return None


def _png(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise ValueError("the png file does not begin with its header")
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _gif(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return height, width


def _bmp(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:  # OS/2
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), width  # a negative height: rows from the top down


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if data[8:12] != b"WEBP" or kind not in (b"VP8 ", b"VP8L", b"VP8X"):
        raise ValueError("a RIFF file that holds no WebP image")
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    width = int.from_bytes(data[24:27], "little") + 1
    height = int.from_bytes(data[27:30], "little") + 1
    if len(data) < 30:
        raise IndexError
    return height, width


def _jpeg(data: bytes) -> tuple[int, int]:
    height, width = struct.unpack_from(">HH", data, _find_frame(data) + 5)
    return height, width


def _find_frame(data: bytes) -> int:
    """Where the first frame header (SOF) of a JPEG is, walking over its segments."""
    at = 2
    while True:
        if data[at] != 0xFF:
            raise ValueError(f"the jpeg header is garbled at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _JPEG_SOF:
            return at
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # without a length
            at += 2
        elif marker in (0xD9, 0xDA):
            raise ValueError("the jpeg file has no frame header")
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]


class ShortJpeg(NamedTuple):
    """A JPEG that ends after some of its rows."""

    data: bytes
    height: int


def cut_jpeg(data: bytes, rows: int) -> ShortJpeg | None:
    """A sound JPEG that claims to end soon after ``rows`` rows; None if it cannot.

    The rows are those of the whole: coded from the top down, and colour, where it is
    of half the resolution, is interpolated from one row further on.
    """
    at = _find_frame(data)
    height, parts = struct.unpack_from(">H", data, at + 5)[0], data[at + 9]
    tallest = max(data[at + 11 + 3 * part] & 15 for part in range(parts))
    short = -(-(rows + 1) // 16) * 16
    # Baseline alone is coded from the top down; restart markers would be left over.
    if data[at + 1] not in (0xC0, 0xC1) or parts > 3 or tallest > 2:
        return None
    if short >= height:
        return None
    if data.find(b"\xff\xdd", 0, data.find(b"\xff\xda", at)) >= 0:
        return None
    head, rest = data[: at + 5], memoryview(data)[at + 7 :]
    return ShortJpeg(b"".join((head, short.to_bytes(2, "big"), rest)), short)


_JPEG_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

_READERS = (
    (b"\xff\xd8\xff", "jpeg", _jpeg),
    (b"\x89PNG\r\n\x1a\n", "png", _png),
    (b"RIFF", "webp", _webp),
    (b"GIF87a", "gif", _gif),
    (b"GIF89a", "gif", _gif),
    (b"BM", "bmp", _bmp),
)
