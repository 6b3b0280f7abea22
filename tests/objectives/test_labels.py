"""Several labels, thresholds and class weights: against numpy, and their mistakes."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import classify
from vit_jax.data import mixing
from vit_jax.objectives import labels
from vit_jax.objectives.supervised import Supervised, cross_entropy

SEVERAL = np.array([[1, 4, -1], [0, -1, -1], [-1, -1, -1], [6, 6, 2]])
HOT = np.array(
    [
        [0, 1, 0, 0, 1, 0, 0],
        [1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 1],
    ],
    np.float32,
)
LOGITS = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32) * 3
WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0, 3.0, 1.0, 0.25], np.float32)


def test_several_labels_of_an_image_are_one_each():
    np.testing.assert_array_equal(mixing.one_hot(jnp.asarray(SEVERAL), 7), HOT)


def test_a_softmax_shares_them_and_a_sigmoid_does_not():
    given = jnp.asarray(HOT)
    shared = labels.as_targets(given, loss="softmax", threshold=None)
    np.testing.assert_array_equal(shared, HOT / np.array([[2], [1], [1], [2]]))
    each = labels.as_targets(given, loss="sigmoid", threshold=None)
    np.testing.assert_array_equal(each, HOT)


def test_one_label_stays_as_it_is():
    mixed = classify.batch()["labels"] * 0.999  # less than one in sum
    out = labels.as_targets(mixed, loss="softmax", threshold=None)
    np.testing.assert_array_equal(out, mixed)


def test_a_threshold_counts_both_classes_of_a_mixed_image():
    mixed = jnp.asarray([[0.7, 0.0, 0.3], [1.0, 0.0, 0.0]])
    out = labels.as_targets(mixed, loss="sigmoid", threshold=0.0)
    np.testing.assert_array_equal(out, [[1, 0, 1], [1, 0, 0]])
    out = labels.as_targets(mixed, loss="sigmoid", threshold=0.5)
    np.testing.assert_array_equal(out, [[1, 0, 0], [1, 0, 0]])


def test_any_of_several_labels_is_right_and_none_of_no_label():
    logits = np.eye(7, dtype=np.float32)[[4, 0, 0, 3]]
    out = labels.hits(jnp.asarray(logits), jnp.asarray(HOT))
    np.testing.assert_array_equal(out, [True, True, False, False])


def numpy_loss(kind, weights):
    if kind == "softmax":
        shared = HOT / np.maximum(HOT.sum(-1, keepdims=True), 1)
        return -(weights * shared * classify.log_softmax(LOGITS)).sum(-1)
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    losses = -(HOT * np.log(p) + (1 - HOT) * np.log(1 - p))
    return (weights * losses).sum(-1)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_class_weights_multiply_the_term_of_their_class(kind):
    targets = labels.as_targets(jnp.asarray(HOT), loss=kind, threshold=None)
    losses = cross_entropy(
        jnp.asarray(LOGITS), targets, loss=kind, class_weights=jnp.asarray(WEIGHTS)
    )
    np.testing.assert_allclose(losses, numpy_loss(kind, WEIGHTS), rtol=1e-5)
    plain = cross_entropy(jnp.asarray(LOGITS), targets, loss=kind)
    np.testing.assert_allclose(plain, numpy_loss(kind, np.ones(7)), rtol=1e-5)


def test_the_weighted_loss_is_a_mean_over_images():
    batch = classify.batch()
    settings = dict(loss="softmax", label_smoothing=0.0)
    weighted = Supervised(
        encoder=classify.encoder(), class_weights=tuple(WEIGHTS.tolist()), **settings
    )
    logits = weighted.predict(batch["images"])["logits"]
    expected = -(WEIGHTS * batch["labels"] * classify.log_softmax(logits)).sum(-1)
    loss, _ = weighted.loss(batch, key=None)
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
    halves = [
        weighted.label_loss(logits[part], batch["labels"][part])
        for part in (slice(0, 2), slice(2, 4))
    ]
    both = weighted.label_loss(logits[:4], batch["labels"][:4])
    np.testing.assert_allclose(np.mean(halves), both, rtol=1e-6)


def test_weights_of_a_file(tmp_path):
    np.save(tmp_path / "w.npy", WEIGHTS)
    assert labels.read_class_weights(str(tmp_path / "w.npy")) == tuple(WEIGHTS.tolist())
    (tmp_path / "w.txt").write_text("".join(f"{weight}\n" for weight in WEIGHTS))
    assert labels.read_class_weights(str(tmp_path / "w.txt")) == tuple(WEIGHTS.tolist())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.npy", None, r"absent.npy' cannot be read \(No such file"),
        ("words.txt", "one two", r"could not convert string to float: 'one'"),
        ("square.npy", np.ones((2, 2)), r"it holds float64 \[2, 2\]"),
    ],
)
def test_files_that_hold_no_weights(tmp_path, name, content, message):
    if isinstance(content, str):
        (tmp_path / name).write_text(content)
    elif content is not None:
        np.save(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        labels.read_class_weights(str(tmp_path / name))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0, 2.0), "are 2, but there are 7 classes"),
        ((1.0, -2.0), "must be finite numbers that are not negative, got -2.0"),
        ((1.0, float("nan")), "got nan"),
        (("weights.npy",), r"a file is given alone"),
        ((0.0,) * 7, "are all 0"),
    ],
)
def test_weights_that_do_not_fit(weights, message):
    with pytest.raises(ValueError, match=message):
        Supervised(
            encoder=classify.encoder(),
            loss="softmax",
            label_smoothing=0.0,
            class_weights=weights,
        )
