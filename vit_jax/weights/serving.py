"""A model as a function of named parameters, and what is to be said of it.

What the exporters of programs share. The program computes in float32, with matrix
products in full precision on every device, and has nothing of training in it.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.export
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vit_jax.models.vit import ViT
from vit_jax.weights.base import Card, Params, Preprocessing
from vit_jax.weights.build import by_path
from vit_jax.weights.table import BLOCKS

PLATFORMS = ("cpu", "cuda", "tpu")

# Of any model, whatever it was trained with.
FOR_INFERENCE = {"attention": "xla", "dtype": "float32", "remat": "none"}

Function = Callable[[Params, Float[Array, "B H W C"]], Float[Array, "B K"]]


def name_parameters(model: ViT) -> dict[str, Array]:
    """A model's parameters by path, such as ``blocks/mlp/hidden/kernel``."""
    return by_path(nnx.to_pure_dict(nnx.state(model)))


def settings_of(model: ViT) -> dict[str, Any]:
    """The keyword arguments that a model was built with, all of them."""
    settings = model.settings
    return {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
    }


def as_function(model: ViT) -> Function:
    """The model as a function of ``(params, images)`` that only computes.

    Args:
      model: its values are not used; ``params`` are by the names of
        `name_parameters`.

    Returns:
      A function of parameters and normalised images ``[B, H, W, C]``; its result is
      logits ``[B, K]``, of a model without a head its features.
    """
    build = _builder(settings_of(model))

    def apply(params: Params, images: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return build(params)(images)

    return apply


def as_unrolled_function(model: ViT) -> Function:
    """The same with the blocks written out, for those who optimise no loops.

    Parameters that are constants are cut into layers before anyone sees them.
    """
    build = _builder(settings_of(model) | {"depth": 1})

    def layer(params: Params, index: int) -> ViT:
        return build(
            {
                name: leaf[index : index + 1] if name.startswith(BLOCKS) else leaf
                for name, leaf in params.items()
            }
        )

    def apply(params: Params, images: jax.Array) -> jax.Array:
        *others, last = (layer(params, index) for index in range(model.depth))
        # Without jit a scan, here of one block, is written out too.
        with jax.default_matmul_precision("highest"), jax.disable_jit():
            tokens = last.embed(images)
            for other in others:
                other.norm = None
                tokens = other.encode(tokens)
            return last.logits(last.encode(tokens))

    return apply


def _builder(settings: Mapping[str, Any]) -> Callable[[Params], ViT]:
    """Makes models of named parameters."""
    make = functools.partial(ViT, **{**settings, **FOR_INFERENCE})
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(key=jax.random.key(0))))
    tree = nnx.to_pure_dict(state)
    treedef, names = jax.tree.structure(tree), tuple(by_path(tree))

    def build(params: Params) -> ViT:
        return nnx.merge(graphdef, treedef.unflatten([params[name] for name in names]))

    return build


def image_shape(model: ViT) -> tuple[int, int, int]:
    """Height, width and channels of the input."""
    return (*model.image_size, model.channels)


def image_shapes(model: ViT, *, batch: int | None = None) -> jax.ShapeDtypeStruct:
    """What the program is traced with: a batch of any size, or of ``batch``."""
    sizes = ", ".join(map(str, (batch or "b", *image_shape(model))))
    return jax.ShapeDtypeStruct(jax.export.symbolic_shape(sizes), np.float32)


def parameter_shapes(model: ViT) -> dict[str, jax.ShapeDtypeStruct]:
    """The same for the parameters."""
    return {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in name_parameters(model).items()
    }


def output_name(model: ViT) -> str:
    """What the model's output is: ``"logits"``, or without a head ``"features"``."""
    return "logits" if model.num_classes else "features"


def output_width(model: ViT) -> int:
    """Length of an image's output."""
    settings = model.settings
    return settings.num_classes or settings.pre_logits or settings.num_features


def describe(model: ViT, card: Card) -> dict[str, Any]:
    """What a program needs to know to use the model, as a JSON object."""
    content = {
        "name": card.name,
        "input": {
            "name": "images",
            "shape": ["batch", *image_shape(model)],
            "axes": "batch, height, width, channels (RGB where there are 3)",
            "dtype": "float32",
        },
        "output": {
            "name": output_name(model),
            "shape": ["batch", output_width(model)],
            "dtype": "float32",
        },
        "preprocessing": {
            **dataclasses.asdict(card.preprocessing),
            "in_words": preparation(card.preprocessing),
        },
        "class_names": list(card.class_names),
        "licence": card.licence,
        "dataset": card.dataset,
        "metrics": dict(card.metrics),
        "source": card.source,
        "config": dict(card.config),
    }
    # JSON has no NaN, and a diverged run's results have.
    return json.loads(json.dumps(content, default=str), parse_constant=str)


def preparation(how: Preprocessing) -> str:
    """How images are made into the input, in one sentence."""
    height, width = how.image_size
    resized = f"resized to {height}x{width} (height x width, {how.interpolation})"
    if how.resize:
        resized = (
            f"resized to a smaller side of {how.resize} ({how.interpolation}), their "
            f"central {height}x{width} (height x width)"
        )
    mean, std = (
        ", ".join(f"{value:g}" for value in values) for values in (how.mean, how.std)
    )
    return f"images {resized}, bytes / 255, minus ({mean}), divided by ({std})"
