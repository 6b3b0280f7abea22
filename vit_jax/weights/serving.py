"""A model as a function of named parameters, and what is to be said of it.

What the exporters of programs share. The program computes in float32, with matrix
products in full precision on every device, and has nothing of training in it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.export
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vit_jax.models.vit import ViT
from vit_jax.weights.base import Card, Preprocessing
from vit_jax.weights.build import by_path

PLATFORMS = ("cpu", "cuda", "tpu")

# Of any model, whatever it was trained with.
FOR_INFERENCE = {"attention": "xla", "dtype": "float32", "remat": "none"}

Params = Mapping[str, Array]
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


def as_function(model: ViT, *, unrolled: bool = False) -> Function:
    """The model as a function of ``(params, images)`` that only computes.

    Args:
      model: its values are not used; ``params`` are by the names of
        `name_parameters`.
      unrolled: the blocks are written out, for those who optimise no loops.

    Returns:
      A function of parameters and normalised images ``[B, H, W, C]``; its result is
      logits ``[B, K]``, of a model without a head its features.
    """
    settings = settings_of(model) | FOR_INFERENCE
    make = functools.partial(ViT, **settings)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(key=jax.random.key(0))))
    treedef = jax.tree.structure(nnx.to_pure_dict(state))
    names = tuple(name_parameters(model))

    def apply(params: Params, images: jax.Array) -> jax.Array:
        tree = treedef.unflatten([params[name] for name in names])
        # Without jit a scan is a loop of Python, which tracing writes out.
        with jax.default_matmul_precision("highest"), jax.disable_jit(unrolled):
            return nnx.merge(graphdef, tree)(images)

    return apply


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
    """What a program needs to know to use the model, as JSON."""
    return {
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
