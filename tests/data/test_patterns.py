"""Striped images: a function of the index, and classes that can be told apart."""

import pickle

import numpy as np
import pytest

from vit_jax.data import patterns, sources
from vit_jax.data.errors import DataError
from vit_jax.data.patterns import PatternSource
from vit_jax.data.sources import DataSpec


def test_sizes():
    assert patterns.describe("").splits == {"train": 2048, "validation": 205}
    facts = sources.describe(DataSpec("patterns:30", num_classes=7))
    assert (facts.name, facts.num_classes) == ("patterns:30", 7)
    assert patterns.describe("").num_classes == 10
    with pytest.raises(DataError, match="patterns:none"):
        patterns.describe("none")


def test_examples_are_a_function_of_the_index():
    spec = DataSpec("patterns:40", image_shape=(5, 6, 3), num_classes=7)
    source = sources.open_source(spec, "train")
    again = pickle.loads(pickle.dumps(source))
    seen = set()
    for index in range(40):
        example = source[index]
        assert example["image"].shape == (5, 6, 3)
        assert example["image"].dtype == np.uint8 and example["label"] == index % 7
        np.testing.assert_array_equal(example["image"], again[index]["image"])
        seen.add(example["image"].tobytes())
    held_out = sources.open_source(spec, "validation")
    assert len(seen) == 40 and held_out[0]["image"].tobytes() not in seen
    assert source.where(3) == "patterns:40, record 3"


@pytest.mark.parametrize("channels", [1, 3])
def test_classes_can_be_told_apart(channels):
    """By the nearest mean colour of a class, on images that were not seen."""
    shape = (16, 16, channels)
    train, test = (
        [PatternSource("200", split, image_shape=shape)[i] for i in range(count)]
        for split, count in (("train", 200), ("validation", 20))
    )
    means = np.stack(
        [
            np.mean([one["image"] for one in train if one["label"] == k], (0, 1, 2))
            for k in range(10)
        ]
    )
    colours = np.stack([one["image"].mean((0, 1)) for one in test])
    nearest = ((colours[:, None] - means) ** 2).sum(-1).argmin(-1)
    right = np.mean(nearest == [one["label"] for one in test])
    assert right > 0.7  # 0.1 by chance
