"""Supervised training: cross-entropies against numpy, predictions, operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import tiny
from tests.objectives import classify, small
from vit_jax import objectives
from vit_jax.models import vit
from vit_jax.models.flops import forward_flops
from vit_jax.objectives.supervised import Supervised, cross_entropy, smooth_labels

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(5, 7)).astype(np.float32) * 3
SOFT = RNG.dirichlet(np.ones(7), size=5).astype(np.float32)
HARD = np.eye(7, dtype=np.float32)[[0, 3, 6, 2, 2]]


def numpy_loss(logits, labels, kind):
    logits, labels = logits.astype(np.float64), labels.astype(np.float64)
    if kind == "softmax":
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -(labels * log_p).sum(-1)
    p = 1 / (1 + np.exp(-logits))
    return -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).sum(-1)


def encoder(**changes):
    return vit.ViT(**tiny.settings(**changes), key=jax.random.key(0))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard", "soft"])
def test_cross_entropy_is_that_of_numpy(kind, labels):
    losses = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(labels), loss=kind)
    assert losses.shape == (5,)
    np.testing.assert_allclose(losses, numpy_loss(LOGITS, labels, kind), rtol=1e-5)


def test_smoothing_moves_mass_to_the_uniform_distribution():
    smooth = np.asarray(smooth_labels(jnp.asarray(HARD), 0.1))
    np.testing.assert_allclose(smooth.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(smooth[HARD == 1], 0.9 + 0.1 / 7, rtol=1e-6)
    np.testing.assert_allclose(smooth[HARD == 0], 0.1 / 7, rtol=1e-6)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_the_loss_is_the_mean_over_smoothed_labels(kind):
    objective = Supervised(encoder=encoder(), loss=kind, label_smoothing=0.2)
    head = objective.encoder.head
    head.kernel[...] = jax.random.normal(jax.random.key(1), head.kernel.shape)
    images = tiny.images(batch=5)
    loss, metrics = objective.loss(
        {"images": images, "labels": jnp.asarray(SOFT)}, key=None
    )
    logits = np.asarray(objective.predict(images)["logits"])
    assert np.ptp(logits) > 0.1
    labels = 0.8 * SOFT + 0.2 / 7
    np.testing.assert_allclose(loss, numpy_loss(logits, labels, kind).mean(), rtol=1e-5)
    accuracy = (logits.argmax(-1) == SOFT.argmax(-1)).mean()
    np.testing.assert_allclose(metrics["accuracy"], accuracy, rtol=1e-6)


def test_the_head_starts_at_its_bias():
    objective = Supervised(
        encoder=encoder(head_bias=-4.5), loss="sigmoid", label_smoothing=0.0
    )
    logits = objective.predict(tiny.images())["logits"]
    np.testing.assert_allclose(logits, np.full((2, 7), -4.5), rtol=1e-6)


def test_predictions():
    objective = Supervised(encoder=encoder(), loss="softmax", label_smoothing=0.0)
    predicted = objective.predict(tiny.images())
    assert predicted.keys() == {"features", "logits"}
    assert predicted["features"].shape == (2, 24)
    assert predicted["logits"].shape == (2, 7)
    np.testing.assert_allclose(
        predicted["logits"], objective.encoder(tiny.images()), rtol=1e-6
    )


def test_predictions_of_two_heads_and_another_image_size():
    model = encoder(
        cls_token=True, distillation="head", pool="cls", dynamic_size=True, rope="axial"
    )
    for index, head in enumerate((model.head, model.head_distillation)):
        key = jax.random.key(index)
        head.kernel[...] = jax.random.normal(key, head.kernel.shape)
    objective = Supervised(encoder=model, loss="softmax", label_smoothing=0.0)
    images = tiny.images(image_size=(20, 30))
    predicted = objective.predict(images)
    tokens = model.tokens(images)
    np.testing.assert_allclose(predicted["features"], tokens[:, 0], rtol=1e-5)
    wanted = (model.head(tokens[:, 0]) + model.head_distillation(tokens[:, 1])) / 2
    np.testing.assert_allclose(predicted["logits"], wanted, rtol=1e-4, atol=1e-5)


def test_a_head_is_needed():
    with pytest.raises(ValueError, match=r"num_classes must be at least 1, got 0"):
        Supervised(encoder=encoder(num_classes=0), loss="softmax", label_smoothing=0.0)


def test_training_costs_three_forward_passes():
    model = encoder()
    objective = Supervised(encoder=model, loss="softmax", label_smoothing=0.0)
    assert objective.train_flops() == 3 * forward_flops(model) > 0


SEVERAL = np.random.default_rng(4).integers(0, 2, (6, 7))
ONE_EACH = np.eye(7)[[0, 3, 6, 2, 2, 5]]


@pytest.mark.parametrize(
    ("kind", "labels"),
    [("softmax", ONE_EACH), ("sigmoid", SEVERAL)],
    ids=["one_label", "several_labels"],
)
def test_a_handful_of_images_is_learned_by_heart_by_every_layer(kind, labels):
    objective = Supervised(encoder=classify.encoder(), loss=kind, label_smoothing=0.0)
    batch = classify.batch(rows=6) | {"labels": jnp.asarray(labels, jnp.float32)}
    assert small.unreached(classify.gradients(objective, batch)[0]) == []
    losses, metrics = classify.by_heart(objective, batch)
    assert losses[-1] < 0.02 * losses[0]
    assert metrics["accuracy"][-1] == 1.0


def test_objectives_by_name():
    section = dict(name="supervised", loss="sigmoid", label_smoothing=0.1)
    objective = objectives.build(section, encoder=encoder())
    assert isinstance(objective, Supervised)
    assert (objective.loss_kind, objective.label_smoothing) == ("sigmoid", 0.1)
    with pytest.raises(
        ValueError, match=r"objective.name 'mim' is unknown; known: sup"
    ):
        objectives.build(section | {"name": "mim"}, encoder=encoder())
    with pytest.raises(
        ValueError, match=r"objective.loss 'mse' is unknown; known: soft"
    ):
        objectives.build(section | {"loss": "mse"}, encoder=encoder())
