"""The order of examples, the rows' randomness, loading and prefetching."""

import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax import sharding as shardings
from vit_jax.data import pipeline


class Numbers:
    """Row i is an image filled with i, of label i."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        assert 0 <= index < self.size
        return {"image": np.full((4, 4, 3), index, np.uint8), "label": index}

    def where(self, index):
        return f"numbers, record {index}"


def augment(image, rng):
    """Keeps the example's number in channel 0 and puts noise into the others."""
    noise = rng.integers(0, 256, image.shape, np.uint8)
    noise[..., 0] = image[..., 0]
    return noise


def over(num_devices):
    mesh = shardings.build_mesh(
        slices=1,
        data=num_devices,
        fsdp=1,
        tensor=1,
        sequence=1,
        devices=jax.devices()[:num_devices],
    )
    return shardings.batch_sharding(mesh)


@pytest.fixture
def make_loader():
    loaders = []

    def make(size=50, *, devices=1, batch_size=16, seed=3, threads=2):
        loader = pipeline.Loader(
            Numbers(size),
            augment,
            sharding=over(devices),
            batch_size=batch_size,
            seed=seed,
            threads=threads,
        )
        loaders.append(loader)
        return loader

    yield make
    for loader in loaders:
        loader.close()


def ids_of(steps, *, seed=0, batch_size=8, num_examples=21, shuffle=True):
    return np.concatenate(
        [
            pipeline.example_ids(
                step,
                seed=seed,
                batch_size=batch_size,
                num_examples=num_examples,
                shuffle=shuffle,
            )
            for step in steps
        ]
    )


# Batches that divide the epoch, that do not, and that are longer than several epochs.
@pytest.mark.parametrize("batch_size", [7, 8, 21, 50])
def test_each_epoch_is_a_permutation(batch_size):
    epochs = 4
    steps = -(-epochs * 21 // batch_size)
    ids = ids_of(range(steps), batch_size=batch_size)[: epochs * 21]
    ids = ids.reshape(epochs, 21)
    np.testing.assert_array_equal(np.sort(ids), np.tile(np.arange(21), (epochs, 1)))
    assert len({tuple(epoch) for epoch in ids}) == epochs
    assert tuple(range(21)) not in {tuple(epoch) for epoch in ids}


def test_order_is_the_same_for_any_batch_size():
    expected = ids_of(range(10), batch_size=8)
    np.testing.assert_array_equal(ids_of(range(16), batch_size=5), expected)


def test_order_depends_on_the_seed_alone():
    first = ids_of(range(6), seed=1)
    assert not np.array_equal(first, ids_of(range(6), seed=2))
    pipeline.epoch_order.cache_clear()
    backwards = [ids_of([step], seed=1) for step in reversed(range(6))]
    np.testing.assert_array_equal(np.concatenate(backwards[::-1]), first)


def test_without_shuffling_ids_are_in_order():
    ids = ids_of(range(6), shuffle=False)
    np.testing.assert_array_equal(ids, np.arange(48) % 21)


def test_callers_cannot_change_a_shared_order():
    with pytest.raises(ValueError, match="read-only"):
        pipeline.epoch_order(0, 0, 10)[0] = 1


# Once a row's key passed through float64, and large seeds or positions lost their end.
@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**53 + 1])
@pytest.mark.parametrize("start", [0, 4096, 2**31, 2**53, 2**60])
def test_every_row_has_randomness_of_its_own(seed, start):
    draws = {
        tuple(pipeline.row_rng(seed, start + row).integers(0, 2**32, 4))
        for row in range(64)
    }
    assert len(draws) == 64
    again = tuple(pipeline.row_rng(seed, start + 63).integers(0, 2**32, 4))
    assert again in draws
    assert tuple(pipeline.row_rng(seed + 1, start).integers(0, 2**32, 4)) not in draws


def test_rows_and_order_do_not_share_randomness():
    row = pipeline.row_rng(0, 0).permutation(100)
    assert not np.array_equal(row, pipeline.epoch_order(0, 0, 100))


@pytest.mark.parametrize(("devices", "threads"), [(1, 4), (8, 1), (8, 4)])
def test_batches_are_the_same_on_any_devices_and_threads(make_loader, devices, threads):
    ids = np.arange(16)[::-1]
    expected = make_loader(devices=1, threads=1).batch(ids, 32)
    batch = make_loader(devices=devices, threads=threads).batch(ids, 32)
    assert len(batch["image"].sharding.device_set) == devices
    assert len(batch["image"].addressable_shards) == devices
    assert batch["image"].dtype == np.uint8
    assert batch["image"].shape == (16, 4, 4, 3)
    assert batch["label"].dtype == np.int32
    for key, value in expected.items():
        np.testing.assert_array_equal(batch[key], value)


def test_a_row_depends_on_seed_and_position_alone(make_loader):
    ids = np.zeros(16, np.int64)
    images = np.asarray(make_loader().batch(ids, 32)["image"])
    assert len({image.tobytes() for image in images}) == 16
    for row in (0, 1, 15):
        expected = augment(np.zeros((4, 4, 3), np.uint8), pipeline.row_rng(3, 32 + row))
        np.testing.assert_array_equal(images[row], expected)
    # The same positions as parts of other batches.
    shifted = np.asarray(make_loader().batch(ids, 40)["image"])
    np.testing.assert_array_equal(shifted[:8], images[8:])
    assert not np.array_equal(make_loader(seed=4).batch(ids, 32)["image"], images)


def test_label_and_image_stay_together(make_loader):
    ids = np.asarray([7, 0, 49, 3] * 4)
    batch = make_loader(devices=8).batch(ids, 0)
    np.testing.assert_array_equal(batch["label"], ids)
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], ids)


def test_an_error_in_a_thread_is_raised(make_loader):
    with pytest.raises(AssertionError):
        make_loader(size=5).batch(np.arange(16), 0)


def test_local_ranges():
    assert pipeline.local_ranges(over(1), 16) == [(0, 16)]
    eight = [(row, row + 2) for row in range(0, 16, 2)]
    assert pipeline.local_ranges(over(8), 16) == eight
    mesh = shardings.build_mesh(slices=1, data=2, fsdp=2, tensor=2, sequence=1)
    # Devices along "tensor" hold the same rows: they are loaded once.
    four = [(0, 4), (4, 8), (8, 12), (12, 16)]
    assert pipeline.local_ranges(shardings.batch_sharding(mesh), 16) == four
    whole = NamedSharding(mesh, PartitionSpec())
    assert pipeline.local_ranges(whole, 16) == [(0, 16)]


def prefetch_threads():
    return [t for t in threading.enumerate() if t.name == "prefetch"]


@pytest.mark.parametrize("depth", [0, 1, 3, 100])
def test_prefetch_keeps_the_order_and_stops(depth):
    made = []

    def make(step):
        made.append(step)
        return step * step

    assert list(pipeline.prefetch(make, 3, 9, depth)) == [9, 16, 25, 36, 49, 64]
    assert made == list(range(3, 9))
    assert not prefetch_threads()


def test_prefetch_of_nothing():
    assert list(pipeline.prefetch(lambda step: step, 4, 4, 2)) == []
    assert not prefetch_threads()


def test_prefetch_raises_an_error_at_its_place():
    def make(step):
        if step == 2:
            raise KeyError("two")
        return step

    got = []
    with pytest.raises(KeyError, match="two"):
        got.extend(pipeline.prefetch(make, 0, 5, 5))
    assert got == [0, 1]
    assert not prefetch_threads()


def test_prefetch_runs_ahead_by_its_depth():
    made = []

    def make(step):
        made.append(step)
        return step

    batches = pipeline.prefetch(make, 0, 100, 3)
    assert next(batches) == 0
    limit = time.monotonic() + 100
    while len(made) < 5 and time.monotonic() < limit:
        time.sleep(0.01)
    time.sleep(0.1)
    # One taken, three in the queue, one waiting for its place.
    assert made == [0, 1, 2, 3, 4]
    batches.close()
    assert made == [0, 1, 2, 3, 4]
    assert not prefetch_threads()


@pytest.mark.parametrize("devices", [1, 8])
def test_resuming_gives_the_tail(make_loader, devices):
    settings = {"stop": 8, "shuffle": True, "depth": 2}
    whole = list(pipeline.train_batches(make_loader(), start=0, **settings))
    loader = make_loader(devices=devices)
    tail = list(pipeline.train_batches(loader, start=5, **settings))
    assert len(whole) == 8
    assert len(tail) == 3
    for batch, expected in zip(tail, whole[5:], strict=True):
        for key, value in expected.items():
            np.testing.assert_array_equal(batch[key], value)
    # 8 batches of 16 are two epochs of 50 and a part of the third.
    labels = np.concatenate([batch["label"] for batch in whole])
    np.testing.assert_array_equal(np.sort(labels[:50]), np.arange(50))
    np.testing.assert_array_equal(np.sort(labels[50:100]), np.arange(50))
    # An example seen twice is augmented anew.
    images = np.concatenate([batch["image"] for batch in whole])
    assert len({image.tobytes() for image in images}) == 128


@pytest.mark.parametrize("size", [1, 15, 16, 17, 32, 50])
@pytest.mark.parametrize("devices", [1, 8])
def test_eval_batches_see_each_example_once(make_loader, size, devices):
    loader = make_loader(size=size, devices=devices)
    batches = list(pipeline.eval_batches(loader))
    assert len(batches) == -(-size // 16)
    labels = np.concatenate([batch["label"] for batch in batches])
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert mask.dtype == bool
    assert len(batches[0]["mask"].addressable_shards) == devices
    np.testing.assert_array_equal(mask, np.arange(len(mask)) < size)
    np.testing.assert_array_equal(labels[mask], np.arange(size))
    np.testing.assert_array_equal(labels[~mask], size - 1)
    assert sum(int(batch["mask"].sum()) for batch in batches) == size
