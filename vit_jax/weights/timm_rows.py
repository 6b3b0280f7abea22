"""The arrays of timm's VisionTransformer and which of our parameters they hold."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.weights import codecs
from vit_jax.weights.arrays import Arrays
from vit_jax.weights.files import WeightsError
from vit_jax.weights.table import BLOCKS, Codec, Leaf, Row, constant

# Arrays of these parts change what a model computes; any others are left unused.
_COMPUTES = (
    *("blocks.", "patch_embed.", "attn_pool.", "norm.", "norm_pre.", "fc_norm."),
    *("cls_", "reg_", "register", "dist_token", "pos_embed", "pre_logits."),
    *("rope", "freqs", "rel_pos", "shared_rel_pos"),
)

# Biases that some models are without; those of the norms tell their kind.
_BIASES = ("patch_embed.", ".qkv.", ".proj.", ".mlp.", "attn_pool.q.", "attn_pool.kv.")


@dataclasses.dataclass(frozen=True)
class Names:
    """What is not called the same in all files; the defaults are timm's.

    Args:
      scale: layer scale, with ``%d`` for 1 or 2.
      registers: the register tokens.
      hidden, out: the MLP's dense layers.
      gate: a SwiGLU's gate where it is not the first half of ``hidden``.
    """

    scale: str = "ls%d.gamma"
    registers: str = "reg_token"
    hidden: str = "fc1"
    out: str = "fc2"
    gate: str = ""


def find_names(arrays: Arrays) -> Names:
    """What they are called in a file: timm's, or as DeiT-III and DINOv2 have them."""
    names = Names()
    if "blocks.0.gamma_1" in arrays:
        names = dataclasses.replace(names, scale="gamma_%d")
    if "register_tokens" in arrays:
        names = dataclasses.replace(names, registers="register_tokens")
    if "blocks.0.mlp.w12.weight" in arrays:
        names = dataclasses.replace(names, hidden="w12", out="w3")
    if "blocks.0.mlp.fc1_g.weight" in arrays:
        names = dataclasses.replace(names, hidden="fc1_x", gate="fc1_g")
    return names


def build_rows(settings: Mapping[str, Any], names: Names) -> list[Row]:
    """Rows for every parameter of a model, biases included.

    Args:
      settings: those that decide which arrays there are, and ``num_heads``.
      names: of the file.
    """
    distilled = settings["distillation"] != "none"
    final = settings["final_norm"]
    tokens = (
        (settings["cls_token"], "cls_token", "cls"),
        (distilled, "dist_token", "distillation"),
        (settings["registers"], names.registers, "registers"),
        # A table of zeros where timm insists on one.
        (settings["position"] != "none" or distilled, "pos_embed", POSITION),
    )
    norm = functools.partial(_norm, settings["norm"])
    rows = [
        Row("patch_embed.proj.weight", ("embedding/kernel",), codecs.convolution),
        Row("patch_embed.proj.bias", ("embedding/bias",), codecs.same),
        *(Row(theirs, (ours,), codecs.same) for on, theirs, ours in tokens if on),
        *_block(settings, names),
        *(norm("norm", "norm") if final != "features" else ()),
        *(norm("fc_norm", "head_norm") if final != "tokens" else ()),
    ]
    if settings["pool"] == "map":
        rows += _pooling(settings)
    if settings["pre_logits"]:
        rows += _dense("pre_logits.fc", "pre_logits")
    if settings["num_classes"]:
        rows += _dense("head", "head")
        if settings["distillation"] == "head":
            rows += _dense("head_dist", "head_distillation")
    return rows


POSITION = "position_embedding"


def _norm(kind: str, theirs: str, ours: str) -> list[Row]:
    rows = [Row(f"{theirs}.weight", (f"{ours}/scale",), codecs.same)]
    if kind == "layer":
        rows.append(Row(f"{theirs}.bias", (f"{ours}/bias",), codecs.same))
    return rows


def _dense(theirs: str, *ours: str) -> list[Row]:
    """A dense layer, or several packed in one."""
    packed = codecs.packed_dense(len(ours))
    return [
        Row(f"{theirs}.weight", tuple(f"{path}/kernel" for path in ours), packed),
        Row(f"{theirs}.bias", tuple(f"{path}/bias" for path in ours), packed),
    ]


def _into_heads(theirs: str, heads: int, *ours: str) -> list[Row]:
    """Projections into heads, packed in one; all heads of one before the next."""

    def row(name: str, leaf: str, codec: Codec) -> Row:
        return Row(f"{theirs}.{name}", tuple(f"{path}/{leaf}" for path in ours), codec)

    parts = len(ours)
    return [
        row("weight", "kernel", codecs.packed_heads_in(heads, parts)),
        row("bias", "bias", codecs.packed_heads_bias(heads, parts)),
    ]


def _out_of_heads(theirs: str, heads: int, ours: str) -> list[Row]:
    return [
        Row(f"{theirs}.weight", (f"{ours}/kernel",), codecs.heads_out(heads)),
        Row(f"{theirs}.bias", (f"{ours}/bias",), codecs.same),
    ]


def _block(settings: Mapping[str, Any], names: Names) -> list[Row]:
    """Rows of one block, for all."""
    heads, theirs, ours = settings["num_heads"], "blocks.{i}", BLOCKS.rstrip("/")
    norm = functools.partial(_norm, settings["norm"])
    attention = f"{ours}/attention"
    into = [f"{attention}/{name}" for name in ("query", "key", "value")]
    rows = [
        *norm(f"{theirs}.norm1", f"{ours}/attention_norm"),
        *_into_heads(f"{theirs}.attn.qkv", heads, *into),
        *_out_of_heads(f"{theirs}.attn.proj", heads, f"{attention}/out"),
        *norm(f"{theirs}.norm2", f"{ours}/mlp_norm"),
        *_mlp(settings, names),
    ]
    if settings["qk_norm"]:
        rows += norm(f"{theirs}.attn.q_norm", f"{attention}/query_norm")
        rows += norm(f"{theirs}.attn.k_norm", f"{attention}/key_norm")
    if settings["layer_scale"]:
        for number, branch in ((1, "attention"), (2, "mlp")):
            name = f"{theirs}.{names.scale % number}"
            rows.append(Row(name, (f"{ours}/{branch}_scale",), codecs.same))
    return rows


def _mlp(settings: Mapping[str, Any], names: Names) -> list[Row]:
    theirs, ours = "blocks.{i}.mlp.", f"{BLOCKS}mlp/"
    rows = _dense(theirs + names.out, ours + "out")
    if names.gate:
        rows += _dense(theirs + names.gate, ours + "gate")
    if settings["mlp"] == "swiglu" and not names.gate:
        return rows + _dense(theirs + names.hidden, ours + "gate", ours + "hidden")
    return rows + _dense(theirs + names.hidden, ours + "hidden")


def _pooling(settings: Mapping[str, Any]) -> list[Row]:
    heads, theirs, ours = settings["num_heads"], "attn_pool", "pooling"
    attention = f"{ours}/attention"
    into = (f"{attention}/key", f"{attention}/value")
    return [
        Row(f"{theirs}.latent", (f"{ours}/probe",), codecs.same),
        *_into_heads(f"{theirs}.q", heads, f"{attention}/query"),
        *_into_heads(f"{theirs}.kv", heads, *into),
        *_out_of_heads(f"{theirs}.proj", heads, f"{attention}/out"),
        *_norm(settings["norm"], f"{theirs}.norm", f"{ours}/norm"),
        *_dense(f"{theirs}.mlp.fc1", f"{ours}/mlp/hidden"),
        *_dense(f"{theirs}.mlp.fc2", f"{ours}/mlp/out"),
    ]


def imply_biases(
    arrays: Arrays, rows: Sequence[Row], depth: int
) -> tuple[list[Row], dict[str, Leaf]]:
    """Leaves out rows of biases that a file is without; they are implied zeros.

    Returns:
      The other rows, and the zeros by our path.
    """
    kept, implied = [], {}
    for row in rows:
        name = row.theirs.replace("{i}", "0")
        weight = name.removesuffix("bias") + "weight"
        optional = name.endswith(".bias") and any(part in name for part in _BIASES)
        if not optional or name in arrays or weight not in arrays:
            kept.append(row)
            continue
        zeros = np.zeros(arrays.shape(weight)[0], np.float32)
        for path, part in zip(row.ours, row.codec.decode(zeros), strict=True):
            layers = (depth,) if path.startswith(BLOCKS) else ()
            implied[path] = constant(np.zeros((*layers, *part.shape)))
    return kept, implied


def refuse_others(
    arrays: Arrays, rows: Sequence[Row], depth: int, *, ignored: tuple[str, ...] = ()
) -> None:
    """Raises if a model has a part that no row reads; that would be another model.

    Args:
      arrays: of the file.
      rows: all that is read.
      depth: blocks.
      ignored: beginnings of names that do not matter after all.

    Raises:
      WeightsError: names the arrays.
    """
    read = {
        row.theirs.replace("{i}", str(layer)) for row in rows for layer in range(depth)
    }
    others = [
        name
        for name in arrays
        if name.startswith(_COMPUTES)
        and name not in read
        and not (ignored and name.startswith(ignored))
    ]
    if others:
        more = f" and {len(others) - 4} more" if len(others) > 4 else ""
        raise WeightsError(
            f"{arrays.name}: not a plain ViT; vit_jax has nothing for "
            f"{', '.join(others[:4])}{more}, and the model would not be the same "
            "without"
        )
