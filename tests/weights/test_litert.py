"""TensorFlow runs in processes of its own, which keeps this one free of it."""

import importlib.util

import pytest

from tests.weights import exports
from vit_jax.weights import WeightsError, litert

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
)

NAMES = ("gap", "distilled", "map", "swiglu", "trained otherwise", "stem")

# Only the interpreter: what a program has that was given the file.
INTERPRET = """
import sys
sys.modules["jax"] = None
import numpy as np
import tensorflow as tf

folder, *names = sys.argv[1:]
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
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with files, what was compared, and the lines of the command."""
    folder = tmp_path_factory.mktemp("litert")
    return folder, *exports.write_elsewhere("litert", folder, NAMES)


def test_the_interpreter_computes_the_same(written):
    _, results, lines = written
    for name in NAMES:
        difference, allowed, library = results[name]
        assert difference <= 1e-5 < 1e-3 <= allowed
        assert library.startswith(("TensorFlow 2.", "ai-edge-litert "))
    assert "input: float32 [1, 12, 20, 3]" in lines[-3]
    assert lines[-1].startswith("checked with ")


def test_another_model_is_noticed(written):
    difference, allowed, _ = written[1]["another bias"]
    assert difference == pytest.approx(0.01, rel=0.01)
    assert allowed < 5e-3


def test_the_interpreter_alone_runs_the_blocks_without_a_loop(written):
    exports.run_python(INTERPRET, written[0], *NAMES, package=False)


def test_a_model_beyond_the_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(litert, "MAX_BYTES", 1000)
    model = exports.build()
    with pytest.raises(WeightsError, match=r"LiteRT file holds less than.*--to"):
        litert.write(tmp_path / "vit.tflite", model, exports.card(model))
    assert list(tmp_path.iterdir()) == []
