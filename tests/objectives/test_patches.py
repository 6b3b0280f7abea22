"""Targets made of patches, against loops and whole numbers in numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers import patchify
from vit_jax.objectives.patches import (
    coarse_colors,
    color_codes,
    colors_of,
    normalize_patches,
    unpatchify,
)

RNG = np.random.default_rng(0)
HALF = ((0.5,), (0.5,))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def normalized(pixels, mean, std):
    return jnp.asarray((pixels / 255 - np.array(mean)) / np.array(std), jnp.float32)


def test_unpatchify_undoes_patchify():
    images = jnp.asarray(RNG.normal(size=(2, 12, 20, 3)), jnp.float32)
    patches = patchify(images, (4, 5))
    np.testing.assert_array_equal(unpatchify(patches, (3, 4), (4, 5)), images)


def test_patches_are_normalised_one_by_one():
    patches = RNG.normal(3.0, 2.0, size=(2, 5, 12)).astype(np.float32)
    patches[0, 0] = 1.5  # constant: the epsilon keeps it finite
    found, mean, std = normalize_patches(jnp.asarray(patches))
    for row in range(2):
        for number in range(5):
            patch = patches[row, number].astype(np.float64)
            centre = sum(patch) / 12
            variance = sum((value - centre) ** 2 for value in patch) / 11
            expected = (patch - centre) / (variance + 1e-6) ** 0.5
            np.testing.assert_allclose(found[row, number], expected, atol=2e-6)
    np.testing.assert_allclose(found * std + mean, patches, atol=1e-5)


@pytest.mark.parametrize(("mean", "std"), [HALF, IMAGENET], ids=["half", "imagenet"])
@pytest.mark.parametrize("side", [1, 4])
def test_codes_are_the_upper_bits_of_mean_colours(side, mean, std):
    # Grids 2 x 3 of patches 8 x 12: parts of 96 or 6 pixels.
    pixels = RNG.integers(0, 256, (3, 16, 36, 3))
    pixels[1] = RNG.integers(0, 8, (1, 1, 3)) * 32  # on the edge between two levels
    pixels[2] = np.arange(36)[:, None] * 7 + np.arange(3)
    patches = patchify(normalized(pixels, mean, std), (8, 12))
    found = color_codes(coarse_colors(patches, (8, 12), side), mean, std)
    assert found.shape == (3, 6, side * side)
    height, width = 8 // side, 12 // side
    for image in range(3):
        for patch in range(6):
            top, left = patch // 3 * 8, patch % 3 * 12
            for part in range(side * side):
                y, x = top + part // side * height, left + part % side * width
                block = pixels[image, y : y + height, x : x + width].reshape(-1, 3)
                red, green, blue = block.sum(0) // (32 * len(block))
                expected = 64 * red + 8 * green + blue
                assert found[image, patch, part] == expected


def test_every_grey_value_has_its_level():
    for mean, std in (HALF, IMAGENET):
        channels = len(mean)
        grey = np.repeat(np.arange(256)[:, None], channels, axis=1)
        found = color_codes(normalized(grey, mean, std), mean, std)
        weights = sum(8**channel for channel in range(channels))
        np.testing.assert_array_equal(found, weights * (np.arange(256) // 32))


@pytest.mark.parametrize(("mean", "std"), [HALF, IMAGENET], ids=["half", "imagenet"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_codes_colour_is_in_its_middle(channels, mean, std):
    if len(mean) > channels:
        mean, std = mean[:1], std[:1]
    codes = jnp.arange(8**channels)
    colors = colors_of(codes, channels, mean, std)
    assert colors.shape == (8**channels, channels)
    np.testing.assert_array_equal(color_codes(colors, mean, std), codes)
    for shift in (-15.0, 15.0):
        moved = colors + shift / 255 / jnp.asarray(std)
        np.testing.assert_array_equal(color_codes(moved, mean, std), codes)
