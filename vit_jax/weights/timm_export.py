"""Writing timm's config.json: a plain ViT as an entry point and arguments in JSON."""

import math
from collections.abc import Container, Mapping
from typing import Any

from vit_jax.weights.base import Anything, Card, Preprocessing
from vit_jax.weights.timm_config import INTERPOLATIONS, POOLS

# Positions with rows for prefix tokens, of which timm has one for each or none.
PREFIXED = ("learned_cls", "learned_prefix")

# Entry points with an MLP and an epsilon that no argument in JSON can say, and what
# turns the rest of them into a plain ViT: (mlp, epsilon, distilled).
_BASES: dict[tuple[str, float, bool], tuple[str, dict[str, Any]]] = {
    ("dense", 1e-6, False): ("vit_base_patch16_224", {}),
    ("dense", 1e-5, False): ("vit_base_patch16_clip_224", {"pre_norm": False}),
    ("dense", 1e-6, True): ("deit_base_distilled_patch16_224", {}),
    ("swiglu", 1e-6, False): ("vit_giant_patch14_dinov2", {"act_layer": "silu"}),
}


def able(settings: Mapping[str, Any]) -> dict[str, Container[Any]]:
    """What timm can express beside the other settings, for each option."""
    distilled = settings["distillation"] != "none"
    swiglu = settings["mlp"] == "swiglu"
    pools = ("cls", "gap", "map")
    if distilled or swiglu:  # a MAP head's MLP is as the blocks', and never a SwiGLU
        pools = ("cls",) if distilled else ("cls", "gap")
    return {
        "pool": pools,
        "cls_token": Anything(),
        "registers": (0,) if distilled else Anything(),
        # Without heads timm averages the two tokens: there is no difference in arrays.
        "distillation": ("none", "head" if settings["num_classes"] else "token"),
        "position": Anything(),
        "activation": Anything(),
        "mlp": ("dense",) if distilled else ("dense", "swiglu"),
        "norm": Anything(),
        "norm_epsilon": _epsilons(settings, distilled),
        "final_norm": ("tokens",) if distilled else ("tokens", "features"),
        "qk_norm": Anything(),
        "layer_scale": Anything(),
    }


def _epsilons(settings: Mapping[str, Any], distilled: bool) -> list[float]:
    """Epsilons of the entry points; a norm that is named has timm's own, 1e-6."""
    return [
        epsilon
        for mlp, epsilon, distils in _BASES
        if (mlp, distils) == (settings["mlp"], distilled)
        and (settings["norm"] == "layer" or epsilon == 1e-6)
    ]


def describe(settings: Mapping[str, Any], card: Card) -> dict[str, Any]:
    """The config.json of a model that `able` allows."""
    distilled = settings["distillation"] != "none"
    base = (settings["mlp"], settings["norm_epsilon"], distilled)
    architecture, arguments = _BASES[base]
    pool = {ours: theirs for theirs, ours in POOLS.items()}[settings["pool"]]
    number = settings["num_classes"]
    content = {
        "architecture": architecture,
        "num_classes": number,
        "num_features": settings["width"],
        "global_pool": pool,
        "model_args": {**_arguments(settings, pool), **arguments},
        "pretrained_cfg": {
            "num_classes": number,
            "input_size": [settings["channels"], *settings["image_size"]],
            "fixed_input_size": not settings["dynamic_size"],
            **_preparation(card.preprocessing),
            "first_conv": "patch_embed.proj",
            "classifier": ["head", "head_dist"] if distilled else "head",
        },
    }
    if card.class_names:
        content["label_names"] = list(card.class_names)
    if card.licence:
        content["pretrained_cfg"]["license"] = card.licence
    return content


def _arguments(settings: Mapping[str, Any], pool: str) -> dict[str, Any]:
    """Keyword arguments of timm's VisionTransformer: all that ours can differ in."""
    width, packed = settings["width"], 2 if settings["mlp"] == "swiglu" else 1
    distilled = settings["distillation"] != "none"
    arguments = {
        "img_size": list(settings["image_size"]),
        "patch_size": list(settings["patch_size"]),
        "in_chans": settings["channels"],
        "embed_dim": width,
        "depth": settings["depth"],
        "num_heads": settings["num_heads"],
        "mlp_ratio": _ratio(width, packed * settings["mlp_dim"]),
        "act_layer": settings["activation"],
        "class_token": settings["cls_token"],
        "global_pool": pool,
        "fc_norm": settings["final_norm"] == "features",
        "init_values": settings["layer_scale"],
        "qk_norm": settings["qk_norm"],
        "dynamic_img_size": settings["dynamic_size"],
    }
    if settings["norm"] == "rms":
        arguments["norm_layer"] = "rmsnorm"
    if not distilled:  # whose table always has both rows
        arguments |= {
            "reg_tokens": settings["registers"],
            "no_embed_class": settings["position"] not in PREFIXED,
            "pos_embed": "none" if settings["position"] == "none" else "learn",
            "pool_include_prefix": pool == "map",  # as our MAP head, which sees all
        }
    return arguments


def _ratio(width: int, hidden: int) -> float:
    """The ratio of which timm makes ``hidden`` again; it rounds down."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _preparation(preprocessing: Preprocessing) -> dict[str, Any]:
    """timm's words for how images are prepared."""
    side, resize = min(preprocessing.image_size), preprocessing.resize
    crop = side / resize if resize else 1.0
    if resize and math.floor(side / crop) != resize:  # timm rounds down
        crop = math.nextafter(crop, 0.0)
    names = {ours: theirs for theirs, ours in INTERPOLATIONS.items()}
    return {
        "crop_pct": crop,
        "crop_mode": "center" if resize else "squash",
        "interpolation": names[preprocessing.interpolation],
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }
