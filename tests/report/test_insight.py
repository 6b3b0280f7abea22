"""What a ViT has learnt: components, similarities, and figures that show them."""

import numpy as np
import pytest

from vit_jax.report import insight
from vit_jax.report.grids import rendered

RNG = np.random.default_rng(0)


def test_components_are_the_directions_that_filters_were_made_of():
    """Filters mixed of two orthogonal patterns, one with four times the weight."""
    patterns = np.linalg.qr(RNG.normal(size=(24, 2)))[0].T  # of 2 x 4 x 3
    weights = RNG.normal(size=(50, 2))
    weights = np.linalg.qr(weights - weights.mean(axis=0))[0] * [4.0, 2.0]  # [D, 2]
    kernel = (weights @ patterns).T.reshape(2, 4, 3, 50) + 7.0  # the mean is no pattern
    found = insight.principal_filters(kernel.astype(np.float32))
    assert found.filters.shape == (24, 2, 4, 3)
    np.testing.assert_allclose(found.shares[:3], [0.8, 0.2, 0.0], atol=1e-5)
    for component, pattern in zip(found.filters, patterns, strict=False):
        component = component.reshape(-1)
        assert abs(component @ pattern) == pytest.approx(1.0, abs=1e-4)
        assert component[np.abs(component).argmax()] > 0
    few = insight.principal_filters(kernel, 2)
    np.testing.assert_allclose(few.filters, found.filters[:2], atol=1e-5)


def test_more_filters_than_pixels_and_fewer():
    for shape in ((2, 2, 1, 50), (4, 4, 3, 5)):
        found = insight.principal_filters(RNG.normal(size=shape), 9)
        assert found.filters.shape == (
            min(shape[-1], np.prod(shape[:3]), 9),
            *shape[:3],
        )
    constant = insight.principal_filters(np.ones((2, 2, 1, 3)))
    assert np.isfinite(constant.filters).all() and not constant.shares.any()


def test_similarity_is_the_cosine():
    positions = RNG.normal(size=(2, 3, 8)) * [[[1.0]], [[9.0]]]
    positions[1, 2] = 0.0
    found = insight.position_similarity(positions)
    assert found.shape == (2, 3, 2, 3)
    one, other = positions[0, 1], positions[1, 0]
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert found[0, 1, 1, 0] == pytest.approx(cosine)
    assert found[0, 1, 0, 1] == pytest.approx(1.0)
    assert not found[1, 2].any()


def colourful(picture):
    """Pixels that are neither white nor gray, by row and column."""
    return np.ptp(picture.astype(int), axis=2) > 60


def test_filters_are_drawn_as_they_are():
    """A component red on the left and its contrary on the right."""
    component = np.zeros((1, 4, 4, 3))
    component[0, :, :2, 0], component[0, :, 2:, 0] = 1.0, -1.0
    picture = rendered(
        insight.draw_filters(insight.Components(component, np.array([1.0])))
    )
    columns = np.flatnonzero(colourful(picture).any(axis=0))
    rows = np.flatnonzero(colourful(picture).any(axis=1))
    drawn = picture[rows[3] : rows[-3], columns[3] : columns[-3]].astype(int)
    left, right = drawn[:, : drawn.shape[1] // 3], drawn[:, -drawn.shape[1] // 3 :]
    assert np.abs(left - [255, 128, 128]).max() <= 1
    assert np.abs(right - [0, 128, 128]).max() <= 1


def test_each_tile_is_brightest_where_its_position_is():
    similarity = np.zeros((3, 3, 3, 3))
    for row in range(3):
        for column in range(3):
            similarity[row, column, row, column] = 1.0
    tiles = insight.draw_positions(similarity).axes[0].images[0].get_array()
    # A tile has 3 cells and a gap; in tile (i, j) it is the cell (i, j).
    expected = [[5 * row, 5 * column] for row in range(3) for column in range(3)]
    assert np.argwhere(tiles.filled(0) == 1.0).tolist() == expected
    assert tiles.shape == (11, 11)
    assert tiles.mask[3].all() and tiles.mask[:, 7].all()


def test_large_grids_are_thinned_out():
    small = rendered(insight.draw_positions(np.ones((14, 14, 14, 14))))
    large = rendered(insight.draw_positions(np.ones((40, 30, 40, 30))))
    assert max(large.shape) < 1.5 * max(small.shape)


def test_distances_are_drawn_by_depth():
    distances = np.array([[2.0, 2.0], [18.0, 18.0]])
    picture = rendered(insight.draw_distances(distances, longest=20.0, images=4))
    dots = colourful(picture)
    columns = np.flatnonzero(dots.any(axis=0))
    middle = (columns[0] + columns[-1]) // 2
    first, second = dots[:, :middle], dots[:, middle:]
    # The first block looks near, the second far: its dots are higher up.
    heights = [np.flatnonzero(part.any(axis=1)).mean() for part in (first, second)]
    assert heights[0] > 2 * heights[1]
