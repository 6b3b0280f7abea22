"""Arrays in the tiles of a chip, as the TPU compiler lays them out."""

import math

import pytest

from vit_jax.plan.chips import BY_KIND
from vit_jax.plan.tiles import activation_bytes, argument_bytes

TPU, GPU = BY_KIND["v5e"], BY_KIND["h100"]


@pytest.mark.parametrize(
    ("shape", "itemsize", "padded"),
    [
        ((64, 196, 768), 4, 64 * 200 * 768 * 4),
        ((64, 196, 12, 64), 2, 64 * 12 * 64 * 256 * 2),  # tokens minor
        ((64, 196, 12, 1, 64), 2, 64 * 12 * 64 * 256 * 2),
        ((64, 12, 196, 196), 4, 64 * 12 * 200 * 256 * 4),
        ((64, 196, 16, 128), 2, 64 * 196 * 16 * 128 * 2),  # heads next
        ((384,), 4, 384 * 4),
    ],
)
def test_activations_of_the_compiler(shape, itemsize, padded):
    assert activation_bytes(shape, itemsize, TPU) == padded
    assert activation_bytes(shape, itemsize, GPU) <= padded


def test_heads_of_a_kernel_keep_their_order():
    shape = (32, 12, 1152, 64)
    assert activation_bytes(shape, 2, TPU) == 32 * 12 * 1152 * 64 * 2
    assert activation_bytes(shape, 2, TPU, ordered=True) == 32 * 12 * 1152 * 128 * 2


@pytest.mark.parametrize(
    ("shape", "padded"),
    [
        ((24, 64, 16, 64), 24 * 64 * 16 * 128 * 4),
        ((12, 1536, 6), 12 * 8 * 1536 * 4),
        ((64, 224, 224, 3), 64 * 224 * 256 * 3 * 4),
        ((12, 768, 12, 64), 12 * 768 * 12 * 64 * 4),  # nothing is filled up
        ((1,), 4),
    ],
)
def test_arguments_lie_as_is_best(shape, padded):
    assert argument_bytes(shape, 4, TPU) == padded
    assert argument_bytes(shape, 4, GPU) == 4 * math.prod(shape)
