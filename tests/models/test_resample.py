"""Resized tables and patch kernels against torch, and the law PI-resizing obeys."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import tiny
from vit_jax.models.resample import (
    METHODS,
    pi_resize,
    resize_grid,
    resize_matrix,
    resize_positions,
)

TOLERANCE = 1e-5
WIDTH = 6

# Enlarged, shrunk, one axis each way, by nearly nothing, to one row and from one.
GRIDS = [
    ((3, 4), (7, 5)),
    ((7, 9), (3, 4)),
    ((3, 8), (6, 5)),
    ((14, 14), (13, 15)),
    ((5, 6), (1, 2)),
    ((1, 2), (4, 3)),
]
FORMS = list(itertools.product(METHODS, [True, False]))


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def torch_resize(images, size, method, antialias):
    """torch's interpolation of [B, H, W, C]."""
    torch = pytest.importorskip("torch")
    planes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))
    resized = torch.nn.functional.interpolate(
        planes, size=size, mode=method, antialias=antialias, align_corners=False
    )
    return np.moveaxis(resized.numpy(), 1, -1)


@pytest.mark.parametrize(("method", "antialias"), FORMS)
@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_grid_equals_torch(old, new, method, antialias):
    table = random(1, old[0] * old[1], WIDTH)
    found = resize_grid(table, old, new, method=method, antialias=antialias)
    expected = torch_resize(table.reshape(1, *old, WIDTH), new, method, antialias)
    assert found.shape == (1, new[0] * new[1], WIDTH)
    np.testing.assert_allclose(
        found, expected.reshape(found.shape), atol=TOLERANCE, rtol=0
    )


def test_the_forms_differ():
    table = random(1, 63, WIDTH)
    forms = [
        resize_grid(table, (7, 9), (3, 4), method=method, antialias=antialias)
        for method, antialias in FORMS
    ]
    for one, other in itertools.combinations(forms, 2):
        assert tiny.error(one, other) > 1e-2
    default = resize_grid(table, (7, 9), (3, 4))
    np.testing.assert_array_equal(default, forms[FORMS.index(("bicubic", True))])


@pytest.mark.parametrize(("method", "antialias"), FORMS)
def test_matrix_of_the_same_size_is_the_identity(method, antialias):
    np.testing.assert_array_equal(resize_matrix(5, 5, method, antialias), np.eye(5))


def test_equal_grids_are_untouched():
    table = random(1, 12, WIDTH)
    np.testing.assert_array_equal(resize_grid(table, (3, 4), (3, 4)), table)


def test_traced_tables():
    table = jnp.asarray(random(1, 13, WIDTH))
    found = tiny.jit(lambda table: resize_positions(table, (3, 4), (5, 6)))(table)
    expected = resize_positions(table, (3, 4), (5, 6))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_prefix_rows_are_kept(prefix):
    table = random(1, prefix + 12, WIDTH)
    found = resize_positions(table, (3, 4), (5, 2), method="bilinear", antialias=False)
    np.testing.assert_array_equal(found[:, :prefix], table[:, :prefix])
    expected = torch_resize(
        table[:, prefix:].reshape(1, 3, 4, WIDTH), (5, 2), "bilinear", False
    )
    np.testing.assert_allclose(
        found[:, prefix:], expected.reshape(1, 10, WIDTH), atol=TOLERANCE, rtol=0
    )


def test_table_shorter_than_the_grid():
    with pytest.raises(ValueError, match=r"11 rows.*\(3, 4\)"):
        resize_positions(random(1, 11, WIDTH), (3, 4), (5, 5))


def test_unknown_method():
    with pytest.raises(ValueError, match=r"'nearest'.*bilinear, bicubic"):
        resize_grid(random(1, 12, WIDTH), (3, 4), (5, 5), method="nearest")


def tokens(patch, kernel):
    """What a patch embedding makes of one patch."""
    return np.einsum("hwc,hwcd->d", patch, np.asarray(kernel))


@pytest.mark.parametrize(
    ("old", "new"), [((4, 5), (8, 10)), ((4, 5), (5, 6)), ((3, 2), (3, 9))]
)
def test_enlarged_patches_give_the_same_tokens(old, new):
    patch, kernel = random(*old, 3), random(*old, 3, WIDTH, seed=1)
    enlarged = torch_resize(patch[None], new, "bilinear", antialias=False)[0]
    found = pi_resize(kernel, new)
    assert found.shape == (*new, 3, WIDTH)
    expected = tokens(patch, kernel)
    np.testing.assert_allclose(
        tokens(enlarged, found), expected, atol=TOLERANCE, rtol=TOLERANCE
    )
    resized = np.moveaxis(kernel, 2, 0)  # bilinear resizing alone has no such law
    resized = np.moveaxis(torch_resize(resized, new, "bilinear", False), 0, 2)
    assert tiny.error(tokens(enlarged, resized), expected) > 0.1


@pytest.mark.parametrize("new", [(8, 10), (3, 4), (2, 7), (6, 3)])
def test_pi_resize_equals_the_pseudo_inverse_of_all_pixels(new):
    old = (5, 6)
    kernel = random(*old, 3, WIDTH)
    basis = np.eye(30, dtype=np.float32).reshape(30, *old, 1)
    resized = torch_resize(basis, new, "bilinear", antialias=False)
    matrix = resized.reshape(30, -1).astype(np.float64)  # [old pixels, new pixels]
    # A form that shrinks one axis and enlarges the other is singular, but for the
    # rounding of torch's float32 weights.
    inverse = np.linalg.pinv(matrix, rcond=1e-5)
    expected = inverse @ kernel.reshape(30, -1)
    found = pi_resize(kernel, new)
    np.testing.assert_allclose(
        found, expected.reshape(*new, 3, WIDTH), atol=TOLERANCE, rtol=TOLERANCE
    )


def test_pi_resize_equals_timm():
    from tests import foreign

    kernel = random(4, 5, 3, WIDTH)
    expected = foreign.timm.layers.resample_patch_embed(
        foreign.torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))),
        [7, 6],
        interpolation="bilinear",
        antialias=False,
    )
    found = pi_resize(kernel, (7, 6))
    np.testing.assert_allclose(
        found, expected.numpy().transpose(2, 3, 1, 0), atol=TOLERANCE, rtol=0
    )


def test_kernel_of_the_same_size_is_untouched():
    kernel = random(4, 5, 3, WIDTH)
    np.testing.assert_array_equal(pi_resize(kernel, (4, 5)), kernel)


def test_traced_kernels_have_gradients():
    kernel = jnp.asarray(random(4, 5, 3, WIDTH))
    resize = tiny.jit(lambda kernel: pi_resize(kernel, (6, 8)))
    np.testing.assert_allclose(resize(kernel), pi_resize(kernel, (6, 8)), atol=1e-6)
    gradient = tiny.jit(jax.grad(lambda kernel: pi_resize(kernel, (6, 8)).sum()))
    assert np.all(np.isfinite(gradient(kernel)))
    assert np.abs(gradient(kernel)).max() > 0.1
