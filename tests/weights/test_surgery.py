"""Weights to another grid, patch size, head or prefix, and into shards."""

import jax
import numpy as np
import pytest

from tests.foreign import torch
from tests.models import tiny
from vit_jax import sharding
from vit_jax.models import position
from vit_jax.models.vit import ViT
from vit_jax.weights.base import complete
from vit_jax.weights.build import build
from vit_jax.weights.files import WeightsError
from vit_jax.weights.surgery import fit
from vit_jax.weights.table import constant, whole


def random_leaves(**changes):
    """Settings and leaves of a tiny ViT with random parameters."""
    settings = complete(tiny.settings(**changes))
    _, shapes = tiny.vit_shapes(**changes)
    params = tiny.flatten(tiny.fill(shapes))
    return settings, {path: constant(array) for path, array in params.items()}


def model_of(settings, leaves, **kwargs):
    return build(lambda key: ViT(**settings, key=key), leaves, **kwargs)


def logits(settings, leaves, images):
    model, missing, unplaced = model_of(settings, leaves)
    assert not missing and not unplaced
    return np.asarray(tiny.jit(lambda images: model(images))(images))


def torch_bicubic(table, old, new):
    grid = torch.tensor(table).reshape(1, *old, -1).permute(0, 3, 1, 2)
    out = torch.nn.functional.interpolate(
        grid, size=new, mode="bicubic", antialias=True, align_corners=False
    )
    return out.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1).numpy()


@pytest.mark.parametrize("size", [(24, 40), (8, 15), (12, 30)])
@pytest.mark.parametrize(
    ("kind", "rows"), [("learned", 0), ("learned_cls", 1), ("learned_prefix", 3)]
)
def test_positions_are_resampled_and_prefix_rows_are_not(size, kind, rows):
    changes = {"cls_token": True, "registers": 2, "position": kind}
    settings, leaves = random_leaves(**changes)
    old = whole(leaves["position_embedding"])
    fitted, changed = fit(settings, leaves, settings | {"image_size": size})
    new = whole(fitted["position_embedding"])
    grid = (size[0] // 4, size[1] // 5)
    np.testing.assert_array_equal(new[:, :rows], old[:, :rows])
    expected = torch_bicubic(old[:, rows:], (3, 4), grid)
    np.testing.assert_allclose(new[:, rows:], expected, atol=1e-5)
    # The two axes of the grid are not interchangeable.
    if grid[0] != grid[1]:
        other = torch_bicubic(old[:, rows:], (4, 3), grid)
        assert np.abs(new[:, rows:] - other).max() > 0.05
    assert list(changed) == ["position_embedding"]
    assert f"to {kind} on {grid[0]}x{grid[1]}" in changed["position_embedding"]
    images = tiny.images(image_size=size)
    assert logits(settings | {"image_size": size}, fitted, images).shape == (2, 7)


def test_the_same_model_is_left_alone():
    settings, leaves = random_leaves(cls_token=True, position="learned_cls")
    fitted, changed = fit(settings, leaves, settings | {"dropout": 0.5})
    assert not changed and all(fitted[path] is leaf for path, leaf in leaves.items())


def test_fixed_positions_become_a_table_of_themselves():
    settings, leaves = random_leaves(position="sincos2d")
    target = settings | {"position": "learned", "image_size": (24, 20)}
    fitted, _ = fit(settings, leaves, target)
    expected = position.sincos2d(6, 4, 24)[None]
    np.testing.assert_array_equal(whole(fitted["position_embedding"]), expected)


@pytest.mark.parametrize("to", ["learned", "learned_cls"])
def test_rows_of_the_prefix_fold_into_its_tokens_and_come_back_as_zeros(to):
    start = "learned_cls" if to == "learned" else "learned"
    settings, leaves = random_leaves(cls_token=True, position=start, pool="cls")
    target = settings | {"position": to}
    fitted, _ = fit(settings, leaves, target)
    images = tiny.images()
    before, after = logits(settings, leaves, images), logits(target, fitted, images)
    np.testing.assert_allclose(after, before, atol=1e-5)
    if to == "learned":  # and without the fold the logits are others
        unfolded = fitted | {"cls": leaves["cls"]}
        assert np.abs(logits(target, unfolded, images) - before).max() > 1e-3


def test_the_patch_kernel_is_resized_so_that_enlarged_patches_look_the_same():
    settings, leaves = random_leaves()
    target = settings | {"patch_size": (8, 10), "image_size": (24, 40)}
    fitted, changed = fit(settings, leaves, target)
    assert list(changed) == ["embedding/kernel"]  # the grid stayed
    small = tiny.images()
    # Each patch enlarged by itself, so that nothing leaks over its borders.
    patches = torch.tensor(np.array(small)).reshape(2, 3, 4, 4, 5, 3)
    patches = patches.permute(0, 1, 3, 5, 2, 4).reshape(-1, 3, 4, 5)
    large = torch.nn.functional.interpolate(patches, size=(8, 10), mode="bilinear")
    large = large.reshape(2, 3, 4, 3, 8, 10).permute(0, 1, 4, 2, 5, 3)
    large = large.reshape(2, 24, 40, 3).numpy()
    before, after = logits(settings, leaves, small), logits(target, fitted, large)
    np.testing.assert_allclose(after, before, atol=2e-4)


@pytest.mark.parametrize("classes", [0, 3])
def test_a_head_of_another_size_is_left_out(classes):
    settings, leaves = random_leaves(final_norm="both")
    target = settings | {"num_classes": classes}
    fitted, _ = fit(settings, leaves, target)
    assert leaves.keys() - fitted.keys() == {"head/kernel", "head/bias"}
    model, missing, _ = model_of(target, fitted)
    expected = {"head/kernel", "head/bias"} if classes else set()
    assert set(missing) == expected
    if classes:
        assert not np.any(np.asarray(model.head.kernel[...]))


def test_registers_and_a_distillation_token_are_added():
    settings, leaves = random_leaves(cls_token=True, position="learned_cls", pool="cls")
    target = settings | {"registers": 2, "distillation": "head"}
    fitted, _ = fit(settings, leaves, target)
    rows = whole(fitted["position_embedding"])
    assert rows.shape == (1, 14, 24) and not np.any(rows[:, 1])
    np.testing.assert_array_equal(
        rows[:, 2:], whole(leaves["position_embedding"])[:, 1:]
    )
    model, missing, unplaced = model_of(target, fitted)
    new = {"registers", "distillation", "head_distillation/kernel"}
    assert new | {"head_distillation/bias"} == set(missing) and not unplaced
    assert np.isfinite(np.asarray(model(tiny.images()))).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 32, "num_heads": 4}, "width is 24 in the weights, 32 in the model"),
        ({"activation": "gelu"}, "activation is 'gelu_tanh' in the weights"),
        ({"norm_epsilon": 1e-5}, "norm_epsilon is 1e-06 in the weights"),
        ({"layer_scale": 0.1}, r"layer_scale is 0.0 in the weights, 0.1"),
        ({"position": "sincos2d"}, "position is 'learned' in the weights"),
        ({"image_size": (13, 20)}, r"\(13, 20\) is not divisible"),
    ],
)
def test_what_no_surgery_changes_is_named(change, message):
    settings, leaves = random_leaves()
    with pytest.raises(WeightsError, match=message):
        fit(settings, leaves, settings | change)


def test_registers_are_not_taken_away():
    settings, leaves = random_leaves(registers=2)
    with pytest.raises(WeightsError, match="registers is 2 in the weights, 0"):
        fit(settings, leaves, settings | {"registers": 0})


def test_changed_weights_go_into_their_shards():
    mesh = sharding.build_mesh(slices=1, data=2, fsdp=4, tensor=1, sequence=1)
    settings, leaves = random_leaves(cls_token=True, position="learned_cls")
    target = settings | {"image_size": (24, 20), "num_classes": 4}
    fitted, _ = fit(settings, leaves, target)
    one, *_ = model_of(target, fitted)
    many, *_ = model_of(target, fitted, mesh=mesh)
    kernel = many.blocks.mlp.hidden.kernel[...]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))
