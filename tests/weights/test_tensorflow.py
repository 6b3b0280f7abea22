"""TensorFlow runs in processes of its own, which keeps this one free of it."""

import importlib.util
import json

import pytest

from tests.weights import exports

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
)

NAMES = ("gap", "distilled")

# Only TensorFlow: what somebody has who was given the folder.
SERVE = """
import sys
sys.modules["jax"] = None
import numpy as np
import tensorflow as tf

folder, *names = sys.argv[1:]
for name in names:
    module = tf.saved_model.load(f"{folder}/{name}")
    serve = module.signatures["serving_default"]
    (spec,) = serve.structured_input_signature[1].values()
    assert spec.shape.as_list() == [None, 12, 20, 3], spec
    data = np.load(f"{folder}/{name}.npz")
    for batch in (1, 3):
        (outputs,) = serve(images=tf.constant(data["images"][:batch])).values()
        assert np.abs(outputs - data["wanted"][:batch]).max() <= 1e-5

module = tf.saved_model.load(f"{folder}/gap")
serve, data = module.signatures["serving_default"], np.load(f"{folder}/gap.npz")
assert len(module.params) == 23
module.params["head/bias"].assign_add(tf.ones(7))
outputs = serve(images=tf.constant(data["images"]))["logits"]
assert np.abs(outputs - data["wanted"] - 1.0).max() <= 1e-5
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with SavedModels, what was compared, and the lines of the command."""
    folder = tmp_path_factory.mktemp("savedmodel")
    return folder, *exports.write_elsewhere("savedmodel", folder, NAMES)


def test_tensorflow_computes_the_same(written):
    _, results, lines = written
    for name in NAMES:
        difference, allowed, library = results[name]
        assert difference <= 1e-5 < allowed
        assert library.startswith("TensorFlow 2.")
    assert "output: logits, float32 [batch, 7]; classes: class 0" in lines[-2]
    assert lines[-1].startswith("checked with TensorFlow 2.")


def test_another_model_is_noticed(written):
    difference, allowed, _ = written[1]["another bias"]
    assert difference == pytest.approx(0.01, rel=0.01)
    assert allowed < 5e-4


def test_tensorflow_alone_serves_any_batch_from_variables(written):
    exports.run_python(SERVE, written[0], *NAMES, package=False)


def test_the_description_is_in_the_folder(written):
    file = written[0] / "output" / "assets.extra" / "model.json"
    found = json.loads(file.read_text())
    assert found["licence"] == "mit"
    assert found["class_names"] == list(exports.NAMES)
    assert found["preprocessing"]["std"] == [0.2, 0.3, 0.4]
