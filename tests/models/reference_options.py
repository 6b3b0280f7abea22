"""The numpy float64 Vision Transformer with every option, written beside the papers.

Like `reference`, from which it takes the primitives, it shares no code with the
package and prefers loops. Settings are a plain dict; what it lacks is off.
"""

import math

import numpy as np

from tests.models.reference import (
    GELU,
    SINCOS,
    dense,
    layer_norm,
    select,
    softmax,
    to_float64,
)
from tests.models.reference import embed as embed_patches

OFF = {
    "registers": 0,
    "distillation": "none",
    "rope": "none",
    "rope_base": 100.0,
    "activation": "gelu_tanh",
    "mlp": "dense",
    "norm": "layer",
    "norm_epsilon": 1e-6,
    "final_norm": "tokens",
    "qk_norm": False,
    "layer_scale": 0.0,
    "parallel_blocks": False,
    "pre_logits": 0,
}


def normalize(x, params, s):
    """LayerNorm, or RMSNorm (arXiv 1910.07467): neither mean nor bias."""
    if s["norm"] == "layer":
        return layer_norm(x, params, s["norm_epsilon"])
    assert set(params) == {"scale"}
    mean_square = (x**2).mean(axis=-1, keepdims=True)
    return x / np.sqrt(mean_square + s["norm_epsilon"]) * params["scale"]


def rotate(x, places, grid, s):
    """Turns pairs of one head's [B, T, Dh]; a place is (row, column), None for none."""
    result, dim = x.copy(), x.shape[-1]
    for token, place in enumerate(places):
        if place is None:
            continue
        for i in range(dim // 2):
            axis, number = divmod(i, dim // 4)
            frequency = s["rope_base"] ** (-number / (dim / 4))
            coordinate = place[axis]
            if s["rope"] == "dinov3":
                centre = (coordinate + 0.5) / grid[axis]
                coordinate = 2 * math.pi * (2 * centre - 1)
            first, second = (
                (2 * i, 2 * i + 1) if s["rope"] == "axial" else (i, i + dim // 2)
            )
            angle = coordinate * frequency
            a, b = x[:, token, first], x[:, token, second]
            result[:, token, first] = a * math.cos(angle) - b * math.sin(angle)
            result[:, token, second] = b * math.cos(angle) + a * math.sin(angle)
    return result


def attention(queries, tokens, params, s, places=None, grid=None):
    """Multi-head attention; the MAP head's has neither norms nor rotations."""
    result = np.zeros(queries.shape) + params["out"]["bias"]
    for head in range(s["num_heads"]):
        q, k, v = (
            x @ params[name]["kernel"][:, head] + params[name]["bias"][head]
            for name, x in (("query", queries), ("key", tokens), ("value", tokens))
        )
        if places is not None and s["qk_norm"]:
            q = normalize(q, params["query_norm"], s)
            k = normalize(k, params["key_norm"], s)
        if places is not None and s["rope"] != "none":
            q, k = rotate(q, places, grid, s), rotate(k, places, grid, s)
        scores = np.einsum("bqd,bkd->bqk", q, k) / math.sqrt(q.shape[-1])
        mixed = np.einsum("bqk,bkd->bqd", softmax(scores), v)
        result = result + mixed @ params["out"]["kernel"][head]
    return result


def mlp(x, params, s, kind):
    """Two dense layers, or the gated unit of arXiv 2002.05202."""
    hidden = dense(x, params["hidden"])
    if kind == "swiglu":
        gate = dense(x, params["gate"])
        return dense(gate / (1.0 + np.exp(-gate)) * hidden, params["out"])
    gelu = GELU["tanh" if s["activation"] == "gelu_tanh" else "exact"]
    return dense(gelu(hidden), params["out"])


def positions(params, grid, s):
    """A row for every token, zeros where there is none."""
    cls, distillation = int(s["cls_token"]), int(s["distillation"] != "none")
    patches, width = grid[0] * grid[1], s["width"]
    table = np.zeros((cls + distillation + s["registers"] + patches, width))
    kind = s["position"]
    if kind in ("sincos2d", "sincos2d_mae"):
        table[-patches:] = SINCOS["moco" if kind == "sincos2d" else "mae"](*grid, width)
    elif kind != "none":
        learned = params["position_embedding"][0]
        table[-patches:] = learned[-patches:]
        rows = {
            "learned": 0,
            "learned_cls": cls + distillation,
            "learned_prefix": cls + distillation + s["registers"],
        }[kind]
        assert len(learned) == rows + patches
        table[:rows] = learned[:rows]
    return table


def embed(params, images, s):
    """Images to tokens: CLS, distillation token, registers, patches."""
    patches = embed_patches(
        params,
        images,
        patch_size=s["patch_size"],
        position="none",
        cls_token=False,
    )
    height, width = images.shape[1:3]
    grid = height // s["patch_size"][0], width // s["patch_size"][1]
    tokens = [
        np.repeat(params[name], len(images), axis=0)
        for name, wanted in (
            ("cls", s["cls_token"]),
            ("distillation", s["distillation"] != "none"),
            ("registers", s["registers"]),
        )
        if wanted
    ]
    tokens = np.concatenate([*tokens, patches], axis=1)
    return tokens + positions(params, grid, s), grid


def encode(params, x, grid, s):
    """The blocks and the norm of the tokens: (tokens, the blocks' outputs)."""
    prefix = x.shape[1] - grid[0] * grid[1]
    places = [None] * prefix + [(y, x) for y in range(grid[0]) for x in range(grid[1])]
    outputs = []
    for index in range(s["depth"]):
        block = select(params["blocks"], index)
        normed = normalize(x, block["attention_norm"], s)
        branch = attention(normed, normed, block["attention"], s, places, grid)
        x = x + branch * (block["attention_scale"] if s["layer_scale"] else 1.0)
        if not s["parallel_blocks"]:
            normed = normalize(x, block["mlp_norm"], s)
        branch = mlp(normed, block["mlp"], s, s["mlp"])
        x = x + branch * (block["mlp_scale"] if s["layer_scale"] else 1.0)
        outputs.append(x)
    outputs = np.stack(outputs)
    if s["final_norm"] != "features":
        x = normalize(x, params["norm"], s)
    return x, outputs


def pool_tokens(params, tokens, s):
    """Tokens to features, through their own norm if any."""
    prefix = s["cls_token"] + (s["distillation"] != "none") + s["registers"]
    mean = tokens[:, prefix:].mean(axis=1)
    if s["pool"] == "map":
        head = params["pooling"]
        probe = np.repeat(head["probe"], len(tokens), axis=0)
        x = attention(probe, tokens, head["attention"], s)
        x = x + mlp(normalize(x, head["norm"], s), head["mlp"], s, "dense")
        features = x[:, 0]
    else:
        features = {
            "cls": tokens[:, 0],
            "gap": mean,
            "cls_gap": np.concatenate([tokens[:, 0], mean], axis=1),
        }[s["pool"]]
    if s["final_norm"] == "tokens":
        return features
    return normalize(features, params["head_norm"], s)


def forward(params, images, settings):
    """The whole model, as a dict like that of `reference.forward`."""
    params, images = to_float64(params), np.asarray(images, dtype=np.float64)
    s = OFF | settings
    embedded, grid = embed(params, images, s)
    tokens, intermediates = encode(params, embedded, grid, s)
    features = logits = pool_tokens(params, tokens, s)
    if s["pre_logits"]:
        logits = np.tanh(dense(logits, params["pre_logits"]))
    if s["num_classes"]:
        logits = dense(logits, params["head"])
    if s["num_classes"] and s["distillation"] == "head":
        second = dense(tokens[:, int(s["cls_token"])], params["head_distillation"])
        logits = (logits + second) / 2
    return {
        "embedded": embedded,
        "intermediates": intermediates,
        "tokens": tokens,
        "features": features,
        "logits": logits,
    }
