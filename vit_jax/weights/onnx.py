"""ONNX: one `.onnx` file with any batch, by jax2onnx.

jax2onnx needs an older orbax-checkpoint than training, so that the two cannot share an
environment: `instructions` says how to make one for it.
"""

import importlib.metadata
import importlib.util
import json
import logging
import pathlib
import shlex
import sys
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

import vit_jax
from vit_jax.models.vit import ViT
from vit_jax.weights import serving
from vit_jax.weights.base import Card

ENVIRONMENT = "onnx-env"
# jax2onnx brings flax, which brings what reads work directories.
PACKAGES = ("jax2onnx", "onnxruntime", "safetensors", "jaxtyping", "absl-py")
MAX_BYTES = 1_900_000_000  # with more, numbers go into a file of their own


def is_available() -> bool:
    """Whether jax2onnx is installed."""
    return importlib.util.find_spec("jax2onnx") is not None


def instructions(command: Sequence[str], *, torch: bool = False) -> list[str]:
    """What to run where jax2onnx is not installed: words, and a line a command.

    Args:
      command: the words after ``vit-jax`` that were asked for.
      torch: reading the source needs it.
    """
    ours = [f"{name}=={importlib.metadata.version(name)}" for name in ("jax", "flax")]
    packages = [*PACKAGES, *ours, *(["torch"] if torch else [])]
    pip = [f"{ENVIRONMENT}/bin/pip", "install"]
    commands = [
        [sys.executable, "-m", "venv", ENVIRONMENT],
        [*pip, *packages],
        [*pip, "--no-deps", _this_package()],
        [f"{ENVIRONMENT}/bin/vit-jax", *command],
    ]
    return [
        "jax2onnx needs an environment of its own; these commands make it and write "
        "there what was asked for:",
        *(f"  {shlex.join(words)}" for words in commands),
    ]


def _this_package() -> str:
    """What pip installs this version of vit-jax from."""
    root = pathlib.Path(vit_jax.__file__).parents[1]
    if (root / "pyproject.toml").is_file():
        return str(root)
    try:
        origin = importlib.metadata.distribution("vit-jax").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        origin = None
    return json.loads(origin)["url"] if origin else f"vit-jax=={vit_jax.__version__}"


def write(path: pathlib.Path, model: ViT, card: Card) -> None:
    """Writes a file with the blocks written out and the description as metadata.

    The parameters of a model beyond 1.9 GB go into ``PATH.data`` beside it.
    """
    import onnx
    from jax2onnx import to_onnx  # pyright: ignore

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # remarks on every constant
    constants = {
        name: np.asarray(array)
        for name, array in serving.name_parameters(model).items()
    }
    apply = serving.as_unrolled_function(model)
    proto = to_onnx(
        lambda images: apply(constants, images),
        inputs=[
            jax.ShapeDtypeStruct(("batch", *serving.image_shape(model)), np.float32)
        ],
        input_names=["images"],
        output_names=[serving.output_name(model)],
        model_name="vit",
    )
    description = serving.describe(model, card)
    onnx.helper.set_model_props(  # pyright: ignore
        proto, {key: json.dumps(value) for key, value in description.items()}
    )
    large = sum(array.nbytes for array in constants.values()) > MAX_BYTES
    onnx.save_model(  # pyright: ignore
        proto, path, save_as_external_data=large, location=f"{path.name}.data"
    )


def run(
    path: pathlib.Path, images: Float[np.ndarray, "B H W C"]
) -> tuple[Float[np.ndarray, "B K"], str]:
    """Outputs of a written file, and which ONNX Runtime computed them on the CPU."""
    import onnxruntime  # pyright: ignore

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    (outputs,) = session.run(None, {"images": images})
    return outputs, f"ONNX Runtime {onnxruntime.__version__}"
