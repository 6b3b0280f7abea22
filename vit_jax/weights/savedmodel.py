"""TensorFlow SavedModel: a `serving_default` signature over variables, any batch."""

import json
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float

from vit_jax.models.vit import ViT
from vit_jax.weights import serving
from vit_jax.weights.base import Card
from vit_jax.weights.tensorflow import embed, import_tensorflow

SIGNATURE = "serving_default"
DESCRIPTION = "assets.extra/model.json"  # a folder that TensorFlow leaves to others


def write(path: pathlib.Path, model: ViT, card: Card) -> None:
    """Writes a SavedModel whose parameters are variables, and a description in it.

    Raises:
      WeightsError: TensorFlow is not installed.
    """
    tf = import_tensorflow()
    params = serving.name_parameters(model)
    compute = embed(
        serving.as_function(model),
        serving.parameter_shapes(model),
        serving.image_shapes(model),
    )
    module = tf.Module()
    module.params = {
        name: tf.Variable(np.asarray(array), name=name)
        for name, array in params.items()
    }

    def serve(images: Any) -> dict[str, Any]:
        values = {name: variable.value() for name, variable in module.params.items()}
        return {serving.output_name(model): compute(values, images)}

    shape = [None, *serving.image_shape(model)]
    images = tf.TensorSpec(shape, tf.float32, name="images")
    signature = tf.function(serve, input_signature=[images], autograph=False)
    tf.saved_model.save(module, str(path), signatures={SIGNATURE: signature})
    description = path / DESCRIPTION
    description.parent.mkdir()
    content = serving.describe(model, card)
    description.write_text(json.dumps(content, indent=2) + "\n")


def run(
    path: pathlib.Path, images: Float[np.ndarray, "B H W C"]
) -> tuple[Float[np.ndarray, "B K"], str]:
    """Outputs of a written SavedModel, and which TensorFlow computed them."""
    tf = import_tensorflow()
    signature = tf.saved_model.load(str(path)).signatures[SIGNATURE]
    (outputs,) = signature(images=tf.constant(images)).values()
    return outputs.numpy(), f"TensorFlow {tf.__version__}"
