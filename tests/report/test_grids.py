"""Rows of images as one picture."""

import numpy as np
import pytest
from etils import epath
from PIL import Image

from vit_jax.report.grids import draw_grid, rendered, to_pixels, write


def shades(*values):
    return np.full((len(values), 8, 12, 1), np.reshape(values, (-1, 1, 1, 1)), np.uint8)


def test_normalised_images_become_the_pixels_they_were():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    normalised = (pixels / 255.0 - mean) / std
    np.testing.assert_array_equal(to_pixels(normalised, mean, std), pixels)
    beyond = to_pixels(np.array([[[[-9.0], [9.0]]]]), (0.5,), (0.5,))
    assert beyond.ravel().tolist() == [0, 255]


def where(picture, shade):
    """The middle of all pixels of a shade, as row and column."""
    rows, columns = np.nonzero((picture == shade).all(axis=2))
    assert len(rows) > 100, shade
    return rows.mean(), columns.mean()


@pytest.mark.parametrize("captions", [(), ("a", "b", "c"), tuple("abcdef")])
def test_images_stand_in_their_rows(captions):
    figure = draw_grid(
        [("first", shades(40, 90, 140)), ("and\nsecond", shades(60, 110, 180))],
        title="a title",
        captions=captions,
    )
    picture = rendered(figure)
    places = np.array(
        [
            [where(picture, shade) for shade in row]
            for row in ((40, 90, 140), (60, 110, 180))
        ]
    )
    np.testing.assert_allclose(places[0, :, 0], places[0, 0, 0], atol=1)
    np.testing.assert_allclose(places[0, :, 1], places[1, :, 1], atol=1)
    assert (np.diff(places[0, :, 1]) > 20).all()
    assert places[1, 0, 0] - places[0, 0, 0] > 20
    assert picture.min() < 60  # and there are words


def test_nothing_to_draw():
    for rows in ([], [("empty", shades())]):
        with pytest.raises(ValueError, match="no images"):
            draw_grid(rows)


def test_written_pixels_are_read_again(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    path = epath.Path(tmp_path) / "figures" / "one.png"
    write(path, picture)
    with Image.open(path) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), picture)
