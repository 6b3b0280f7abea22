"""Antialiased preparation against the other library's own."""

import io

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.antialias import FILTERS, antialiased_transform


def photo(height, width, channels=3):
    """Smooth shapes with some noise, so that shifts and filters show."""
    rows, columns = np.mgrid[:height, :width]
    waves = [
        127 + 100 * np.sin(rows / (3 + c)) * np.cos(columns / (5 + c))
        for c in range(channels)
    ]
    noise = np.random.default_rng(0).normal(0, 20, (height, width, channels))
    return np.clip(np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)


def transform(**changes):
    settings = {
        "image_size": (24, 24),
        "channels": 3,
        "resize": 28,
        "interpolation": "bicubic",
    }
    return antialiased_transform(**(settings | changes))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(60, 81), (81, 60), (20, 33), (28, 28)])
def test_equals_torchvision(shape, interpolation):
    from tests import foreign  # noqa: F401  makes torchvision import, or skips

    transforms = pytest.importorskip("torchvision.transforms")
    composed = transforms.Compose(
        [
            transforms.Resize(28, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(24),
        ]
    )
    image = photo(*shape)
    expected = np.asarray(composed(Image.fromarray(image)))
    actual = transform(interpolation=interpolation)(image)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("shape", [(2, 60_000), (60_000, 2)])
def test_an_extremely_long_image_takes_little_memory(shape, monkeypatch):
    sizes = []
    original = Image.Image.resize

    def resize(self, size, *arguments):
        assert size[0] * size[1] < 1_000_000, "would take megabytes"
        sizes.append(size)
        return original(self, size, *arguments)

    monkeypatch.setattr(Image.Image, "resize", resize)
    crop = transform()(np.full((*shape, 3), 77, np.uint8))
    assert sizes and crop.shape == (24, 24, 3) and np.all(crop == 77)


def test_equals_pil_without_a_crop():
    image = photo(60, 81)
    expected = Image.fromarray(image).resize((20, 24), Image.Resampling.BILINEAR)
    actual = transform(resize=0, image_size=(24, 20), interpolation="bilinear")(image)
    np.testing.assert_array_equal(actual, np.asarray(expected))


def test_area_is_the_mean():
    image = photo(60, 80)
    means = image.reshape(12, 5, 16, 5, 3).mean(axis=(1, 3))
    actual = transform(resize=12, image_size=(12, 16), interpolation="area")(image)
    # PIL rounds after each axis.
    np.testing.assert_allclose(actual, means, atol=1.01)


def test_area_interpolates_when_it_enlarges():
    image = photo(6, 8)
    settings = {"resize": 24, "image_size": (24, 32)}
    area = transform(**settings, interpolation="area")(image)
    bilinear = transform(**settings, interpolation="bilinear")(image)
    np.testing.assert_array_equal(area, bilinear)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(60, 81), (7, 5), (1, 1), (3, 60)])
@pytest.mark.parametrize("resize", [0, 12, 30])
def test_output_form(shape, channels, interpolation, resize):
    prepare = transform(
        image_size=(16, 22),
        channels=channels,
        resize=resize,
        interpolation=interpolation,
    )
    stream = io.BytesIO()
    Image.fromarray(photo(*shape)).save(stream, "PNG")
    for source in (photo(*shape), photo(*shape, 1), stream.getvalue()):
        out = prepare(source)
        assert out.shape == (16, 22, channels) and out.dtype == np.uint8
        assert out.flags.c_contiguous and out.flags.writeable


def test_a_crop_wider_than_the_resized_image_is_filled():
    """No black borders: the image grows until it covers the crop."""
    image = np.full((40, 40, 3), 200, np.uint8)
    out = transform(image_size=(20, 30), resize=22)(image)
    assert (out == 200).all()


def test_an_unknown_interpolation():
    with pytest.raises(ValueError, match="'lanczos' is unknown; known: bilinear,"):
        transform(interpolation="lanczos")
