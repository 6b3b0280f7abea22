"""The picture of attention: each image beside its own map, in place and in colour."""

import io

import numpy as np
import pytest
from PIL import Image

from vit_jax.report.attention import draw

SIZE = (48, 64)


def images(count, channels=3):
    """Plain images, each of another shade."""
    return [np.full((*SIZE, channels), 90 + 40 * i, np.uint8) for i in range(count)]


def peak(row, column):
    """A map of 3 x 4 patches that is all at one of them."""
    attention = np.full((3, 4), 0.1, np.float32)
    attention[row, column] = 0.7
    return attention


def drawn(images, maps, **changes):
    """The picture as an array."""
    count = len(images)
    words = {"names": ["image.png"] * count, "captions": ["cat  50.0%"] * count}
    stream = io.BytesIO()
    draw(stream, images, maps, **(words | changes))
    with Image.open(stream) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def panels(picture):
    """Left and right panel of a picture of one image, by what is not white."""
    # Titles are above the panels and the scale is below: rows where most is drawn.
    filled = (picture.min(axis=2) < 250).mean(axis=1) > 0.8
    rows = np.flatnonzero(filled)
    columns = np.flatnonzero((picture[rows].min(axis=2) < 250).mean(axis=0) > 0.8)
    gap = np.flatnonzero(np.diff(columns) > 1)
    assert len(gap) == 1
    left, right = columns[: gap[0] + 1], columns[gap[0] + 1 :]
    return picture[rows[:, None], left], picture[rows[:, None], right]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 3), (2, 1), (1, 2)])
def test_the_map_lies_over_the_image(row, column):
    """The brightest place is in the patch of the largest number."""
    left, right = panels(drawn(images(1), [peak(row, column)]))
    assert left.shape[:2] == pytest.approx(right.shape[:2], abs=1)
    height, width = right.shape[:2]
    assert width / height == pytest.approx(4 / 3, rel=0.02)
    bright = right.sum(axis=2)
    y, x = np.unravel_index(bright.argmax(), bright.shape)
    assert (int(3 * y / height), int(4 * x / width)) == (row, column)
    # The image beside it is as it was, and has no colour.
    assert (left[5:-5, 5:-5] == 90).all()
    assert np.ptp(right, axis=2).max() > 60


def test_gray_images_and_flat_maps():
    """A map without differences is least attention everywhere, without a warning."""
    (image,) = images(1, 1)
    image[: SIZE[0] // 2, : SIZE[1] // 2] = 200
    for panel, shades in zip(
        panels(drawn([image], [np.full((3, 4), 0.2, np.float32)])),
        ((200, 90), (70, 31)),
        strict=True,
    ):
        height, width = panel.shape[0] // 2, panel.shape[1] // 2
        quarter = panel[5 : height - 5, 5 : width - 5]
        assert np.ptp(quarter) <= 3 and abs(quarter.mean() - shades[0]) < 4
        for rest in (panel[height + 5 : -5, 5:-5], panel[5:-5, width + 5 : -5]):
            assert np.ptp(rest) <= 3 and abs(rest.mean() - shades[1]) < 4


def test_every_image_has_its_place():
    one = drawn(images(1), [peak(0, 0)])
    five = drawn(images(5), [peak(0, 0)] * 5)
    assert five.shape[1] > 1.8 * one.shape[1] and five.shape[0] > 2 * one.shape[0]
    shades = [tuple(image[0, 0]) for image in images(4)]
    found = {tuple(colour) for colour in np.unique(five.reshape(-1, 3), axis=0)}
    assert found.issuperset(shades)


def test_words_of_all_kinds():
    """Formula signs, letters that the font lacks and long paths are no trouble."""
    plain = drawn(images(1), [peak(0, 0)])
    for name in ("$x_1$", "a$b", "写真.jpg", "x" * 400, ""):
        other = drawn(images(1), [peak(0, 0)], names=[name], captions=[name])
        assert other.shape == plain.shape
        assert (other != plain).any()
        for before, after in zip(panels(plain), panels(other), strict=True):
            np.testing.assert_array_equal(before, after)


def test_what_does_not_fit_together():
    with pytest.raises(ValueError, match="no images"):
        drawn([], [])
    with pytest.raises(ValueError, match="shorter"):
        drawn(images(2), [peak(0, 0)])


def test_draw_writes_a_file(tmp_path):
    path = tmp_path / "attention.png"
    draw(path, images(2), [peak(0, 0)] * 2, names=["a", "b"], captions=["", ""])
    with Image.open(path) as image:
        assert image.format == "PNG"
