"""Trials from product, zip, chain and random."""

import numpy as np
import pytest

from vit_jax import sweep
from vit_jax.sweep.expand import Drawn
from vit_jax.sweep.ranges import SweepError


def test_a_product_changes_its_last_key_fastest():
    assert sweep.product({"a": [1, 2], "b": ["x", "y"]}) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    assert len(sweep.product({"a": range(3)}, {"b": np.arange(4)})) == 12


def test_a_zip_takes_one_of_each_and_refuses_other_lengths():
    assert sweep.zip({"a": [1, 2], "b": [3, 4]}) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    with pytest.raises(SweepError, match=r"equally many.*a: 2, b: 3"):
        sweep.zip({"a": [1, 2], "b": [3, 4, 5]})


def test_a_chain_changes_one_key_at_a_time():
    assert sweep.chain({"a": [1, 2], "b": [3]}) == [{"a": 1}, {"a": 2}, {"b": 3}]


def test_parts_nest():
    pairs = sweep.zip({"a": [1, 2], "b": [3, 4]})
    found = sweep.chain(sweep.product(pairs, {"seed": [0, 1]}), [{"a": 9}])
    assert found == [
        {"a": 1, "b": 3, "seed": 0},
        {"a": 1, "b": 3, "seed": 1},
        {"a": 2, "b": 4, "seed": 0},
        {"a": 2, "b": 4, "seed": 1},
        {"a": 9},
    ]


def test_a_tuple_is_one_value_and_so_is_text():
    assert sweep.product({"size": [(8, 8), (16, 16)], "name": "lion"}) == [
        {"size": (8, 8), "name": "lion"},
        {"size": (16, 16), "name": "lion"},
    ]


def test_draws_are_repeatable_and_stay_in_their_ranges():
    space = {
        "rate": sweep.loguniform(1e-4, 1e-2),
        "decay": sweep.uniform(0, 1),
        "depth": sweep.integers(2, 4),
        "norm": sweep.choice(["layer", "rms"]),
        "seed": [0, 1],
    }
    drawn = sweep.random(space, samples=200, seed=1)
    assert isinstance(drawn, Drawn) and len(drawn) == 200
    assert drawn == sweep.random(space, samples=200, seed=1)
    assert drawn[:50] == sweep.random(space, samples=50, seed=1)
    assert drawn != sweep.random(space, samples=200, seed=2)
    assert all(1e-4 <= trial["rate"] <= 1e-2 for trial in drawn)
    below = sum(trial["rate"] < 1e-3 for trial in drawn)
    assert 60 < below < 140  # half of 200; 4 standard deviations are 28
    assert {trial["depth"] for trial in drawn} == {2, 3, 4}
    assert {trial["norm"] for trial in drawn} == {"layer", "rms"}
    assert {trial["seed"] for trial in drawn} == {0, 1}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: sweep.product({"a": []}), "a has no values"),
        (lambda: sweep.product({"a": [1]}, {"a": [2]}), "a is set by two parts"),
        (lambda: sweep.product({"a": sweep.uniform(0, 1)}), "from which random draws"),
        (lambda: sweep.product([1, 2]), "a list in a sweep holds trials"),
        (lambda: sweep.random({"a": [1]}, samples=0), "at least one sample"),
        (lambda: sweep.uniform(2, 1), "the lower first"),
        (lambda: sweep.loguniform(0, 1), "above 0"),
        (lambda: sweep.integers(0.5, 3), "whole numbers"),
        (lambda: sweep.choice([]), "at least one value"),
        (lambda: sweep.uniform("a", 1), "two numbers"),
    ],
)
def test_mistakes_are_explained(make, text):
    with pytest.raises(SweepError, match=text):
        make()
