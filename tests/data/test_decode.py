"""Damage is an error, dimensions are read before decoding, memory is not shared."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from vit_jax.data import decode as module
from vit_jax.data.decode import decode
from vit_jax.data.errors import BadExampleError
from vit_jax.data.image_header import read_header

FORMATS = {
    "jpeg": ("JPEG", {"quality": 90}),
    "progressive": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "bmp": ("BMP", {}),
    "gif": ("GIF", {}),
    "tiff": ("TIFF", {}),
}


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(load_sample_images().images[0]).resize((97, 61))


@pytest.fixture(scope="module")
def files(photo):
    return {name: encode(photo, *arguments) for name, arguments in FORMATS.items()}


def encode(image, file_format, options):
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def outcome(data):
    """Whether the file decodes; anything but pixels or BadExampleError fails."""
    try:
        pixels = decode(data, channels=3)
    except BadExampleError as error:
        return "\n" in str(error)  # a message is one line
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    return True


@pytest.mark.parametrize("name", FORMATS)
def test_every_truncation_is_noticed(files, name):
    data = files[name]
    assert outcome(data)
    cuts = np.linspace(0, len(data) * 0.98, 60).astype(int)
    assert not any(outcome(data[:cut]) for cut in cuts)


def test_a_jpeg_without_its_last_marker_is_truncated(files):
    with pytest.raises(BadExampleError, match="Premature end"):
        decode(files["jpeg"][:-2], channels=3)


def test_bytes_after_the_image_are_no_damage(files):
    for name in ("jpeg", "png"):
        assert outcome(files[name] + b"\0\0")


# Two flips in each of 500 files, of all formats: none crashes, hangs or raises another
# error. In a PNG each is noticed.
def test_damaged_files_decode_or_are_bad_examples(files):
    rng = np.random.default_rng(0)
    names = list(FORMATS)
    for number in range(500):
        name = names[number % len(names)]
        data = bytearray(files[name])
        kind = number // len(names) % 3
        if kind == 0:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        elif kind == 1:
            start = rng.integers(len(data) - 16)
            data[start : start + 16] = rng.bytes(16)
        else:
            data = bytearray(rng.bytes(len(data)))
        good = outcome(bytes(data))
        assert not (good and name == "png" and bytes(data) != files[name])


def test_garbled_scans_of_a_jpeg_are_noticed(files):
    data = files["jpeg"]
    start = data.index(b"\xff\xda") + 20
    rng = np.random.default_rng(1)
    noticed = 0
    for _ in range(50):
        at = rng.integers(start, len(data) - 40)
        noticed += not outcome(data[:at] + rng.bytes(32) + data[at + 32 :])
    assert noticed >= 40  # a decoder that is not strict notices none; 45 were seen


def bomb(name, size=60_000):
    """The first bytes of a file that says it has size x size pixels."""
    if name == "png":
        header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
        crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + crc
    if name == "gif":
        return b"GIF89a" + struct.pack("<HH", size, size) + bytes(10)
    if name == "bmp":
        return b"BM" + bytes(12) + struct.pack("<Iii", 40, size, -size) + bytes(28)
    if name == "webp":
        side = (size - 1).to_bytes(3, "little")
        return b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + side + side + bytes(8)
    frame = struct.pack(">BBHBHHB", 0xFF, 0xC0, 17, 8, size, size, 3) + bytes(9)
    return b"\xff\xd8\xff\xe0\0\x04ab" + frame


@pytest.mark.parametrize("name", ["png", "gif", "bmp", "webp", "jpeg"])
def test_dimensions_are_checked_before_decoding(name):
    with pytest.raises(BadExampleError, match="60,000 x 60,000 pixels, more than"):
        decode(bomb(name), channels=3)


@pytest.mark.parametrize("name", FORMATS)
def test_max_pixels(files, name):
    decode(files[name], channels=3, max_pixels=97 * 61)
    with pytest.raises(BadExampleError, match=r"97 x 61 pixels, more than 5,916"):
        decode(files[name], channels=3, max_pixels=97 * 61 - 1)


@pytest.mark.parametrize("name", [n for n in FORMATS if n != "tiff"])
def test_header(files, name):
    header = read_header(files[name])
    assert header is not None
    assert header == (FORMATS[name][0].lower(), 61, 97)
    for cut in range(3, 30):
        try:
            found = read_header(files[name][:cut])
        except ValueError:
            continue
        assert found is None or found == header


def test_header_of_the_rarer_forms(photo):
    assert read_header(bomb("webp", 5)) == ("webp", 5, 5)
    core = b"BM" + bytes(12) + struct.pack("<IHH", 12, 7, 9)
    assert read_header(core) == ("bmp", 9, 7)
    assert read_header(b"II*\0") is None


@pytest.fixture
def limit_of_pil(monkeypatch):
    def to(value):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", value)

    return to


@pytest.mark.parametrize("name", ["gif", "tiff", "jp2"])
@pytest.mark.parametrize("pixels_of_pil", [97 * 61 - 1, 97 * 61 // 3])
def test_our_limit_decides_and_not_that_of_pil(
    files, photo, limit_of_pil, name, pixels_of_pil
):
    """PIL warns above its limit and raises above twice as much."""
    data = files.get(name) or encode(photo, "JPEG2000", {"irreversible": False})
    limit_of_pil(pixels_of_pil)
    assert decode(data, channels=3, max_pixels=97 * 61).shape == (61, 97, 3)
    for most in (97 * 61 - 1, 97 * 61 // 3):
        limit_of_pil(pixels_of_pil)
        with pytest.raises(BadExampleError, match=r"\(data\.max_pixels\)$"):
            decode(data, channels=3, max_pixels=most)


def test_the_limit_of_pil_is_never_lowered(files, limit_of_pil):
    for value in (1 << 40, None):
        limit_of_pil(value)
        decode(files["tiff"], channels=3)
        assert value == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("name", ["jpeg", "png", "tiff"])
def test_memory_that_is_used_up_is_no_damage(files, monkeypatch, name):
    def fails(*arguments):
        raise MemoryError

    monkeypatch.setattr(module, "_jpeg", fails)
    monkeypatch.setattr(module, "_opencv", fails)
    monkeypatch.setattr(module, "_pil", fails)
    with pytest.raises(MemoryError):
        decode(files[name], channels=3)


def test_cmyk(photo):
    data = encode(photo.convert("CMYK"), "JPEG", {"quality": 95})
    pixels = decode(data, channels=3)
    expected = np.asarray(photo)
    assert np.abs(pixels.astype(int) - expected).mean() < 4  # JPEG's own loss
    with pytest.raises(BadExampleError):
        decode(data[: len(data) // 2], channels=3)


def test_pixels_that_are_looked_at_are_not_written_again(files, photo):
    first = decode(files["jpeg"], channels=3)
    part, kept = first[10:20, 5:9], first[10:20, 5:9].copy()
    address = first.ctypes.data
    del first
    other = encode(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "JPEG", {})
    assert decode(other, channels=3).ctypes.data != address
    np.testing.assert_array_equal(part, kept)


def test_memory_is_used_again(files):
    address = decode(files["jpeg"], channels=3).ctypes.data
    assert decode(files["jpeg"], channels=3).ctypes.data == address


def test_fast_differs_by_little(files):
    exact = decode(files["jpeg"], channels=3).astype(int)
    fast = decode(files["jpeg"], channels=3, fast=True)
    assert 0 < np.abs(exact - fast).mean() < 2


# All ways to store colour, in files with one and with many rows of blocks.
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_upper_rows_are_those_of_the_whole(
    photo, subsampling, channels, progressive
):
    image = photo.resize((131, 203))
    options = {"subsampling": subsampling, "progressive": progressive}
    data = encode(image, "JPEG", options)
    whole = decode(data, channels=channels, fast=True).copy()
    heights = set()
    for rows in range(1, 204):
        part = decode(data, channels=channels, fast=True, rows=rows)
        assert part.shape[0] >= rows
        np.testing.assert_array_equal(part, whole[: len(part)])
        heights.add(part.shape[0])
    assert (min(heights) < 60) == (not progressive)


def test_rows_of_a_damaged_file(files):
    data = files["jpeg"]
    with pytest.raises(BadExampleError):
        decode(data[: len(data) // 4], channels=3, rows=16)


def test_without_simplejpeg(files, monkeypatch):
    monkeypatch.setattr(module, "simplejpeg", None)
    module._say_without_simplejpeg.cache_clear()
    with pytest.warns(UserWarning, match="simplejpeg is not installed"):
        pixels = decode(files["jpeg"], channels=3)
    monkeypatch.undo()
    np.testing.assert_array_equal(pixels, decode(files["jpeg"], channels=3))
    monkeypatch.setattr(module, "simplejpeg", None)
    with pytest.raises(BadExampleError, match="cut short"):  # and it warns only once
        decode(files["jpeg"][:-2], channels=3)


def test_decoding_imports_neither_jax_nor_tensorflow():
    code = (
        "import sys, vit_jax.data.decode, vit_jax.data.rows, vit_jax.data.workers; "
        "assert not {'jax', 'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
