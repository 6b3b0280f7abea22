"""SavedModel and LiteRT. TensorFlow runs in two processes of its own, for both.

One writes and compares; the other has only what somebody has who was given the files.
"""

import importlib.util
import json

import pytest

from tests.weights import exports
from vit_jax.weights import WeightsError, litert

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
)

NAMES = {
    "savedmodel": ("gap", "distilled"),
    "litert": ("gap", "distilled", "map", "swiglu", "trained otherwise", "stem"),
}

# Only TensorFlow. Each of the two is tried, whatever becomes of the other.
READ = """
import json, sys, traceback
sys.modules["jax"] = None
import numpy as np
import tensorflow as tf


def savedmodel(folder, names):
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


def litert(folder, names):
    for name in names:
        interpreter = tf.lite.Interpreter(f"{folder}/{name}")
        runner = interpreter.get_signature_runner("serving_default")
        data = np.load(f"{folder}/{name}.npz")
        (detail,) = runner.get_input_details().values()
        assert detail["shape"].tolist() == [1, *data["images"].shape[1:]]
        assert detail["dtype"] is np.float32
        ops = {entry["op_name"] for entry in interpreter._get_ops_details()}
        assert not ops & {"WHILE", "CUSTOM"}, ops
        for image, wanted in zip(data["images"], data["wanted"], strict=True):
            (outputs,) = runner(images=image[None]).values()
            assert np.abs(outputs - wanted).max() <= 1e-5


errors = {}
for to, names in json.loads(sys.argv[2]).items():
    try:
        globals()[to](f"{sys.argv[1]}/{to}", names)
        errors[to] = ""
    except Exception:
        errors[to] = traceback.format_exc()
print(json.dumps(errors))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a folder for each format, and what was compared and printed."""
    folder = tmp_path_factory.mktemp("tensorflow")
    return folder, exports.write_elsewhere(folder, NAMES)


@pytest.fixture(scope="module")
def errors(written):
    """What went wrong with TensorFlow alone, by format."""
    output = exports.run_python(READ, written[0], json.dumps(NAMES), package=False)
    return json.loads(output.splitlines()[-1])


def test_savedmodel_computes_the_same(written):
    results, lines = written[1]["savedmodel"]
    for name in NAMES["savedmodel"]:
        difference, allowed, library = results[name]
        assert difference <= 1e-5 < allowed
        assert library.startswith("TensorFlow 2.")
    assert "output: logits, float32 [batch, 7]; classes: class 0" in lines[-2]
    assert lines[-1].startswith("checked with TensorFlow 2.")


def test_the_interpreter_computes_the_same(written):
    results, lines = written[1]["litert"]
    for name in NAMES["litert"]:
        difference, allowed, library = results[name]
        assert difference <= 1e-5 < 1e-3 <= allowed
        assert library.startswith(("TensorFlow 2.", "ai-edge-litert "))
    assert "input: float32 [1, 12, 20, 3]" in lines[-3]
    assert lines[-1].startswith("checked with ")


@pytest.mark.parametrize(("to", "most"), [("savedmodel", 5e-4), ("litert", 5e-3)])
def test_another_model_is_noticed(written, to, most):
    difference, allowed, _ = written[1][to][0]["another bias"]
    assert difference == pytest.approx(0.01, rel=0.01)
    assert allowed < most


def test_tensorflow_alone_serves_any_batch_from_variables(errors):
    assert not errors["savedmodel"], errors["savedmodel"]


def test_the_interpreter_alone_runs_the_blocks_without_a_loop(errors):
    assert not errors["litert"], errors["litert"]


def test_the_description_is_in_the_folder(written):
    file = written[0] / "savedmodel" / "output" / "assets.extra" / "model.json"
    found = json.loads(file.read_text())
    assert found["licence"] == "mit"
    assert found["class_names"] == list(exports.NAMES)
    assert found["preprocessing"]["std"] == [0.2, 0.3, 0.4]


def test_a_model_beyond_the_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(litert, "MAX_BYTES", 1000)
    model = exports.build()
    with pytest.raises(WeightsError, match=r"LiteRT file holds less than.*--to"):
        litert.write(tmp_path / "vit.tflite", model, exports.card(model))
    assert list(tmp_path.iterdir()) == []
