"""Nearest neighbours: as scikit-learn's with DINO's weights, on any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from tests.evals import small
from vit_jax.data.errors import DataError
from vit_jax.evals.knn import KNN, unit, vote

TRAIN, TEST = small.arrays(53), small.arrays(37, seed=1)
BAD = (3, 17)
SETTINGS = dict(
    train_split="train", split="test", k=7, temperature=0.07, batch_size=16, resize=0
)


def by_sklearn(k=7, temperature=0.07, bad=BAD):
    """Class probabilities of the test split, and how it is scored."""
    good = np.setdiff1d(np.arange(len(TRAIN[1])), bad)
    neighbours = KNeighborsClassifier(
        k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distances: np.exp((1 - distances) / temperature),
    )
    neighbours.fit(small.features(TRAIN[0][good]), TRAIN[1][good])
    return neighbours.predict_proba(small.features(TEST[0]))


@pytest.mark.parametrize("devices", [1, 8])
def test_as_sklearn_in_chunks_of_odd_splits(devices):
    probabilities = by_sklearn()
    right = probabilities.argmax(axis=1) == TEST[1]
    assert 0.3 < right.mean() < 1
    result = small.run(KNN, devices, settings=SETTINGS, train=TRAIN, test=TEST, bad=BAD)
    assert result == {"accuracy": right.mean(), "top5": 1.0, "examples": 37.0}


# float32 has no exp(1 / 0.01).
@pytest.mark.parametrize("temperature", [0.07, 0.01])
def test_votes_weigh_as_in_dino(temperature):
    bank = unit(jnp.asarray(small.features(TRAIN[0]), jnp.float32))
    queries = unit(jnp.asarray(small.features(TEST[0]), jnp.float32))
    chunks = (
        jnp.pad(bank, ((0, 3), (0, 0))).reshape(7, 8, -1),
        jnp.pad(TRAIN[1], (0, 3), constant_values=-1).reshape(7, 8),
    )
    votes = jax.jit(
        lambda queries, chunks: vote(
            queries, chunks, k=7, temperature=temperature, num_classes=5
        )
    )(queries, chunks)
    votes = np.asarray(votes, np.float64)
    expected = by_sklearn(temperature=temperature, bad=())
    # exp magnifies the rounding of a similarity, some 1e-7, by 1 / temperature.
    tolerance = 10 * np.finfo(np.float32).eps / temperature
    np.testing.assert_allclose(
        votes / votes.sum(axis=1, keepdims=True), expected, atol=tolerance
    )


def test_of_equal_ones_the_first_votes():
    same = np.tile(unit(jnp.ones((1, 1, 3))), (2, 4, 1))
    labels = np.array([[-1, 2, 1, 0], [0, 0, 0, -1]])
    same = jnp.asarray(same)
    votes = vote(same[0, :1], (same, labels), k=2, temperature=1.0, num_classes=3)
    np.testing.assert_array_equal(votes, [[0, 1, 1]])


def test_more_neighbours_than_there_are():
    with pytest.raises(DataError) as caught:
        small.run(KNN, settings=SETTINGS | {"k": 54}, train=TRAIN, test=TEST)
    assert str(caught.value) == (
        "evals.tried: k is 54, but small 'train' has 53 examples; lower k, or take "
        "more of the split"
    )
    with pytest.raises(DataError, match="k is 53, but small 'train' has 51 examples"):
        small.run(KNN, settings=SETTINGS | {"k": 53}, train=TRAIN, test=TEST, bad=BAD)
