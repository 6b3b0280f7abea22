"""Folders of Hugging Face transformers: ViT, DeiT, DINOv2, DINOv3, SigLIP's images.

``config.json`` says what the arrays do not; without it the family is told by its arrays
and its published settings are taken. Names of both generations are read (hf_tables.py).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.weights import hf_preprocessing
from vit_jax.weights.arrays import Arrays, MissingArray
from vit_jax.weights.base import Inferred, Preprocessing
from vit_jax.weights.files import WeightsError
from vit_jax.weights.grids import square_grid
from vit_jax.weights.hf_config import Config, class_names
from vit_jax.weights.hf_tables import FAMILIES, Family, Names, rows
from vit_jax.weights.hf_write import write
from vit_jax.weights.table import Leaf, Row, constant

__all__ = ["infer", "recognise", "write"]

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
HEADS = {
    "classifier.": "head",
    "cls_classifier.": "head",
    "distillation_classifier.": "head_distillation",
}
# What tells a family without a config, in this order.
MARKS = {
    "embeddings.patch_embedding.weight": "siglip_vision_model",
    "embeddings.patch_embeddings.weight": "dinov3_vit",
    "embeddings.distillation_token": "deit",
    "embeddings.register_tokens": "dinov2_with_registers",
    ".0.layer_scale1.lambda1": "dinov2",
    "embeddings.patch_embeddings.projection.weight": "vit",
}
PATCHES = tuple(mark for mark in MARKS if mark.startswith("embeddings.patch"))
# Of training on masked images, and numbers from 0 on.
NOT_PARAMETERS = ("embeddings.mask_token", "embeddings.position_ids")
PIXELS = 224  # where no array depends on it and nothing says it


@dataclasses.dataclass(frozen=True)
class _Source:
    """A checkpoint and its family; modules and parameters go by our names."""

    arrays: Arrays
    kind: str
    config: Config
    family: Family
    names: Names
    prefix: str

    def name(self, ours: str, end: str = "weight") -> str:
        """Of the array, in the first layer where there are layers."""
        leaf = self.names.leaves.get(ours)
        theirs = leaf or f"{self.names.modules.get(ours)}{end}"
        return self.prefix + theirs.replace("{i}", "0")

    def has(self, ours: str, end: str = "weight") -> bool:
        return self.name(ours, end) in self.arrays

    def shape(self, ours: str, rank: int) -> tuple[int, ...]:
        """Of a weight or parameter, which must have this number of axes."""
        return self.shape_of(self.name(ours), rank)

    def shape_of(self, name: str, rank: int) -> tuple[int, ...]:
        """The same by their name."""
        shape = self.arrays.shape(name)
        if len(shape) != rank:
            raise self.error(f"{name} is {shape}, which are not {rank} axes")
        return shape

    def empty(self, name: str) -> bool:
        """Whether an array has no numbers, such as that of no registers."""
        try:
            self.arrays.shape(name)
        except MissingArray:
            return False
        except WeightsError:
            return True
        return False

    def error(self, reason: str) -> WeightsError:
        return WeightsError(f"{self.arrays.name}: {reason}")


def recognise(arrays: Arrays) -> bool:
    """Whether there are patch embeddings under this library's names."""
    return any(name.endswith(PATCHES) for name in arrays)


def infer(
    arrays: Arrays,
    *,
    num_heads: int | None = None,
    image_size: tuple[int, int] | None = None,
) -> Inferred:
    """The model of a folder or file.

    Args:
      arrays: with their config, if there is one.
      num_heads: where the config does not say; must be the config's if it does.
      image_size: it was trained at, where no config says so and the patches are no
        square.

    Raises:
      WeightsError: the family is not read here, the model computes something that
        ours does not, or something is missing; one line.
    """
    source = _open(arrays)
    heads = {
        ours: theirs for theirs, ours in HEADS.items() if f"{theirs}weight" in arrays
    }
    settings: dict[str, Any] = _sizes(source) | {
        "num_heads": _num_heads(source, num_heads)
    }
    settings |= _parts(source, heads) | _mlp(source)
    settings |= _positions(source, settings, image_size)
    unbiased = _unbiased(source)
    found = rows(
        source.names, settings, prefix=source.prefix, heads=heads, unbiased=unbiased
    )
    _refuse_unknown(source, found, settings["depth"])
    default = Preprocessing(
        settings["image_size"], source.family.mean, source.family.std
    )
    return Inferred(
        settings=settings,
        rows=found,
        preprocessing=hf_preprocessing.read(arrays, default),
        class_names=class_names(arrays, settings["num_classes"]),
        implied=_zeros(unbiased, settings),
    )


def _open(arrays: Arrays) -> _Source:
    kind = arrays.config.get("model_type")
    if kind is None:
        kind = next(
            kind
            for mark, kind in MARKS.items()
            if any(name.endswith(mark) for name in arrays)
        )
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise WeightsError(
            f"{arrays.name}: model_type {kind!r} is not read here; known: "
            + ", ".join(FAMILIES)
        )
    encoders = [name for name in arrays if name.endswith(PATCHES)]
    if len(encoders) > 1:
        raise WeightsError(
            f"{arrays.name}: holds several encoders: {', '.join(encoders)}"
        )
    prefix = encoders[0].rpartition("embeddings.patch_embedding")[0]
    family = FAMILIES[kind]

    def hits(names: Names) -> int:
        source = _Source(arrays, kind, config, family, names, prefix)
        packed = (f"{name}weight" for name in names.packed.values())
        return sum(map(source.has, names.modules)) + sum(
            prefix + name.replace("{i}", "0") in arrays for name in packed
        )

    config = Config(arrays)
    names = max(family.names, key=hits)  # the generation that explains most
    return _Source(arrays, kind, config, family, names, prefix)


def _sizes(source: _Source) -> dict[str, Any]:
    width, channels, *patch_size = source.shape("embedding", 4)
    depth = source.arrays.count(source.prefix + source.names.layers)
    expected = source.config.get("num_hidden_layers", int, depth)
    if depth != expected or not depth:
        raise source.error(f"has {depth} layers, its config.json says {expected}")
    return {
        "patch_size": tuple(patch_size),
        "channels": channels,
        "width": width,
        "depth": depth,
        "mlp_dim": source.shape("blocks/mlp/out", 2)[1],
    }


def _num_heads(source: _Source, asked: int | None) -> int:
    width = source.shape("embedding", 4)[0]
    default = source.family.num_heads if source.config.there else None
    recorded = source.config.get("num_attention_heads", int, default)
    if recorded is None and asked is None:
        raise source.error(
            "the number of heads is not in the file; give num_heads (--num_heads), "
            f"for a width of {width} often {max(1, width // 64)}"
        )
    if recorded is not None and asked not in (None, recorded):
        raise source.error(f"num_heads is {recorded} by its config.json, not {asked}")
    heads = recorded or asked
    if not heads or heads < 1 or width % heads:
        raise source.error(f"{heads} heads do not divide a width of {width}")
    return heads


def _parts(source: _Source, heads: Mapping[str, str]) -> dict[str, Any]:
    """Tokens, pooling, heads, and scales of branches."""
    names, classes = source.names, 0
    if "head" in heads:
        classes = source.shape_of(f"{heads['head']}weight", 2)[0]
    pool = source.family.pool[classes > 0]
    if pool == "map" and not source.has("pooling/probe"):
        pool = "gap"  # it has no pooling of its own
    distillation = "none"
    if "distillation" in names:
        distillation = "head" if "head_distillation" in heads else "token"
    pre_logits = 0
    if not classes and source.has("pre_logits"):
        pre_logits = source.shape("pre_logits", 2)[0]
        if (function := source.config.get("pooler_act", str, "tanh")) != "tanh":
            raise source.error(f"pooler_act {function!r} is not read here; known: tanh")
    registers = 0
    if "registers" in names and not source.empty(source.name("registers")):
        registers = source.shape("registers", 3)[1]
    scale = 0.0
    if "blocks/attention_scale" in names:
        # Only a first value: where it was 0 the trained ones are there all the same.
        scale = source.config.get("layerscale_value", float, 1.0) or 1.0
    return {
        "num_classes": classes,
        "pool": pool,
        "cls_token": "cls" in names,
        "distillation": distillation,
        "registers": registers,
        "pre_logits": pre_logits,
        "layer_scale": scale,
    }


def _mlp(source: _Source) -> dict[str, Any]:
    """Kind and activation of the MLP, and epsilon of the norms."""
    config, family = source.config, source.family
    epsilon = config.get("layer_norm_eps", float, family.norm_epsilon)
    gated = "blocks/mlp/gate" in source.names
    default = family.activation if config.there or not gated else "silu"
    function = config.get("hidden_act", str, default)
    known = dict.fromkeys(["silu"]) if gated else ACTIVATIONS
    # DINOv2 gates by SiLU whatever its config has.
    fixed = gated and source.kind != "dinov3_vit"
    if function not in known and not fixed:
        raise source.error(
            f"hidden_act {function!r} of such an MLP is not read here; known: "
            + ", ".join(known)
        )
    if gated:
        return {"norm_epsilon": epsilon, "mlp": "swiglu"}
    return {"norm_epsilon": epsilon, "activation": ACTIVATIONS[function]}


def _positions(
    source: _Source, settings: Mapping[str, Any], image_size: tuple[int, int] | None
) -> dict[str, Any]:
    """Positions, and the image size in whole patches: pixels left over are unseen."""
    (ph, pw), recorded = settings["patch_size"], source.config.size("image_size")
    size = recorded or image_size
    given = (size[0] // ph, size[1] // pw) if size else None
    if "position_embedding" not in source.names:
        grid = given or (PIXELS // ph, PIXELS // pw)
        positions: dict[str, Any] = {
            "position": "none",
            "rope": "dinov3",
            "rope_base": source.config.get("rope_theta", float, 100.0),
        }
    else:
        own = settings["cls_token"] + (settings["distillation"] != "none")
        rank = 3 if "cls" in source.names else 2
        patches = source.shape("position_embedding", rank)[-2] - own
        if source.family.square and size and size[0] != size[1]:
            given = None
        if recorded and given and math.prod(given) != patches:
            raise source.error(
                f"config.json has image_size {recorded}, {given[0]} x {given[1]} "
                f"patches, but there are positions for {patches}"
            )
        grid = square_grid(source.arrays.name, patches, given)
        positions = {"position": "learned_cls" if own else "learned"}
    return positions | {"image_size": (grid[0] * ph, grid[1] * pw)}


def _unbiased(source: _Source) -> list[str]:
    """Modules without a bias: as the config says, or else as the first layer is."""
    return [
        ours
        for ours, (switch, default) in source.family.biases.items()
        if ours in source.names.modules
        and not (
            source.config.get(switch, bool, default)
            if source.config.there
            else source.has(ours, "bias")
        )
    ]


def _zeros(modules: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Leaf]:
    """Biases of zero for the modules that have none."""
    width, heads, wide = (settings[key] for key in ("width", "num_heads", "mlp_dim"))
    shapes = dict.fromkeys(("query", "key", "value"), (heads, width // heads))
    shapes |= {"hidden": (wide,), "gate": (wide,), "out": (width,)}
    return {
        f"{module}/bias": constant(
            np.zeros((settings["depth"], *shapes[module.rpartition("/")[2]]))
        )
        for module in modules
    }


def _refuse_unknown(source: _Source, found: Sequence[Row], depth: int) -> None:
    """Raises where the encoder has arrays that would change what it computes."""
    known = {
        row.theirs.replace("{i}", str(layer)) for row in found for layer in range(depth)
    }
    parts = (f"{source.prefix}embeddings.", source.prefix + source.names.layers)
    unknown = [
        name
        for name in source.arrays
        if name.startswith(parts)
        and name not in known
        and not name.endswith(NOT_PARAMETERS)
        and not source.empty(name)
    ]
    if unknown:
        raise source.error(
            f"{len(unknown)} arrays of the encoder are not known, such as "
            f"{unknown[0]}; it is another model, or its config.json is another's"
        )
