"""Mixing by weights: shares, epochs, ids, classes."""

import collections
import dataclasses
import pickle

import numpy as np
import pytest

from tests.data import images
from vit_jax.data import mixture, sources
from vit_jax.data.arrays import ArraySource
from vit_jax.data.errors import DataError
from vit_jax.data.facts import split_size
from vit_jax.data.sources import DataSpec

SIZES = (30, 7, 100)
WEIGHTS = (2.0, 1.0, 1.0)


def part(size, first=0):
    image = np.zeros((size, 1, 1, 1), np.uint8)
    return ArraySource(image, np.arange(first, first + size), name=f"part{size}")


@pytest.fixture
def mixed():
    return mixture.MixtureSource([part(size) for size in SIZES], WEIGHTS)


def ids_of(mixed, start, stop, seed=0, shuffle=True):
    return mixed.order(np.arange(start, stop), seed=seed, shuffle=shuffle)


def parts_of(ids):
    return np.searchsorted(np.cumsum(SIZES), ids, side="right")


def test_ids_number_the_parts_one_after_the_other(mixed):
    assert len(mixed) == 137
    assert [mixed[i]["label"] for i in (0, 29, 30, 36, 37, 136)] == [0, 29, 0, 6, 0, 99]
    assert mixed.where(31) == "part7, record 1"
    for index in (-1, 137):
        with pytest.raises(IndexError):
            mixed[index]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_epoch_has_its_shares(mixed, shuffle, epoch):
    ids = ids_of(mixed, epoch * 137, (epoch + 1) * 137, shuffle=shuffle)
    shares = np.bincount(parts_of(ids), minlength=3)
    np.testing.assert_array_equal(shares, mixed.counts)
    # Half and two quarters of 137, each to within one example.
    assert np.all(np.abs(shares - np.array([68.5, 34.25, 34.25])) < 1)


@pytest.mark.parametrize("shuffle", [True, False])
def test_no_example_comes_again_before_all_of_its_part_came(mixed, shuffle):
    ids = ids_of(mixed, 0, 137 * 20, shuffle=shuffle)
    for number, size in enumerate(SIZES):
        own = ids[parts_of(ids) == number]
        # Each part's draws of one mixture epoch are shuffled among the others, so
        # count over whole epochs: those seen most and least differ by one at most.
        counts = np.bincount(own - sum(SIZES[:number]), minlength=size)
        assert counts.max() - counts.min() <= 1, (number, counts)
        assert counts.min() > 0


def test_a_function_of_seed_and_position(mixed):
    whole = ids_of(mixed, 0, 700)
    for start, stop in ((0, 16), (130, 150), (411, 412), (685, 700)):
        np.testing.assert_array_equal(ids_of(mixed, start, stop), whole[start:stop])
    scattered = np.array([600, 3, 300, 3])
    np.testing.assert_array_equal(
        mixed.order(scattered, seed=0, shuffle=True), whole[scattered]
    )
    again = pickle.loads(pickle.dumps(mixed))
    np.testing.assert_array_equal(ids_of(again, 0, 700), whole)
    assert not np.array_equal(ids_of(mixed, 0, 137, seed=1), whole[:137])
    assert not np.array_equal(whole[:137], whole[137:274])


def test_without_shuffle_parts_are_spread_and_in_order(mixed):
    ids = ids_of(mixed, 0, 137, shuffle=False)
    for number, first in enumerate((0, 30, 37)):
        own = ids[parts_of(ids) == number] - first
        np.testing.assert_array_equal(own, np.arange(len(own)) % SIZES[number])
    # Any stretch holds nearly its shares: a quarter each, give or take one.
    for start in range(0, 120, 7):
        shares = np.bincount(parts_of(ids[start : start + 16]), minlength=3)
        assert np.all(np.abs(shares - np.array([8, 4, 4])) <= 1.5)


def test_shares_add_up():
    for total in (1, 7, 1000, 1281167):
        counts = mixture.shares((0.1, 0.2, 0.7), total)
        assert counts.sum() == total
        exact = np.array([0.1, 0.2, 0.7]) * total
        assert np.all(np.abs(counts - exact) < 1)


@pytest.mark.parametrize("parts", [2, 8, 20])
def test_each_permutation_is_drawn_once_in_an_epoch(parts, monkeypatch):
    drawn = []
    original = mixture.permutation

    def permutation(*key):
        drawn.append(key)
        return original(*key)

    monkeypatch.setattr(mixture, "permutation", permutation)
    # The last part is small and has a large weight: many passes in an epoch.
    sizes = [100 + part for part in range(parts - 1)] + [3]
    source = mixture.MixtureSource(list(map(range, sizes)), [1.0] * parts)
    for step in range(len(source) // 16):  # an epoch
        source.order(np.arange(16 * step, 16 * (step + 1)), seed=0, shuffle=True)
    assert len(drawn) == len(set(drawn)) > parts
    assert all(original(*key).dtype == np.int32 for key in drawn[:3])


def test_pickled_it_gives_the_same_order():
    source = mixture.MixtureSource([range(7), range(9)], [0.2, 0.8])
    again = pickle.loads(pickle.dumps(source))
    positions = np.arange(40)
    np.testing.assert_array_equal(
        again.order(positions, seed=3, shuffle=True),
        source.order(positions, seed=3, shuffle=True),
    )


def test_far_positions_take_little_time():
    import time

    big = mixture.MixtureSource([range(1_000_000), range(281_167)], (0.5, 0.5))
    started = time.process_time()
    ids = big.order(np.arange(10**9, 10**9 + 4096), seed=3, shuffle=True)
    assert time.process_time() - started < 1
    assert len(collections.Counter((ids >= 1_000_000).tolist())) == 2


@pytest.fixture
def spec(tmp_path):
    images.write_folder(tmp_path, {"train/b": 3, "train/a": 2, "val/a": 1, "val/b": 2})
    parts = (
        ("arrays:digits", "train[:100]", 3),
        (f"folder:{tmp_path}", "train", 1.0),
    )
    return DataSpec("mix", mix=parts, mix_classes="concat")


def test_by_name(spec):
    facts = sources.describe(spec)
    assert facts.splits["train"] == 105
    assert facts.num_classes == 12
    assert facts.class_names == (*"0123456789", "a", "b")
    source = sources.open_source(spec, "train")
    assert [source[i]["label"] >= 10 for i in (0, 99, 100, 104)] == [False] * 2 + [
        True
    ] * 2
    np.testing.assert_array_equal(source.counts, [79, 26])
    # Its parts on their own, for evaluation.
    assert split_size(facts, "1.val") == 3
    val = sources.open_source(spec, "1.val")
    assert sorted(val[i]["label"] for i in range(3)) == [10, 11, 11]
    assert len(sources.open_source(spec, "0.test[:50%]+0.train[:3]")) == 183
    assert "1.png" in val.where(0) + val.where(1) + val.where(2)


def test_lists_as_from_json_are_good(spec):
    mix = [list(part) for part in spec.mix]
    assert sources.describe(dataclasses.replace(spec, mix=mix)).splits["train"] == 105


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(mix=()), "needs data.mix, such as"),
        (dict(mix=("arrays:digits", "train")), "a part is (name, split, weight)"),
        (dict(mix=(("arrays:digits", "train"),)), "a part is (name, split, weight)"),
        (
            dict(mix=(("arrays:digits", "train", "1"),)),
            "a part is (name, split, weight)",
        ),
        (dict(mix=(("arrays:digits", "train", 0),)), "weights are positive"),
        (dict(mix=(("arrays:digits", "train", -1.0),)), "weights are positive"),
        (dict(mix=(("arrays:digits", "train", float("nan")),)), "weights are positive"),
        (dict(mix=(("arrays:digits", "train", float("inf")),)), "weights are positive"),
        (dict(mix=(("arrays:digits", "valid", 1),)), "it has: train, test"),
        (dict(mix=(("mix", "train", 1),)), "itself a mix"),
        (dict(mix=(("tfrecord:x", "train", 1),)), "vit-jax prepare x --convert"),
        (dict(mix_classes="sum"), "known: same, concat"),
        (dict(mix_classes="same"), "arrays:digits 10, folder:"),
        (dict(name="mix:x"), "are in data.mix"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_mix(spec, changes, words):
    with pytest.raises(DataError) as error:
        sources.describe(dataclasses.replace(spec, **changes))
    assert words in images.one_line(error)


def test_same_number_of_classes_of_other_names(tmp_path):
    for name, classes in (("x", "ab"), ("y", "ac")):
        images.write_folder(tmp_path / name, {each: 1 for each in classes})
    mix = tuple((f"folder:{tmp_path / name}", "train", 1) for name in "xy")
    with pytest.raises(DataError) as error:
        sources.describe(DataSpec("mix", mix=mix))
    assert "class 1 is 'b' or 'c'" in images.one_line(error)
    assert sources.describe(DataSpec("mix", mix=mix[:1] * 2)).num_classes == 2


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("train[:50%]", "no slices or sums"),
        ("train+0.test", "no slices or sums"),
        ("all", "no slices or sums"),
        ("0.test+1.val", "several parts"),
        ("2.train", "it has: train, 0.train, 0.test, 1.train, 1.val"),
    ],
)
def test_splits_that_a_mix_has_not(spec, split, words):
    with pytest.raises(DataError) as error:
        sources.open_source(spec, split)
    assert words in images.one_line(error)
