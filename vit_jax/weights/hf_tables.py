"""Hugging Face transformers' names of our parameters, a table per family of models.

The library has renamed parameters in its version 5 and reads and writes the old names
still; a family's tables are both generations, the old one (for writing) first.
"""

import dataclasses
from collections.abc import Container, Mapping
from typing import Any

from vit_jax.weights import codecs
from vit_jax.weights.base import HALF, IMAGENET_MEAN, IMAGENET_STD
from vit_jax.weights.table import Codec, Row

QKV = ("query", "key", "value")


@dataclasses.dataclass(frozen=True)
class Names:
    """What the parameters of an encoder are called; ``{i}`` stands for the layer.

    Args:
      modules: our module to the start of theirs' ``weight`` and ``bias``.
      packed: the same where one array of theirs holds several modules.
      leaves: our parameter to theirs.
      table: how the position table is kept.
    """

    modules: Mapping[str, str]
    packed: Mapping[tuple[str, ...], str] = dataclasses.field(default_factory=dict)
    leaves: Mapping[str, str] = dataclasses.field(default_factory=dict)
    table: Codec = codecs.same

    def __contains__(self, ours: object) -> bool:
        packed = {module for modules in self.packed for module in modules}
        return ours in {*self.modules, *self.leaves, *packed}

    @property
    def layers(self) -> str:
        """What the names of the layers start with, before the number."""
        return self.modules["blocks/attention_norm"].partition("{i}")[0]


@dataclasses.dataclass(frozen=True)
class Family:
    """What is common to a family, and what its configs leave out.

    Args:
      names: its generations and variants.
      pool: without and with a classifier.
      activation, norm_epsilon, num_heads: the defaults of its config.
      biases: the switch in the config for a module's bias, and its default.
      mean, std: of its models' input.
      square: the library has no positions for images that are no square, but resamples
        the table, which it takes for a square one.
    """

    names: tuple[Names, ...]
    pool: tuple[str, str]
    norm_epsilon: float
    activation: str = "gelu"
    num_heads: int = 12
    biases: Mapping[str, tuple[str, bool]] = dataclasses.field(default_factory=dict)
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    square: bool = False


def _blocks(layer: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"blocks/{ours}": layer + theirs for ours, theirs in names.items()}


_PROJECTION = {"embedding": "embeddings.patch_embeddings.projection."}
_ATTENTION_4 = {
    "attention/query": "attention.attention.query.",
    "attention/key": "attention.attention.key.",
    "attention/value": "attention.attention.value.",
    "attention/out": "attention.output.dense.",
}
_ATTENTION_5 = {
    "attention/query": "attention.q_proj.",
    "attention/key": "attention.k_proj.",
    "attention/value": "attention.v_proj.",
    "attention/out": "attention.o_proj.",
}
_FC = {"mlp/hidden": "mlp.fc1.", "mlp/out": "mlp.fc2."}
_GATED = {
    "mlp/gate": "mlp.gate_proj.",
    "mlp/hidden": "mlp.up_proj.",
    "mlp/out": "mlp.down_proj.",
}

_VIT = _PROJECTION | {"norm": "layernorm.", "pre_logits": "pooler.dense."}
_VIT_NORMS = {"attention_norm": "layernorm_before.", "mlp_norm": "layernorm_after."}
_VIT_MLP_4 = {"mlp/hidden": "intermediate.dense.", "mlp/out": "output.dense."}
_VIT_LEAVES = {
    "cls": "embeddings.cls_token",
    "position_embedding": "embeddings.position_embeddings",
}


def _vit(leaves: Mapping[str, str]) -> tuple[Names, ...]:
    old = _blocks("encoder.layer.{i}.", _VIT_NORMS | _ATTENTION_4 | _VIT_MLP_4)
    new = _blocks("layers.{i}.", _VIT_NORMS | _ATTENTION_5 | _FC)
    return Names(_VIT | old, leaves=leaves), Names(_VIT | new, leaves=leaves)


_DINO_NORMS = {"attention_norm": "norm1.", "mlp_norm": "norm2."}
_DINO_SCALES = {
    "attention_scale": "layer_scale1.lambda1",
    "mlp_scale": "layer_scale2.lambda1",
}


def _dinov2(leaves: Mapping[str, str]) -> tuple[Names, ...]:
    layer = "encoder.layer.{i}."
    top = _PROJECTION | {"norm": "layernorm."}
    leaves = {**leaves, **_blocks(layer, _DINO_SCALES)}
    # The gate is the first half of weights_in.
    gates = {("blocks/mlp/gate", "blocks/mlp/hidden"): f"{layer}mlp.weights_in."}
    out = {"mlp/out": "mlp.weights_out."}
    variants = (
        (_ATTENTION_4 | _FC, {}),
        (_ATTENTION_5 | _FC, {}),
        (_ATTENTION_4 | out, gates),
        (_ATTENTION_5 | _GATED, {}),
    )
    return tuple(
        Names(top | _blocks(layer, _DINO_NORMS | block), packed, leaves)
        for block, packed in variants
    )


def _dinov3() -> tuple[Names, ...]:
    top = {"embedding": "embeddings.patch_embeddings.", "norm": "norm."}
    tokens = {"cls": "embeddings.cls_token", "registers": "embeddings.register_tokens"}
    dense = {"mlp/hidden": "mlp.up_proj.", "mlp/out": "mlp.down_proj."}
    return tuple(
        Names(
            top | _blocks(layer, _DINO_NORMS | _ATTENTION_5 | mlp),
            leaves=tokens | _blocks(layer, _DINO_SCALES),
        )
        for layer in ("layer.{i}.", "model.layer.{i}.")
        for mlp in (dense, _GATED)
    )


def _siglip() -> Names:
    block = {
        "attention_norm": "layer_norm1.",
        **{f"attention/{part}": f"self_attn.{part[0]}_proj." for part in QKV},
        "attention/out": "self_attn.out_proj.",
        "mlp_norm": "layer_norm2.",
        **_FC,
    }
    modules = {
        "embedding": "embeddings.patch_embedding.",
        **_blocks("encoder.layers.{i}.", block),
        "norm": "post_layernorm.",
        "pooling/attention/out": "head.attention.out_proj.",
        "pooling/norm": "head.layernorm.",
        "pooling/mlp/hidden": "head.mlp.fc1.",
        "pooling/mlp/out": "head.mlp.fc2.",
    }
    return Names(
        modules,
        {tuple(f"pooling/attention/{part}" for part in QKV): "head.attention.in_proj_"},
        {
            "position_embedding": "embeddings.position_embedding.weight",
            "pooling/probe": "head.probe",
        },
        Codec(lambda array: (array[None],), lambda array: array[0]),
    )


_QKV_BIAS = {f"blocks/attention/{part}": ("qkv_bias", True) for part in QKV}
_MLP_BIAS = {
    f"blocks/mlp/{part}": ("mlp_bias", True) for part in ("hidden", "gate", "out")
}
_DINOV3_BIASES = {
    "blocks/attention/query": ("query_bias", True),
    "blocks/attention/key": ("key_bias", False),
    "blocks/attention/value": ("value_bias", True),
    "blocks/attention/out": ("proj_bias", True),
    **_MLP_BIAS,
}
_IMAGENET: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
_DINOV2: dict[str, Any] = {
    "pool": ("cls", "cls_gap"),
    "norm_epsilon": 1e-6,
    "biases": _QKV_BIAS,
    "square": True,
    **_IMAGENET,
}
_SIGLIP = Family(
    names=(_siglip(),),
    pool=("map", "gap"),
    norm_epsilon=1e-6,
    activation="gelu_pytorch_tanh",
    square=True,
)

# By the config's model_type.
FAMILIES: dict[str, Family] = {
    "vit": Family(_vit(_VIT_LEAVES), ("cls", "cls"), 1e-12, biases=_QKV_BIAS),
    "deit": Family(
        _vit(_VIT_LEAVES | {"distillation": "embeddings.distillation_token"}),
        pool=("cls", "cls"),
        norm_epsilon=1e-12,
        biases=_QKV_BIAS,
        **_IMAGENET,
    ),
    "dinov2": Family(_dinov2(_VIT_LEAVES), **_DINOV2),
    "dinov2_with_registers": Family(
        _dinov2(_VIT_LEAVES | {"registers": "embeddings.register_tokens"}), **_DINOV2
    ),
    "dinov3_vit": Family(
        _dinov3(),
        pool=("cls", "cls"),
        norm_epsilon=1e-5,
        num_heads=6,
        biases=_DINOV3_BIASES,
        **_IMAGENET,
    ),
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
}


def rows(
    names: Names,
    settings: Mapping[str, Any],
    *,
    prefix: str = "",
    heads: Mapping[str, str] | None = None,
    unbiased: Container[str] = (),
) -> list[Row]:
    """Where the parameters of a model with these settings are.

    Args:
      names: of the encoder.
      settings: of `ViT`, those of its parts.
      prefix: in front of the encoder's names.
      heads: names of ``head`` and ``head_distillation``.
      unbiased: modules whose bias is not kept.
    """
    single = {(ours,): theirs for ours, theirs in names.modules.items()}
    modules = {ours: prefix + name for ours, name in {**single, **names.packed}.items()}
    modules |= {(ours,): theirs for ours, theirs in (heads or {}).items()}
    found = []
    for ours, theirs in names.leaves.items():
        if _has(settings, ours):
            codec = names.table if ours == "position_embedding" else codecs.same
            found.append(Row(prefix + theirs, (ours,), codec))
    for ours, theirs in modules.items():
        if not _has(settings, ours[0]):
            continue
        weight, bias = _codecs(ours, settings["num_heads"])
        kind = "scale" if ours[0].endswith("norm") else "kernel"
        found.append(
            Row(f"{theirs}weight", tuple(f"{path}/{kind}" for path in ours), weight)
        )
        if ours[0] not in unbiased:
            found.append(
                Row(f"{theirs}bias", tuple(f"{path}/bias" for path in ours), bias)
            )
    return found


def _has(settings: Mapping[str, Any], ours: str) -> bool:
    """Whether a model with these settings has the parameter or module."""
    optional = {
        "distillation": settings["distillation"] != "none",
        "registers": settings["registers"] > 0,
        "pooling": settings["pool"] == "map",
        "pre_logits": settings["pre_logits"] > 0,
        "head": settings["num_classes"] > 0,
        "head_distillation": settings["distillation"] == "head",
    }
    return optional.get(ours.partition("/")[0], True)


def _codecs(ours: tuple[str, ...], num_heads: int) -> tuple[Codec, Codec]:
    """Of a module's weight and bias."""
    path = ours[0]
    if path == "embedding":
        return codecs.convolution, codecs.same
    if path.endswith("norm"):
        return codecs.same, codecs.same
    if path.endswith("attention/out"):
        return codecs.heads_out(num_heads), codecs.same
    if "attention/" in path:
        return (
            codecs.packed_heads_in(num_heads, len(ours)),
            codecs.packed_heads_bias(num_heads, len(ours)),
        )
    if len(ours) > 1:
        return codecs.packed_dense(len(ours)), codecs.packed_dense(len(ours))
    return codecs.transposed, codecs.same
