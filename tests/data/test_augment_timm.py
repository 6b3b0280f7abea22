"""Augmentation against timm: AutoAugment's table, cutmix boxes and random erasing."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import foreign
from vit_jax.data import mixing
from vit_jax.data.erasing import random_erase
from vit_jax.data.policies import IMAGENET_POLICY


def test_imagenet_policy():
    from timm.data.auto_augment import auto_augment_policy_v0

    hparams = {"translate_const": 100, "img_mean": (128, 128, 128)}
    theirs = [
        tuple((op.name.removesuffix("Rel"), op.prob, op.magnitude) for op in pair)
        for pair in auto_augment_policy_v0(hparams)
    ]
    assert tuple(theirs) == IMAGENET_POLICY


@pytest.mark.parametrize(("height", "width"), [(224, 224), (17, 30)])
def test_cutmix_boxes_and_weights(monkeypatch, height, width):
    from timm.data.mixup import cutmix_bbox_and_lam

    rng = np.random.default_rng(0)
    for weight in np.float32([0.0, 0.1, 0.37, 0.75, 0.99, 1.0]):
        centre = rng.random(2).astype(np.float32)
        pixels = [int(centre[0] * height), int(centre[1] * width)]
        monkeypatch.setattr(np.random, "randint", lambda *_, p=pixels, **__: p.pop(0))
        box, corrected = cutmix_bbox_and_lam((3, height, width), weight)
        ours = mixing.cutmix_box(
            jnp.asarray([weight]), jnp.asarray([centre]), height, width
        )
        assert [int(side[0]) for side in ours] == list(box)
        top, bottom, left, right = (int(side[0]) for side in ours)
        area = (bottom - top) * (right - left)
        assert corrected == pytest.approx(1 - area / (height * width))


def test_erased_area():
    from timm.data.random_erasing import RandomErasing

    random.seed(0)
    theirs = foreign.torch.full((3000, 1, 24, 24), 5.0)
    RandomErasing(0.5, mode="const", device="cpu")(theirs)
    images = jnp.full((3000, 24, 24, 1), 5.0)
    ours = random_erase(images, jax.random.key(0), rate=0.5, fill="zero")
    areas = [
        np.sort((np.asarray(values).reshape(3000, -1) == 0).mean(1))
        for values in (theirs, ours)
    ]
    # Kolmogorov and Smirnov: two samples of 3,000, one chance in a thousand.
    grid = np.linspace(0, 1, 1001)
    cumulative = [np.searchsorted(area, grid) / 3000 for area in areas]
    assert np.abs(cumulative[0] - cumulative[1]).max() < 1.95 * (2 / 3000) ** 0.5
