"""Split expressions mean what TFDS means by them."""

import os

import pytest

from vit_jax.data import facts as facts_of
from vit_jax.data import prepare, split, tfds

SIZES = {"train": 1437, "test": 360}

EXPRESSIONS = [
    "train",
    "test",
    "train+test",
    "train[:99%]",
    "train[99%:]",
    "train[:1%]",
    "train[-1%:]",
    "train[:-1%]",
    "train[33%:67%]",
    "train[-50%:-25%]",
    "train[:100%]",
    "train[-100%:]",
    "train[100:200]",
    "train[100:]",
    "train[:100]",
    "train[-100:]",
    "train[:-100]",
    "train[-200:-100]",
    "train[0:1437]",
    "train[5:5]",
    "test[7%:19%]",
    "test[-360:]",
    "train[:50%]+test[50%:]",
    "train[:10]+train[-10:]",
    "train[90%:] + test[:1]",
]


@pytest.fixture(scope="module")
def builder(digits_dir):
    return prepare._builder("digits", digits_dir)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_ranges_are_those_of_tfds(builder, expression):
    from tensorflow_datasets.core import splits

    ranges = split.parse_split(expression, SIZES)
    absolute = splits.AbstractSplit.from_spec(expression).to_absolute(
        builder.info.splits
    )
    expected = [
        (
            part.splitname,
            part.from_ or 0,
            SIZES[part.splitname] if part.to is None else part.to,
        )
        for part in absolute
    ]
    assert ranges == expected
    if expression != "train[5:5]":  # TFDS refuses to count an empty one
        total = sum(stop - start for _, start, stop in ranges)
        assert total == builder.info.splits[expression].num_examples


@pytest.mark.parametrize("percent", range(0, 101, 7))
@pytest.mark.parametrize("size", [1, 10, 50, 199, 1437])
def test_percentages_cut_a_split_without_gap(percent, size):
    sizes = {"train": size}
    [(_, start, middle)] = split.parse_split(f"train[:{percent}%]", sizes)
    [(_, again, stop)] = split.parse_split(f"train[{percent}%:]", sizes)
    assert (start, stop) == (0, size)
    assert middle == again
    assert abs(middle - percent * size / 100) <= 0.5


def test_the_other_way_round_is_empty():
    assert split.parse_split("train[20:10]", SIZES) == [("train", 20, 20)]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "malformed"),
        ("train[", "malformed"),
        ("train[5]", "malformed"),
        ("train[1:2:3]", "malformed"),
        ("train[a:b]", "malformed"),
        ("train+", "malformed"),
        ("train test", "malformed"),
        ("valid", "no split 'valid'; it has: train, test"),
        ("train+valid[:5]", "no split 'valid'"),
        ("train[:101%]", "101% is beyond 100 %"),
        ("train[-101%:]", "-101% is beyond"),
        ("train[:1438]", "1438 is beyond the split's 1,437 examples"),
        ("test[-361:]", "-361 is beyond the split's 360 examples"),
        # TFDS takes both for percent; we do not guess.
        ("train[10%:100]", "mixes percent and numbers"),
        ("train[10:50%]", "mixes percent and numbers"),
    ],
)
def test_errors(expression, message):
    with pytest.raises(ValueError, match=message):
        split.parse_split(expression, SIZES)


def test_errors_name_the_data_set(digits_dir):
    facts = tfds.describe("digits", dir=os.fspath(digits_dir))
    assert facts_of.split_size(facts, "train[:50%]+test") == 718 + 360
    with pytest.raises(tfds.DataError, match="'digits': no split 'valid'"):
        facts_of.split_size(facts, "valid")
    with pytest.raises(tfds.DataError, match=r"'train\[5:5\]' holds no example"):
        facts_of.split_size(facts, "train[5:5]")
