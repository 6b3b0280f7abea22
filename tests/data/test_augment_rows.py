"""Augmented batches: a row is a function of (seed, step, row), on any mesh."""

import jax
import numpy as np
import pytest

from vit_jax import sharding
from vit_jax.data import augment
from vit_jax.data.pipeline import Loader

BATCH = 16


class Noise:
    """Twenty images of two sizes."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        shape = (20, 30, 3) if index % 2 else (33, 21, 3)
        pixels = np.random.default_rng(index).integers(0, 256, shape, np.uint8)
        return {"image": pixels, "label": index}

    def where(self, index):
        return f"noise, image {index}"


def rows(num_devices, *, views, step=3, seed=0, threads=2, **changes):
    settings = {
        "image_size": (16, 16),
        "channels": 3,
        "crop": "inception",
        "area": (0.3, 1.0),
        "resize": (20, 20),
        "pad": 2,
        "policy": "randaugment",
        "randaugment_layers": 2,
        "randaugment_magnitude": 9,
        "color_jitter": 0.3,
    }
    mesh = sharding.build_mesh(
        slices=1,
        data=num_devices,
        fsdp=1,
        tensor=1,
        sequence=1,
        devices=jax.devices()[:num_devices],
    )
    loader = Loader(
        Noise(),
        augment.train_transform(**(settings | changes), views=views),
        sharding=sharding.batch_sharding(mesh),
        batch_size=BATCH,
        seed=seed,
        threads=threads,
    )
    try:
        ids = np.arange(BATCH) % 4  # copies of an image differ by their row alone
        return np.asarray(loader.batch(ids, step * BATCH)["image"])
    finally:
        loader.close()


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("policy", ["randaugment", "autoaugment", "three_augment"])
def test_rows_are_the_same_on_any_mesh(policy, views):
    expected = rows(1, views=views, policy=policy, threads=1)
    axes = (views,) if views > 1 else ()
    assert expected.shape == (BATCH, *axes, 16, 16, 3)
    for num_devices in (2, 8):
        batch = rows(num_devices, views=views, policy=policy)
        np.testing.assert_array_equal(batch, expected)


def test_rows_differ_by_row_step_and_seed():
    batch = rows(8, views=1)
    assert len({row.tobytes() for row in batch}) == BATCH
    for change in ({"step": 4}, {"seed": 1}):
        assert not np.array_equal(rows(8, views=1, **change), batch)
