"""Examples of noise: a function of the index, and cheap."""

import pickle
import time

import numpy as np
import pytest

from vit_jax.data import synthetic
from vit_jax.data.errors import DataError
from vit_jax.data.synthetic import SyntheticSource


def test_sizes():
    assert synthetic.describe("").splits == {"train": 1_281_167, "validation": 50_000}
    assert synthetic.describe("").num_classes == 1000
    assert synthetic.describe("25").splits == {"train": 25, "validation": 3}
    assert synthetic.describe("1_000").splits["train"] == 1000
    assert synthetic.describe("25", num_classes=7).num_classes == 7


def test_examples_are_a_function_of_the_index():
    source = SyntheticSource("200", "train", image_shape=(5, 6, 2), num_classes=7)
    again = pickle.loads(pickle.dumps(source))
    seen = set()
    for index in range(200):
        example = source[index]
        assert example["image"].shape == (5, 6, 2)
        assert example["image"].dtype == np.uint8
        assert 0 <= example["label"] < 7
        np.testing.assert_array_equal(example["image"], again[index]["image"])
        seen.add(example["image"].tobytes())
    assert len(seen) == 200
    validation = SyntheticSource("200", "validation", image_shape=(5, 6, 2))
    assert not seen & {validation[i]["image"].tobytes() for i in range(20)}
    tail = SyntheticSource("200", "train[150:]", image_shape=(5, 6, 2), num_classes=7)
    np.testing.assert_array_equal(tail[3]["image"], source[153]["image"])
    assert tail.where(3) == "synthetic:200, record 153"


def test_an_example_belongs_to_its_caller():
    source = SyntheticSource("20", "train", image_shape=(8, 8, 1))
    before = source[3]["image"].copy()
    source[3]["image"][:] = 0
    np.testing.assert_array_equal(source[3]["image"], before)


def test_small_pickle_and_little_time():
    source = SyntheticSource("", "train")
    assert len(pickle.dumps(source)) < 1000
    source[0]
    started = time.process_time()
    for index in range(0, 1_000_000, 5000):
        source[index]
    # Decoding such an image takes about 1 ms; this must not count beside it.
    assert (time.process_time() - started) / 200 < 2e-4


@pytest.mark.parametrize("text", ["0", "-3", "many", "1.5", "9" * 20])
def test_bad_numbers(text):
    with pytest.raises(DataError, match="must be positive"):
        synthetic.describe(text)


def test_outside():
    source = SyntheticSource("20", "train[:5]", image_shape=(2, 2, 1))
    for index in (-1, 5):
        with pytest.raises(IndexError):
            source[index]
