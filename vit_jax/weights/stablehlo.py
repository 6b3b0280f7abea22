"""StableHLO: the model as a program that any JAX runs, without this package.

A folder has the program, which takes the parameters as an argument, and the parameters
beside it; a single file has both in one. The batch is of any size.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.export
import numpy as np
from jaxtyping import Array, Float

from vit_jax.models.vit import ViT
from vit_jax.weights import serving
from vit_jax.weights.base import Card
from vit_jax.weights.files import WeightsError

PROGRAM, PARAMETERS, DESCRIPTION = "model.stablehlo", "params.safetensors", "model.json"
README = """\
# {name}

A Vision Transformer (arXiv 2010.11929) as a StableHLO program, for {platforms}.

- `{program}`: the program, serialised by `jax.export` of JAX {version}. JAX reads it in
  later versions for at least six months, see its promise of compatibility.
- `{parameters}`: the parameters, float32.
- `{description}`: shapes, preprocessing, class names and the order of the parameters.

Input: float32 `{images}`, any batch; {preparation}.
Output: {output}, float32 `{outputs}`.

It needs `pip install jax safetensors`, nothing else; `PATH` is this folder:

```python
import pathlib

import jax.export
import numpy as np
from safetensors.numpy import load_file

folder = pathlib.Path("PATH")
program = jax.export.deserialize((folder / "{program}").read_bytes())
params = load_file(folder / "{parameters}")
images = np.zeros({example}, np.float32)
{output} = program.call(params, images)
```

Licence: {licence}
"""


def write(path: pathlib.Path, model: ViT, card: Card) -> None:
    """Writes a folder with program, parameters, description and README."""
    params = serving.name_parameters(model)
    shapes = serving.parameter_shapes(model)
    program = _export(serving.as_function(model), shapes, serving.image_shapes(model))
    path.mkdir()
    (path / PROGRAM).write_bytes(program)
    _save_parameters(path / PARAMETERS, params)
    description = _describe(model, card, shapes)
    (path / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    (path / "README.md").write_text(_read_me(model, card))


def write_single_file(path: pathlib.Path, model: ViT, card: Card) -> None:
    """Writes one file, with the parameters inside the program.

    It takes longer to compile, no other parameters fit it, and there is no place for
    the ``card``.
    """
    params = serving.name_parameters(model)
    constants = {name: np.asarray(array) for name, array in params.items()}
    apply = functools.partial(serving.as_function(model), constants)
    path.write_bytes(_export(apply, serving.image_shapes(model)))


def _export(function: Callable[..., Any], *shapes: Any) -> bytearray:
    export = jax.export.export(jax.jit(function), platforms=serving.PLATFORMS)
    return export(*shapes).serialize()


def _save_parameters(file: pathlib.Path, params: Mapping[str, Array]) -> None:
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(array) for name, array in params.items()}
    save_file(arrays, file)


def _describe(model: ViT, card: Card, shapes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **serving.describe(model, card),
        "format": "jax.export",
        "jax": jax.__version__,
        "platforms": serving.PLATFORMS,
        "call": f"jax.export.deserialize(bytes of {PROGRAM}).call(params, images)",
        # As they lie in the program; `call` takes them by name.
        "parameters": [
            {"name": name, "shape": shapes[name].shape, "dtype": "float32"}
            for name in sorted(shapes)
        ],
    }


def _read_me(model: ViT, card: Card) -> str:
    height_width_channels = ", ".join(map(str, serving.image_shape(model)))
    return README.format(
        name=" ".join(card.name.split()),
        platforms=", ".join(serving.PLATFORMS),
        program=PROGRAM,
        parameters=PARAMETERS,
        description=DESCRIPTION,
        version=jax.__version__,
        images=f"[batch, {height_width_channels}]",
        preparation=serving.preparation(card.preprocessing),
        output=serving.output_name(model),
        outputs=f"[batch, {serving.output_width(model)}]",
        example=f"(4, {height_width_channels})",
        licence=card.licence or "not stated; choose one before you share the weights.",
    )


def load_stablehlo(
    path: str | pathlib.Path,
) -> Callable[[Float[Any, "B H W C"]], Float[Array, "B K"]]:
    """A written folder or single file as a function of normalised images.

    Needs JAX, and safetensors for a folder; nothing of the model's own code.

    Raises:
      WeightsError: there is no such program.
    """
    path = pathlib.Path(path).expanduser()
    file = path / PROGRAM if path.is_dir() else path
    try:
        program = jax.export.deserialize(bytearray(file.read_bytes()))
    except OSError:
        raise WeightsError(f"{file}: no such file") from None
    except Exception as error:  # flatbuffers' own kinds
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise WeightsError(f"{file}: not a program of jax.export: {line}") from None
    if not path.is_dir():
        return jax.jit(program.call)
    from safetensors.numpy import load_file

    params = jax.device_put(load_file(path / PARAMETERS))
    return functools.partial(jax.jit(program.call), params)


def run(
    path: pathlib.Path, images: Float[np.ndarray, "B H W C"]
) -> tuple[Float[np.ndarray, "B K"], str]:
    """Outputs of what was written, and which JAX computed them."""
    outputs = load_stablehlo(path)(images)
    return np.asarray(outputs), f"JAX {jax.__version__} (jax.export)"
