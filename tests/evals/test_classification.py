"""Classification: exact over a whole split, for any batch size and devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import training
from tests.evals import small
from tests.models import tiny
from vit_jax import evals, setup_data, setup_evals
from vit_jax.data import augment, sources
from vit_jax.data.errors import DataError
from vit_jax.evals.classification import Classification, counts, summarize
from vit_jax.evals.knn import KNN
from vit_jax.objectives.base import merge
from vit_jax.objectives.base import split as take_apart


def parts_and_params(devices):
    config = training.tiny_config()
    parts = training.build(config, devices=jax.devices()[:devices])
    params = tiny.fill(parts.state_shapes.params)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, parts.state_shapes.params)
    return parts, jax.device_put(params, shardings)


@functools.cache
def by_numpy():
    """Accuracy and loss in float64 from logits of the whole split at once."""
    config = training.tiny_config()
    source = setup_data.open_source(config, "test")
    transform = augment.eval_transform(image_size=(8, 8), channels=1, resize=0)
    examples = [source[i] for i in range(len(source))]
    images = np.stack([transform(example["image"]) for example in examples])
    labels = np.array([example["label"] for example in examples])
    parts, params = parts_and_params(1)
    pixels = (images.astype(np.float32) / 255 - 0.5) / 0.5
    predict = jax.jit(lambda p, x: merge(parts.graphdef, p, {}).predict(x)["logits"])
    with jax.set_mesh(parts.mesh):
        logits = np.asarray(predict(params, pixels), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = -log_p[np.arange(len(labels)), labels].mean()
    return (logits.argmax(-1) == labels).mean(), loss, len(labels)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("batch_size", [16, 128])
def test_results_are_exact(batch_size, devices):
    accuracy, loss, examples = by_numpy()
    assert examples % batch_size
    parts, params = parts_and_params(devices)
    config = training.tiny_config(f"evals.val.batch_size={batch_size}")
    evaluator = setup_evals.build_evaluator(config, "val", parts=parts)
    assert isinstance(evaluator, evals.Evaluator)
    with jax.set_mesh(parts.mesh):
        result = evaluator.run(params, parts.frozen)
        again = evaluator.run(params, parts.frozen)
    evaluator.close()
    assert result == again
    assert result["examples"] == examples
    assert result["accuracy"] == accuracy
    assert 0 < accuracy < 1
    np.testing.assert_allclose(result["loss"], loss, rtol=1e-6)


def test_the_batch_size_is_that_of_training_unless_given():
    parts, _ = parts_and_params(1)
    evaluator = setup_evals.build_evaluator(training.tiny_config(), "val", parts=parts)
    assert evaluator.loader.batch_size == 16
    evaluator.close()


TEST = small.arrays(37, seed=1)
SETTINGS = dict(
    split="test",
    label_key="",
    labels="one",
    classes="all",
    batch_size=16,
    resize=0,
)


def expected():
    """The results once more, in float64 and example by example."""
    _, params, _ = take_apart(small.Linear())
    logits = small.features(TEST[0]) @ np.asarray(params["head"], np.float64)
    chance = np.exp(logits - logits.max(axis=1, keepdims=True))
    chance /= chance.sum(axis=1, keepdims=True)
    right = logits.argmax(axis=1) == TEST[1]
    gaps = 0.0
    for low in range(15):
        inside = (chance.max(axis=1) > low / 15) & (
            chance.max(axis=1) <= (low + 1) / 15
        )
        if inside.any():
            gap = abs(right[inside].mean() - chance.max(axis=1)[inside].mean())
            gaps += inside.mean() * gap
    return {
        "accuracy": right.mean(),
        "top5": 1.0,
        "loss": -np.log(chance[np.arange(37), TEST[1]]).mean(),
        "ece": gaps,
        "class_accuracy": np.mean([right[TEST[1] == c].mean() for c in range(5)]),
        "examples": 37,
    }


@pytest.mark.parametrize("devices", [1, 8])
def test_calibration_and_classes(devices):
    result = small.run(Classification, devices, settings=SETTINGS, test=TEST)
    assert 0.01 < expected()["ece"] < 1
    assert result == pytest.approx(expected(), rel=1e-5)
    named = Classification.results(SETTINGS)
    assert set(named) == set(result) - {"examples"}


def test_the_first_five_of_more_classes():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(40, 11)), rng.integers(11, size=40)
    mask = np.arange(40) < 33
    sums = counts(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), mask, None)
    best = np.argsort(-logits, axis=1)[:, :5]
    hits = (best == labels[:, None]).any(axis=1)[mask]
    assert 0 < hits.sum() < 33
    assert int(sums["top5"]) == hits.sum()


@pytest.mark.parametrize("calibrated", [True, False])
def test_of_a_calibrated_model_the_error_is_small(calibrated):
    """Labels are drawn from the very probabilities, or from sharper ones."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)) * 2
    gumbel = rng.gumbel(size=logits.shape)
    labels = (logits * (1 if calibrated else 3) + gumbel).argmax(axis=1)
    sums = counts(
        jnp.asarray(logits, jnp.float32),
        jnp.asarray(labels),
        np.ones(20_000, bool),
        None,
    )
    sums = {name: np.asarray(value, np.float64) for name, value in sums.items()}
    error = summarize(sums, per_class=True)["ece"]
    # 15 bins of 1,333 draws: each is off by some 0.012.
    assert (error < 0.02) == calibrated


SEVERAL = np.stack([TEST[1], (TEST[1] + 2) % 5, TEST[1]], axis=1)  # one of them twice
SEVERAL[::3, 1:], SEVERAL[::10] = -1, -1


@pytest.mark.parametrize("devices", [1, 8])
def test_several_labels_of_arrays(devices):
    """Right is any of them; the loss is of their probability together."""
    _, params, _ = take_apart(small.Linear())
    logits = small.features(TEST[0]) @ np.asarray(params["head"], np.float64)
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    right, losses = [], []
    for row, labels in zip(chance, SEVERAL, strict=True):
        if own := sorted({int(label) for label in labels} - {-1}):
            right.append(row.argmax() in own)
            losses.append(-np.log(row[own].sum()))
    assert 5 < sum(right) < len(right) < 37
    settings = SETTINGS | {"labels": "many"}
    result = small.run(
        Classification, devices, settings=settings, test=(TEST[0], SEVERAL)
    )
    assert result["examples"] == len(right)
    assert result["accuracy"] == np.mean(right)
    assert result["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert "class_accuracy" not in result


def test_several_labels_are_told_where_one_is_expected():
    for kind, settings in (
        (Classification, SETTINGS),
        (KNN, dict(train_split="test", split="test", k=3, temperature=0.1)),
    ):
        with pytest.raises(DataError, match=r"small 'test' have several labels.*many'"):
            small.run(
                kind,
                settings=settings | {"batch_size": 16, "resize": 0},
                test=(TEST[0], SEVERAL),
            )


def test_the_form_of_labels_is_that_of_the_source(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, image=TEST[0], label=SEVERAL, one_image=TEST[0], one_label=TEST[1])
    spec = sources.DataSpec(f"arrays:{path}", many=True)
    assert sources.open_source(spec, "train").label_shape == (3,)
    with pytest.raises(DataError, match="here each has one"):
        sources.open_source(spec, "one")
