"""LiteRT (TensorFlow Lite): one `.tflite` file for phones, an image at a time."""

import functools
import importlib.metadata
import pathlib
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float

from vit_jax.models.vit import ViT
from vit_jax.weights import serving
from vit_jax.weights.base import Card
from vit_jax.weights.files import WeightsError
from vit_jax.weights.tensorflow import embed, import_tensorflow

MAX_BYTES = 2 << 30  # of the file's format


def write(path: pathlib.Path, model: ViT, card: Card) -> None:
    """Writes a file of built-in float32 operations with a batch of one.

    It has no place for the ``card``.

    Raises:
      WeightsError: the model is too large, or TensorFlow is not installed.
    """
    constants = {
        name: np.asarray(array)
        for name, array in serving.name_parameters(model).items()
    }
    if (size := sum(array.nbytes for array in constants.values())) >= MAX_BYTES:
        raise WeightsError(
            f"a LiteRT file holds less than {MAX_BYTES >> 30} GiB, the model's "
            f"parameters are {size / 2**30:.1f} GiB; choose another --to"
        )
    tf = import_tensorflow()
    apply = functools.partial(serving.as_unrolled_function(model), constants)
    compute = embed(apply, serving.image_shapes(model, batch=1))

    def serve(images: Any) -> dict[str, Any]:
        return {serving.output_name(model): compute(images)}

    images = tf.TensorSpec([1, *serving.image_shape(model)], tf.float32, name="images")
    function = tf.function(serve, input_signature=[images], autograph=False)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tf.Module()
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    path.write_bytes(converter.convert())


def run(
    path: pathlib.Path, images: Float[np.ndarray, "B H W C"]
) -> tuple[Float[np.ndarray, "B K"], str]:
    """Outputs of a written file image by image, and which library computed them."""
    interpreter, library = _interpreter(str(path))
    runner = interpreter.get_signature_runner()
    rows = [next(iter(runner(images=image[None]).values())) for image in images]
    return np.concatenate(rows), library


def _interpreter(path: str) -> tuple[Any, str]:
    try:
        from ai_edge_litert.interpreter import Interpreter  # pyright: ignore
    except ImportError:
        tf = import_tensorflow()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it will go some day
            return tf.lite.Interpreter(path), f"TensorFlow {tf.__version__}"
    version = importlib.metadata.version("ai-edge-litert")
    return Interpreter(path), f"ai-edge-litert {version}"
