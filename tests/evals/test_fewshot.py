"""Few-shot classification: as ridge regression by scikit-learn, on any devices."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from tests.evals import small
from vit_jax.data.errors import DataError
from vit_jax.evals.fewshot import FewShot, Shots, Solution

TRAIN, TEST = small.arrays(93), small.arrays(37, seed=1)
SETTINGS = dict(
    train_split="train",
    split="test",
    shots=(1, 3, 6),
    l2=(10.0,),
    seeds=2,
    batch_size=16,
    resize=0,
)


def ridge(features, labels, l2):
    """Weights with a bias of features that are whitened already."""
    inputs = np.concatenate([features, np.full((len(features), 1), 100.0)], axis=1)
    model = Ridge(alpha=l2, fit_intercept=False, solver="svd")
    model.fit(inputs, np.where(labels[:, None] == np.arange(5), 1.0, -1.0))
    return model.coef_.T


@pytest.mark.parametrize("count", [9, 13, 60])  # fewer and more than 13 columns
@pytest.mark.parametrize("l2", [1e-3, 1024.0])
def test_the_solution_is_that_of_ridge_regression(count, l2):
    features, labels = small.features(TRAIN[0][:count]), TRAIN[1][:count]
    white = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-5)
    solution = Solution(Shots(features, labels), 5)
    expected = ridge(white, labels, l2)
    # The matrix that is decomposed has eigenvalues up to 1e4 * count.
    tolerance = 100 * np.finfo(np.float64).eps * 1e4 * count / l2
    np.testing.assert_allclose(
        solution.weights(l2), expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


def measured(shots, seed, l2):
    """The protocol again, step by step: the rates on the test and on what is left."""
    train, test = small.features(TRAIN[0]), small.features(TEST[0])
    rng = np.random.default_rng(seed)
    rows = []
    for label in range(5):
        rows += rng.permutation(np.where(TRAIN[1] == label)[0])[:shots].tolist()
    mean, std = train[rows].mean(axis=0), train[rows].std(axis=0) + 1e-5
    weights = ridge((train[rows] - mean) / std, TRAIN[1][rows], l2)

    def rate(features, labels):
        outputs = (features - mean) / std @ weights[:-1] + 100 * weights[-1]
        return (outputs.argmax(axis=1) == labels).mean()

    rest = np.delete(np.arange(len(train)), rows)
    return rate(test, TEST[1]), rate(train[rest], TRAIN[1][rest])


def expected_results(l2=10.0):
    results = {}
    for shots in (1, 3, 6):
        rates = [measured(shots, seed, l2)[0] for seed in range(2)]
        results[f"{shots}shot"] = np.mean(rates)
        results[f"{shots}shot_std"] = np.std(rates, ddof=1)
    return results


@pytest.mark.parametrize("devices", [1, 8])
def test_follows_the_protocol(devices):
    expected = expected_results()
    assert 0.3 < expected["1shot"] < expected["6shot"] < 1
    result = small.run(FewShot, devices, settings=SETTINGS, train=TRAIN, test=TEST)
    assert result == pytest.approx(expected, abs=1e-12)
    assert tuple(result) == FewShot.results(SETTINGS)


def test_of_several_strengths_the_one_best_elsewhere_is_taken():
    grid = (1e-6, 10.0, 1e4)
    result = small.run(
        FewShot, settings=SETTINGS | {"l2": grid}, train=TRAIN, test=TEST
    )
    taken = set()
    for shots in (1, 3, 6):
        elsewhere = [
            np.mean([measured(shots, seed, l2)[1] for seed in range(2)]) for l2 in grid
        ]
        best = grid[int(np.argmax(elsewhere))]
        taken.add(best)
        assert result[f"{shots}shot_l2"] == best
        alone = expected_results(l2=best)[f"{shots}shot"]
        assert result[f"{shots}shot"] == pytest.approx(alone, abs=1e-12)
    assert len(taken) > 1 or taken != {grid[0]}  # not just the first one


def test_a_class_with_too_few_examples_is_named():
    few = TRAIN[0], np.where(TRAIN[1] == 2, 1, TRAIN[1])
    with pytest.raises(DataError) as caught:
        small.run(FewShot, settings=SETTINGS, train=few, test=TEST)
    assert str(caught.value) == (
        "evals.tried: shots has 6, but 1 of 5 classes have fewer good examples in "
        "small 'train': '2' (0); take more of the split, or fewer shots"
    )


def test_no_examples_left_to_choose_with():
    least = min(np.bincount(TRAIN[1]))
    rows = np.concatenate(
        [np.where(TRAIN[1] == label)[0][:least] for label in range(5)]
    )
    same = TRAIN[0][rows], TRAIN[1][rows]
    settings = SETTINGS | {"l2": (1.0, 2.0), "shots": (int(least),)}
    with pytest.raises(DataError, match="but all of small 'train' is drawn"):
        small.run(FewShot, settings=settings, train=same, test=TEST)
