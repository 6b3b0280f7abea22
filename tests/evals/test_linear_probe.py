"""The linear probe: as its equations in numpy and scikit-learn, on any devices."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.evals import small
from vit_jax.data.errors import DataError
from vit_jax.evals.linear_probe import LinearProbe

TRAIN, TEST = small.arrays(83), small.arrays(37, seed=1)
BAD = (3, 17)
SETTINGS = dict(
    train_split="train",
    split="test",
    optimizer="lars",
    learning_rate=100.0,  # LARS moves a kernel by a thousandth of its norm times this
    momentum=0.9,
    weight_decay=0.01,
    epochs=24,
    warmup_epochs=2,
    train_batch_size=20,
    augment=False,
    batch_size=16,
    resize=0,
)

SGD = dict(optimizer="sgd", learning_rate=3.0, epochs=6)


def good():
    return np.setdiff1d(np.arange(len(TRAIN[1])), BAD)


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def scored(logits):
    """Accuracy and loss on the test split."""
    losses = -np.log(softmax(logits)[np.arange(len(TEST[1])), TEST[1]])
    return (logits.argmax(axis=1) == TEST[1]).mean(), losses.mean()


def by_numpy(settings, start):
    """MAE's procedure in float64, from a given kernel."""
    features, labels = small.features(TRAIN[0][good()]), TRAIN[1][good()]
    weights = {"kernel": start.astype(np.float64), "bias": np.zeros(5)}
    velocity = {name: np.zeros_like(value) for name, value in weights.items()}
    mean, variance = np.zeros(small.WIDTH), np.ones(small.WIDTH)
    rows = settings["train_batch_size"]
    steps = len(labels) // rows
    step = 0
    for epoch in range(settings["epochs"]):
        order = np.random.default_rng((5, epoch)).permutation(len(labels))
        for number in range(steps):
            part = order[number * rows : (number + 1) * rows]
            batch, given = features[part], labels[part]
            inputs = (batch - batch.mean(0)) / np.sqrt(batch.var(0) + 1e-6)
            mean = 0.9 * mean + 0.1 * batch.mean(0)
            variance = 0.9 * variance + 0.1 * batch.var(0, ddof=1)
            p = softmax(inputs @ weights["kernel"] + weights["bias"])
            loss = -np.log(p[np.arange(rows), given]).mean()
            p[np.arange(rows), given] -= 1
            grads = {"kernel": inputs.T @ p / rows, "bias": p.mean(0)}
            grads["kernel"] += settings["weight_decay"] * weights["kernel"]
            if settings["optimizer"] == "lars":
                grads["kernel"] *= (
                    0.001
                    * np.linalg.norm(weights["kernel"])
                    / np.linalg.norm(grads["kernel"])
                )
            passed = step / steps
            rate = settings["learning_rate"] * rows / 256
            if passed < 2:
                rate *= passed / 2
            else:
                rate *= 0.5 * (
                    1 + math.cos(math.pi * (passed - 2) / (settings["epochs"] - 2))
                )
            for name in weights:
                velocity[name] = 0.9 * velocity[name] + grads[name]
                weights[name] = weights[name] - rate * velocity[name]
            step += 1
    inputs = (small.features(TEST[0]) - mean) / np.sqrt(variance + 1e-6)
    return *scored(inputs @ weights["kernel"] + weights["bias"]), loss


@pytest.mark.parametrize(
    ("optimizer", "devices"), [("lars", 1), ("lars", 8), ("sgd", 8)]
)
def test_trains_as_the_equations_say(optimizer, devices):
    made, params, frozen = small.context(devices, train=TRAIN, test=TEST, bad=BAD)
    settings = SETTINGS | ({} if optimizer == "lars" else SGD)
    evaluator = LinearProbe(made, data="", **settings)
    start = np.asarray(evaluator._initial(small.WIDTH)["kernel"])
    assert 0 < np.abs(start).max() <= 0.02
    result = evaluator.run(params, frozen)
    assert evaluator.run(params, frozen) == result
    evaluator.close()
    accuracy, loss, train_loss = by_numpy(settings, start)
    assert 0.3 < accuracy < 1
    assert result["accuracy"] == accuracy
    assert result["examples"] == 37
    # Up to 96 steps in float32, each with sums of 20 terms.
    np.testing.assert_allclose(result["loss"], loss, rtol=1e-4)
    np.testing.assert_allclose(result["train_loss"], train_loss, rtol=1e-4)


@pytest.mark.parametrize("devices", [1, 8])
def test_lbfgs_finds_what_sklearn_finds(devices):
    settings = SETTINGS | {"optimizer": "lbfgs", "epochs": 100}
    result = small.run(
        LinearProbe, devices, settings=settings, train=TRAIN, test=TEST, bad=BAD
    )
    features, labels = small.features(TRAIN[0][good()]), TRAIN[1][good()]
    mean, scale = features.mean(0), np.sqrt(features.var(0) + 1e-6)
    reference = LogisticRegression(
        C=1 / (len(labels) * settings["weight_decay"]), tol=1e-10, max_iter=10_000
    ).fit((features - mean) / scale, labels)
    logits = reference.decision_function((small.features(TEST[0]) - mean) / scale)
    accuracy, loss = scored(logits)
    assert result["accuracy"] == accuracy
    # A gradient of 1e-5 where the curvature is at least the decay of 1e-2: weights are
    # within 1e-3.
    np.testing.assert_allclose(result["loss"], loss, rtol=1e-3)


def test_with_augmentation_every_epoch_has_features_of_its_own():
    given = dict(train=TRAIN, test=TEST, bad=BAD)
    once = small.run(LinearProbe, 8, settings=SETTINGS | SGD, **given)
    one, eight = (
        small.run(LinearProbe, n, settings=SETTINGS | SGD | {"augment": True}, **given)
        for n in (1, 8)
    )
    assert one == pytest.approx(eight, rel=1e-4)
    assert abs(one["train_loss"] - once["train_loss"]) > 1e-3


def test_lars_with_too_few_steps():
    settings = SETTINGS | {"learning_rate": 0.1, "train_batch_size": 16384}
    with pytest.raises(DataError) as caught:
        small.run(LinearProbe, settings=settings, train=TRAIN, test=TEST)
    assert str(caught.value).startswith(
        "evals.tried: with 83 examples of small 'train', 'lars' takes 24 steps that "
        "move the kernel by 0.0039 of its norm in all, too little to learn; set optim"
    )


def test_one_that_diverges_is_not_a_number():
    settings = SETTINGS | SGD | {"learning_rate": 1e30}
    result = small.run(LinearProbe, settings=settings, train=TRAIN, test=TEST)
    assert all(math.isnan(value) for value in result.values())
    assert set(LinearProbe.results(settings)) < set(result)
