"""timm's ViTs and DeiTs: a state dict, alone or in a folder with a config.json.

The files that DeiT (arXiv 2012.12877), DeiT-III (2204.07118) and DINOv2 (2304.07193)
were released as have nearly the same names and are read here too.
"""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

from vit_jax.weights import card as cards
from vit_jax.weights import timm_config, timm_export
from vit_jax.weights.arrays import Arrays
from vit_jax.weights.base import Card, Inferred, Params, refuse_what_does_not_fit
from vit_jax.weights.files import WeightsError
from vit_jax.weights.folders import new_folder, save_json, save_safetensors
from vit_jax.weights.grids import grid_of, square_grid
from vit_jax.weights.positions import laid_out
from vit_jax.weights.table import encode
from vit_jax.weights.timm_rows import (
    Names,
    build_rows,
    find_names,
    imply_biases,
    refuse_others,
)

PATCHES = "patch_embed.proj.weight"


def recognise(arrays: Arrays) -> bool:
    """Whether the names are timm's; MAE's with a decoder are another format."""
    blocks = any(name.startswith("blocks.0.") for name in arrays)
    decoder = any(name.startswith("decoder_") for name in arrays)
    return PATCHES in arrays and blocks and not decoder


def infer(
    arrays: Arrays,
    *,
    num_heads: int | None = None,
    image_size: tuple[int, int] | None = None,
) -> Inferred:
    """The model of a state dict: what its config.json, names and shapes say.

    Without a config.json it is as timm's plain ViT: exact GELU, epsilon 1e-6.

    Args:
      arrays: of the file.
      num_heads: where no config.json tells.
      image_size: it was trained at; for patches in no square and no config.json.

    Raises:
      WeightsError: the file lacks something, or the model has a part that ours lacks.
    """
    config = timm_config.read(arrays.name, arrays.config)
    names = find_names(arrays)
    settings = _sizes(arrays, config, names)
    settings["num_heads"] = config.num_heads(settings["width"], num_heads)
    settings |= _options(arrays, config, names)
    settings |= _tokens(arrays, names)
    settings |= _positions(arrays, config, settings, image_size)
    settings |= _pooling(arrays, config, settings)
    depth, pool = settings["depth"], settings["pool"]
    rows, implied = imply_biases(arrays, build_rows(settings, names), depth)
    # The config may say that a SigLIP tower's MAP head is not used.
    ignored = () if pool == "map" else ("attn_pool.",)
    refuse_others(arrays, rows, depth, ignored=ignored)
    return Inferred(
        settings=settings,
        rows=rows,
        preprocessing=config.preprocessing(
            settings["image_size"], settings["channels"]
        ),
        class_names=config.class_names(settings["num_classes"]),
        implied=implied,
    )


def write(
    path: pathlib.Path, settings: Mapping[str, Any], params: Params, card: Card
) -> None:
    """Writes a folder for `timm.create_model("local-dir:PATH", pretrained=True)`.

    The `Auto` classes of transformers open it too.

    Raises:
      WeightsError: timm has no such model, or the path is taken.
    """
    refuse_what_does_not_fit("timm", settings, timm_export.able(settings))
    # DeiT's table always has rows for CLS and the distillation token.
    distilled = settings["distillation"] != "none"
    prefixed = distilled or settings["position"] in timm_export.PREFIXED
    if settings["position"] != "none" or distilled:
        prefix_rows = _num_prefix(settings) * prefixed
        params = laid_out(settings, params, prefix_rows=prefix_rows)
    with new_folder(path) as folder:
        arrays = encode(params, build_rows(settings, Names()))
        save_safetensors(folder / "model.safetensors", arrays)
        save_json(folder / "config.json", timm_export.describe(settings, card))
        (folder / "README.md").write_text(cards.render(card, settings))


def _shape(arrays: Arrays, name: str, axes: str) -> tuple[int, ...]:
    """An array's shape, which has as many axes as ``axes`` has words."""
    shape = arrays.shape(name)
    if len(shape) != len(axes.split()):
        raise WeightsError(f"{arrays.name}: {name} is {shape}, not [{axes}]")
    return shape


def _num_prefix(settings: Mapping[str, Any]) -> int:
    """Tokens in front of the patches."""
    distilled = settings["distillation"] != "none"
    return settings["cls_token"] + distilled + settings["registers"]


def _sizes(arrays: Arrays, config: timm_config.Config, names: Names) -> dict[str, Any]:
    width, channels, *patch_size = _shape(arrays, PATCHES, "out in height width")
    _, mlp_dim = _shape(arrays, f"blocks.0.mlp.{names.out}.weight", "out in")
    num_classes = config.num_classes()
    if "head.weight" in arrays:
        num_classes, _ = _shape(arrays, "head.weight", "out in")
    return {
        "patch_size": tuple(patch_size),
        "channels": channels,
        "width": width,
        "depth": arrays.count("blocks."),
        "mlp_dim": mlp_dim,
        "num_classes": num_classes,
    }


def _options(
    arrays: Arrays, config: timm_config.Config, names: Names
) -> dict[str, Any]:
    """What a block computes."""
    hidden, mlp_dim = (
        _shape(arrays, f"blocks.0.mlp.{names.hidden}.weight", "out in")[0],
        _shape(arrays, f"blocks.0.mlp.{names.out}.weight", "out in")[1],
    )
    mlp = "swiglu" if names.gate or hidden == 2 * mlp_dim else "dense"
    rms = "blocks.0.norm1.bias" not in arrays
    norm, epsilon = config.norm("rms" if rms else "layer")
    scale = config.arguments.get("init_values")
    if not isinstance(scale, float) or not scale:
        scale = 1e-5  # where training began is not in the arrays
    return {
        "mlp": mlp,
        "activation": config.activation(mlp),
        "norm": norm,
        "norm_epsilon": epsilon,
        "qk_norm": "blocks.0.attn.q_norm.weight" in arrays,
        "layer_scale": scale if f"blocks.0.{names.scale % 1}" in arrays else 0.0,
        "dynamic_size": bool(config.arguments.get("dynamic_img_size", False)),
    }


def _tokens(arrays: Arrays, names: Names) -> dict[str, Any]:
    """What is in front of the patches."""
    registers = 0
    if names.registers in arrays:
        registers = _shape(arrays, names.registers, "1 registers width")[1]
    distillation = "none"
    if "dist_token" in arrays:
        distillation = "head" if "head.weight" in arrays else "token"
    return {
        "cls_token": "cls_token" in arrays,
        "distillation": distillation,
        "registers": registers,
    }


def _positions(
    arrays: Arrays,
    config: timm_config.Config,
    settings: Mapping[str, Any],
    image_size: tuple[int, int] | None,
) -> dict[str, Any]:
    """Kind of the positions, and the image size that they are for."""
    patch_size = settings["patch_size"]
    grids = [grid_of(size, patch_size) for size in (config.image_size(), image_size)]
    if "pos_embed" not in arrays:
        grid = next(filter(None, grids), None)
        if grid is None:
            raise WeightsError(
                f"{arrays.name}: has no positions, and nothing else that tells the "
                "image size; give image_size (--image_size)"
            )
        return {"position": "none", "image_size": _pixels(grid, patch_size)}
    rows = _shape(arrays, "pos_embed", "1 positions width")[1]
    every = _num_prefix(settings)
    kinds = {every: "learned_prefix", every - settings["registers"]: "learned_cls"}
    if not settings["cls_token"]:
        kinds = {every: "learned_prefix"}
    kinds[0] = "learned"
    if "no_embed_class" in config.arguments:
        kept = 0 if config.arguments["no_embed_class"] else every
        kinds = {kept: kinds[kept]}
    known = [
        (prefix, grid)
        for grid in filter(None, grids)
        for prefix in kinds
        if rows - prefix == math.prod(grid)
    ]
    squares = [prefix for prefix in kinds if _is_square(rows - prefix)]
    if not known and len(squares) > 1:
        raise WeightsError(
            f"{arrays.name}: has {rows} positions, which are squares with and without "
            f"those of {max(squares)} prefix tokens; give image_size (--image_size)"
        )
    if known:
        prefix, grid = known[0]
    else:
        prefix = squares[0] if squares else max(kinds)
        grid = square_grid(arrays.name, rows - prefix, grids[1])
    return {"position": kinds[prefix], "image_size": _pixels(grid, patch_size)}


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _pixels(grid: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
    return grid[0] * patch_size[0], grid[1] * patch_size[1]


def _pooling(
    arrays: Arrays, config: timm_config.Config, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """How tokens become features, and which norms they pass."""
    pool = config.pool()
    if pool is None:
        mean = "fc_norm.weight" in arrays or not settings["cls_token"]
        pool = "gap" if mean else "cls"
        pool = "map" if "attn_pool.latent" in arrays else pool
    pools_prefix = pool != "cls" and config.pools_prefix()
    if _num_prefix(settings) and pools_prefix != (pool == "map"):
        raise WeightsError(
            f"{arrays.name}: {pool!r} pooling {'with' if pools_prefix else 'without'} "
            "the CLS and register tokens is not one of vit_jax (its mean is over the "
            "patches, its MAP head over all tokens)"
        )
    if pool == "map":
        if settings["mlp"] == "swiglu":
            raise WeightsError(f"{arrays.name}: a MAP head of a SwiGLU ViT has a SiLU")
        latents = _shape(arrays, "attn_pool.latent", "1 latents width")[1]
        if latents != 1:
            raise WeightsError(f"{arrays.name}: a MAP head with {latents} queries")
    after = [name for name in ("norm", "fc_norm") if f"{name}.weight" in arrays]
    if not after:
        raise WeightsError(f"{arrays.name}: has no norm behind the blocks; ours have")
    final_norm = {"norm": "tokens", "fc_norm": "features"}[after[0]]
    pre_logits = 0
    if "pre_logits.fc.weight" in arrays:
        pre_logits = arrays.shape("pre_logits.fc.weight")[0]
    return {
        "pool": pool,
        "final_norm": "both" if len(after) == 2 else final_norm,
        "pre_logits": pre_logits,
    }
