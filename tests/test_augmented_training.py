"""Training with every augmentation that the step knows, and views through the parts."""

import functools

import jax
import numpy as np
import pytest

from tests import training
from vit_jax import setup, setup_data

EVERYTHING = (
    "data.augment.policy=three_augment",
    "data.augment.color_jitter=0.3",
    "data.augment.crop=simple",
    "data.augment.pad=2",
    "data.augment.flip=True",
    "data.augment.mixup=0.8",
    "data.augment.cutmix=1.0",
    "data.augment.mix_per=example",
    "data.augment.mix_prob=0.9",
    "data.augment.erase=0.5",
)


@functools.cache
def losses(num_devices, *changes):
    config = training.tiny_config(*EVERYTHING, *changes)
    parts = training.build(config, devices=jax.devices()[:num_devices])
    _, values, _ = training.run_steps(parts, 4)
    return values


@pytest.mark.slow  # two compilations of a whole step
def test_eight_devices_train_as_one_does():
    np.testing.assert_allclose(losses(8), losses(1), rtol=1e-5)
    assert len(set(losses(1))) == 4


@pytest.mark.parametrize(
    "change",
    [
        "data.augment.cutmix=0.0",
        "data.augment.mix_per=batch",
        "data.augment.erase=0.0",
        "data.augment.erase_fill=zero",
        "data.augment.mix_prob=0.1",
        "data.augment.mix_switch=1.0",
    ],
)
def test_each_setting_reaches_the_step(change):
    config = training.tiny_config(*EVERYTHING, change)
    usual = training.tiny_config(*EVERYTHING)
    rng = np.random.default_rng(0)
    batch = {
        "image": jax.numpy.asarray(rng.integers(0, 256, (16, 8, 8, 1), np.uint8)),
        "label": jax.numpy.asarray(rng.integers(0, 10, 16), jax.numpy.int32),
    }
    changed, expected = (
        jax.jit(setup.build_prepare(each))(batch, jax.random.key(0))
        for each in (config, usual)
    )
    assert not np.array_equal(changed["images"], expected["images"])


def test_loader_gives_what_the_config_asks_for():
    config = training.tiny_config(*EVERYTHING)
    parts = training.build(config, devices=jax.devices()[:2])
    with config.unlocked():
        config.data.augment.views = 2
    loader = setup_data.build_loader(config, parts.mesh)
    try:
        batch = loader.batch(np.arange(16), 0)
    finally:
        loader.close()
    assert batch["image"].shape == (16, 2, 8, 8, 1)
    prepared = jax.jit(setup.build_prepare(config))(batch, jax.random.key(0))
    assert prepared["images"].shape == (16, 2, 8, 8, 1)
    assert prepared["labels"].shape == (16, 10)
