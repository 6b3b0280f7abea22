"""Writing folders that Hugging Face transformers loads, with the same outputs.

A model goes out as the class that computes it: ViT, DeiT or DINOv2. All others go out
in the form of timm, which ``AutoModelForImageClassification`` reads through timm.
"""

import pathlib
from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from vit_jax.weights import card as cards
from vit_jax.weights import hf_preprocessing, timm, timm_export
from vit_jax.weights.base import Anything, Card, Params, refuse_what_does_not_fit
from vit_jax.weights.files import WeightsError
from vit_jax.weights.folders import new_folder, save_json, save_safetensors
from vit_jax.weights.hf_config import labels
from vit_jax.weights.hf_tables import FAMILIES, rows
from vit_jax.weights.positions import laid_out
from vit_jax.weights.table import encode

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
CLASSES = {
    "vit": "ViT",
    "deit": "DeiT",
    "dinov2": "Dinov2",
    "dinov2_with_registers": "Dinov2WithRegisters",
}
DINOV2 = ("dinov2", "dinov2_with_registers")
MAX_RATIO = 16


class _NotZero:
    """Contains every number but 0."""

    def __contains__(self, value: object) -> bool:
        return bool(value)


def write(
    path: pathlib.Path, settings: Mapping[str, Any], params: Params, card: Card
) -> None:
    """Writes a folder for ``AutoModelForImageClassification.from_pretrained``.

    Without classes it is one for ``AutoModel``.

    Args:
      path: of the folder; nothing may be there.
      settings: complete.
      params: path within the ViT -> array; each is fetched once.
      card: what goes into the README and the configs.

    Raises:
      WeightsError: the path is taken, or neither the library's classes nor its timm
        wrapper compute this model.
    """
    kind = _kind(settings)
    if kind is None:
        refuse_what_does_not_fit("huggingface", settings, timm_export.able(settings))
        timm.write(path, settings, params, card)
        return
    with new_folder(path) as folder:
        save_safetensors(
            folder / "model.safetensors", _arrays(kind, settings, params).items()
        )
        save_json(folder / "config.json", _config(kind, settings, card))
        save_json(
            folder / hf_preprocessing.FILE,
            hf_preprocessing.to_config(card.preprocessing),
        )
        (folder / "README.md").write_text(
            cards.render(card, settings, library="transformers")
        )


def _kind(settings: Mapping[str, Any]) -> str | None:
    """The first family with a class for a model, or None."""
    return next((kind for kind in CLASSES if _fits(kind, settings)), None)


def _fits(kind: str, settings: Mapping[str, Any]) -> bool:
    try:
        refuse_what_does_not_fit("huggingface", settings, _able(kind, settings))
    except WeightsError:
        return False
    return kind not in DINOV2 or (
        # Other images' positions are resampled; the MLP is a multiple of the width.
        settings["image_size"][0] == settings["image_size"][1]
        and _mlp_ratio(settings) is not None
    )


def _able(kind: str, settings: Mapping[str, Any]) -> dict[str, Container[Any]]:
    """The options that a family's classes know, and their values."""
    classes = settings["num_classes"] > 0
    able: dict[str, Container[Any]] = {
        "cls_token": (True,),
        "pool": ("cls",),
        "position": Anything(),
        "activation": tuple(ACTIVATIONS),
        "norm_epsilon": Anything(),
    }
    if kind in DINOV2:
        able |= {
            "pool": ("cls_gap",) if classes else ("cls",),
            "layer_scale": _NotZero(),
            "mlp": ("dense", "swiglu"),
        }
        if kind == "dinov2_with_registers":
            able["registers"] = _NotZero()
        return able
    if kind == "deit":
        able["distillation"] = ("token", "head") if classes else ("token",)
    if not classes:
        able["pre_logits"] = Anything()  # their pooler
    return able


def _mlp_ratio(settings: Mapping[str, Any]) -> int | None:
    """The whole number from which DINOv2 computes the width of its MLP."""
    width, wanted = settings["width"], settings["mlp_dim"]
    for ratio in range(1, MAX_RATIO + 1):
        mlp_dim = width * ratio
        if settings["mlp"] == "swiglu":
            mlp_dim = -(int(mlp_dim * 2 / 3) // -8) * 8  # two thirds, up to eights
        if mlp_dim == wanted:
            return ratio
    return None


def _config(kind: str, settings: Mapping[str, Any], card: Card) -> dict[str, Any]:
    """The content of ``config.json``."""
    classes = settings["num_classes"]
    name = CLASSES[kind] + ("ForImageClassification" if classes else "Model")
    if settings["distillation"] == "head":
        name += "WithTeacher"
    config = {
        "architectures": [name],
        "model_type": kind,
        "hidden_size": settings["width"],
        "num_hidden_layers": settings["depth"],
        "num_attention_heads": settings["num_heads"],
        "hidden_act": ACTIVATIONS[settings["activation"]],
        "layer_norm_eps": settings["norm_epsilon"],
        "image_size": _one_or_two(settings["image_size"]),
        "patch_size": _one_or_two(settings["patch_size"]),
        "num_channels": settings["channels"],
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if kind in DINOV2:
        config |= {
            "mlp_ratio": _mlp_ratio(settings),
            "use_swiglu_ffn": settings["mlp"] == "swiglu",
            "layerscale_value": settings["layer_scale"],
        }
    else:
        config["intermediate_size"] = settings["mlp_dim"]
    if settings["registers"]:
        config["num_register_tokens"] = settings["registers"]
    if settings["pre_logits"]:
        config |= {"pooler_output_size": settings["pre_logits"], "pooler_act": "tanh"}
    return config | (labels(classes, card.class_names) if classes else {})


def _one_or_two(size: tuple[int, int]) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)


def _arrays(
    kind: str, settings: Mapping[str, Any], params: Params
) -> dict[str, np.ndarray]:
    """Arrays by the names of the library's version 4, which all versions read."""
    gated = settings["mlp"] == "swiglu"
    names = next(
        names for names in FAMILIES[kind].names if ("blocks/mlp/gate" in names) == gated
    )
    prefix = f"{kind}." if settings["num_classes"] else ""
    heads = {"head": "classifier."}
    prefix_rows = 1
    if settings["distillation"] != "none":
        prefix_rows = 2
    if settings["distillation"] == "head":
        heads = {
            "head": "cls_classifier.",
            "head_distillation": "distillation_classifier.",
        }
    arrays = dict(
        encode(
            laid_out(settings, params, prefix_rows=prefix_rows),
            rows(names, settings, prefix=prefix, heads=heads),
        )
    )
    if kind in DINOV2:  # of its training; the classes have a place for it
        name = f"{prefix}embeddings.mask_token"
        arrays[name] = np.zeros((1, settings["width"]), np.float32)
    return arrays
