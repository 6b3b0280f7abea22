"""big_vision's ViT on the arrays of its npz files, as reference_original.py is made.

Also the forms it had before 2022, which `checkpoint` makes and `forward` reads.
"""

import math

import numpy as np

from tests.models import reference
from tests.weights import reference_original as original
from tests.weights.reference_original import LINEN, draw, layer_shapes, nested


def checkpoint(
    *,
    tree="params/",
    numbers=LINEN,
    scan=False,
    pool="gap",
    position="pos_embedding",
    cls_row=False,
    map_head="MAPHead_0/",
    pre_logits=0,
    classes=7,
    grid=(3, 3),
    patch_size=(4, 5),
    seed=0,
):
    """A file's arrays; `position` is their name or None, `map_head` before a probe."""
    shapes = layer_shapes("embedding", kernel=(*patch_size, 3, 24), bias=(24,))
    shapes |= original.encoder_shapes(numbers)
    shapes |= original.head_shapes(pre_logits, classes)
    if position:
        shapes[position] = (1, math.prod(grid) + cls_row, 24)
    if pool == "cls":
        shapes["cls"] = (1, 1, 24)
    if pool == "map":
        attends = f"{map_head}MultiHeadDotProductAttention_0"
        shapes |= {f"{map_head}probe": (1, 1, 24)}
        shapes |= original.attention_shapes(attends, 24, 3)
        shapes |= layer_shapes(f"{map_head}LayerNorm_0", scale=(24,), bias=(24,))
        shapes |= original.mlp_shapes(f"{map_head}MlpBlock_0", 24, 40)
    arrays = draw(shapes, seed)
    if scan:
        arrays = stacked(arrays)
    return {tree + name: array for name, array in arrays.items()}


def stacked(arrays):
    """The form of a scanned model: all blocks' arrays of a name are one."""
    first = "Transformer/encoderblock_0/"
    names = [name.removeprefix(first) for name in arrays if name.startswith(first)]
    result = {k: v for k, v in arrays.items() if "/encoderblock_" not in k}
    for name in names:
        layers = [arrays[f"Transformer/encoderblock_{i}/{name}"] for i in range(2)]
        result[f"Transformer/encoderblock/{name}"] = np.stack(layers)
    return result


def unstacked(params):
    """Blocks one by one, whichever form they have."""
    if "encoderblock" not in params:
        return params
    blocks = params["encoderblock"]
    depth = len(blocks["LayerNorm_0"]["scale"])
    layers = {f"encoderblock_{i}": reference.select(blocks, i) for i in range(depth)}
    return layers | {"encoder_norm": params["encoder_norm"]}


def modern(params):
    """Old forms as new ones: where positions and a MAP head are, CLS's own row."""
    params = dict(params)
    if "pos_embedding" in params["Transformer"]:
        params["pos_embedding"] = params["Transformer"]["pos_embedding"]
    rows = params["pos_embedding"].shape[1] if "pos_embedding" in params else 0
    if "cls" in params and math.isqrt(max(rows - 1, 0)) ** 2 == rows - 1:
        params["cls"] = params["cls"] + params["pos_embedding"][:, :1]
        params["pos_embedding"] = params["pos_embedding"][:, 1:]
    if "probe" in params:
        names = ("probe", "MlpBlock_0", "MultiHeadDotProductAttention_0", "LayerNorm_0")
        params["MAPHead_0"] = {name: params[name] for name in names}
    return params


def forward(arrays, images, *, tree="params/", gelu="tanh", eps=1e-6, sincos="moco"):
    """Logits of NHWC images; the keyword arguments from `gelu` on make mistakes."""
    params = modern(nested(arrays, tree))
    x = original.embed(np.asarray(images, np.float64), params["embedding"])
    if "pos_embedding" in params:
        x = x + params["pos_embedding"]
    else:
        ph, pw = params["embedding"]["kernel"].shape[:2]
        grid = (images.shape[1] // ph, images.shape[2] // pw)
        x = x + reference.SINCOS[sincos](*grid, x.shape[-1])
    if "cls" in params:
        x = np.concatenate([np.repeat(params["cls"], len(x), axis=0), x], axis=1)
    x = original.encode(x, unstacked(params["Transformer"]), gelu, eps)
    if "MAPHead_0" in params:
        head = params["MAPHead_0"]
        probe = np.repeat(head["probe"], len(x), axis=0)
        attends = head["MultiHeadDotProductAttention_0"]
        heads = attends["query"]["kernel"].shape[1]
        x = reference.attention(probe, x, attends, heads)
        normed = reference.layer_norm(x, head["LayerNorm_0"], eps)
        x = (x + original.mlp(normed, head["MlpBlock_0"], gelu))[:, 0]
    else:
        x = x[:, 0] if "cls" in params else x.mean(axis=1)
    return original.classify(x, params)
