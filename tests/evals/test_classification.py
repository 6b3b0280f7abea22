"""Classification: exact over a whole split, for any batch size and devices."""

import functools

import jax
import numpy as np
import pytest

from tests import training
from tests.models import tiny
from vit_jax import evals, setup, setup_evals
from vit_jax.data import augment
from vit_jax.objectives.base import merge


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
    source = setup.open_source(config, "test")
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
