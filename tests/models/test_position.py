"""Fixed sine-cosine positions against loops, known values and near misses."""

import numpy as np
import pytest

from tests.models import reference, tiny
from vit_jax.models.position import sincos2d, sincos2d_mae

# Sines and cosines in float32 of arguments up to 40: a rounded argument costs 2e-6.
TOLERANCE = 5e-6

GRIDS = [(3, 4, 24), (4, 3, 24), (1, 7, 8), (7, 1, 16), (14, 14, 64), (2, 40, 12)]


@pytest.mark.parametrize(("height", "width", "dim"), GRIDS)
def test_equals_loops(height, width, dim):
    table = np.asarray(sincos2d(height, width, dim))
    assert table.shape == (height * width, dim)
    assert table.dtype == np.float32
    expected = reference.sincos2d(height, width, dim)
    np.testing.assert_allclose(table, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("height", "width", "dim"), [*GRIDS, (2, 3, 4)])
def test_the_form_of_mae_equals_loops(height, width, dim):
    table = np.asarray(sincos2d_mae(height, width, dim))
    assert table.shape == (height * width, dim)
    assert table.dtype == np.float32
    expected = reference.sincos2d_mae(height, width, dim)
    np.testing.assert_allclose(table, expected, atol=TOLERANCE, rtol=0)


def test_known_values_of_the_form_of_mae():
    # Width 8: frequencies 1 and 1/100; patch (1, 2): sin x, cos x, sin y, cos y.
    x, y = np.asarray([2.0, 0.02]), np.asarray([1.0, 0.01])
    expected = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)])
    np.testing.assert_allclose(sincos2d_mae(2, 3, 8)[5], expected, atol=1e-6, rtol=0)


def test_temperature():
    table = sincos2d(3, 4, 24, temperature=100.0)
    expected = reference.sincos2d(3, 4, 24, temperature=100.0)
    np.testing.assert_allclose(table, expected, atol=TOLERANCE, rtol=0)
    assert tiny.error(table, sincos2d(3, 4, 24)) > 1e-2


def test_known_values():
    # Width 8: frequencies 1 and 1/10000; order sin x, cos x, sin y, cos y.
    one, small = np.sin(1.0), np.sin(1e-4)
    cos, near = np.cos(1.0), np.cos(1e-4)
    expected = [
        [0, 0, 1, 1, 0, 0, 1, 1],
        [one, small, cos, near, 0, 0, 1, 1],
        [0, 0, 1, 1, one, small, cos, near],
        [one, small, cos, near, one, small, cos, near],
    ]
    np.testing.assert_allclose(sincos2d(2, 2, 8), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mistake", ["mae", "rows_first", "transposed"])
def test_would_notice(mistake):
    wrong = reference.SINCOS[mistake](3, 4, 24)
    assert tiny.error(sincos2d(3, 4, 24), wrong) > 1e-2


@pytest.mark.parametrize("dim", [6, 10, 25])
def test_dim_must_divide_by_four(dim):
    for table in (sincos2d, sincos2d_mae):
        with pytest.raises(ValueError, match=str(dim)):
            table(3, 4, dim)
