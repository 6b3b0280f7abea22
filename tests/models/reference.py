"""A second Vision Transformer, in numpy float64, written to be read beside the paper.

Follows arXiv 2010.11929 and the released JAX checkpoints' conventions: LayerNorm
epsilon 1e-6, tanh-approximate GELU, MoCo-v3 sine-cosine positions. It shares no code
with the package: loops instead of vectorised tricks. The keyword arguments `gelu`,
`eps` and `sincos` make known mistakes on purpose.
"""

import math

import numpy as np

NORMS = ("attention_norm", "mlp_norm", "norm", "pooling_norm")


def sincos2d(height, width, dim, temperature=10000.0):
    """Fixed positions as in MoCo-v3 (arXiv 2104.02057), one row per patch."""
    quarter = dim // 4
    table = np.zeros((height * width, dim))
    for y in range(height):
        for x in range(width):
            for i in range(quarter):
                omega = 1.0 / temperature ** (i / (quarter - 1))
                row = table[y * width + x]
                row[0 * quarter + i] = math.sin(x * omega)
                row[1 * quarter + i] = math.cos(x * omega)
                row[2 * quarter + i] = math.sin(y * omega)
                row[3 * quarter + i] = math.cos(y * omega)
    return table


def sincos2d_mae(height, width, dim, temperature=10000.0):
    """The form of MAE (arXiv 2111.06377): other frequencies."""
    quarter = dim // 4
    table = np.zeros((height * width, dim))
    for y in range(height):
        for x in range(width):
            for i in range(quarter):
                omega = 1.0 / temperature ** (i / quarter)
                row = table[y * width + x]
                row[0 * quarter + i] = math.sin(x * omega)
                row[1 * quarter + i] = math.cos(x * omega)
                row[2 * quarter + i] = math.sin(y * omega)
                row[3 * quarter + i] = math.cos(y * omega)
    return table


def sincos2d_rows_first(height, width, dim, temperature=10000.0):
    """The vertical index in the first half. Here only as a mistake."""
    table = sincos2d(height, width, dim, temperature)
    return np.concatenate([table[:, dim // 2 :], table[:, : dim // 2]], axis=1)


def sincos2d_transposed(height, width, dim, temperature=10000.0):
    """Patches counted down the columns. Here only as a mistake."""
    table = sincos2d(height, width, dim, temperature).reshape(height, width, dim)
    return table.transpose(1, 0, 2).reshape(height * width, dim)


SINCOS = {
    "moco": sincos2d,
    "mae": sincos2d_mae,
    "rows_first": sincos2d_rows_first,
    "transposed": sincos2d_transposed,
}


def gelu_tanh(x):
    """GELU (arXiv 1606.08415) by its tanh approximation."""
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def gelu_exact(x):
    """GELU by the error function. Here only as a mistake."""
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


GELU = {"tanh": gelu_tanh, "exact": gelu_exact}


def layer_norm(x, params, eps=1e-6):
    """Normalise the last axis (arXiv 1607.06450)."""
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * params["scale"] + params["bias"]


def softmax(x):
    """Softmax of the last axis."""
    exponential = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponential / exponential.sum(axis=-1, keepdims=True)


def dense(x, params):
    """Matrix product over the last axis plus the bias."""
    return x @ params["kernel"] + params["bias"]


def attention(queries, tokens, params, num_heads):
    """Multi-head attention of `queries` [B, Q, D] over `tokens` [B, N, D]."""
    result = np.zeros(queries.shape) + params["out"]["bias"]
    for head in range(num_heads):
        q = queries @ params["query"]["kernel"][:, head] + params["query"]["bias"][head]
        k = tokens @ params["key"]["kernel"][:, head] + params["key"]["bias"][head]
        v = tokens @ params["value"]["kernel"][:, head] + params["value"]["bias"][head]
        scores = np.einsum("bqd,bkd->bqk", q, k) / math.sqrt(q.shape[-1])
        mixed = np.einsum("bqk,bkd->bqd", softmax(scores), v)
        result = result + mixed @ params["out"]["kernel"][head]
    return result


def mlp(x, params, gelu="tanh"):
    """Two dense layers with a GELU between them."""
    return dense(GELU[gelu](dense(x, params["hidden"])), params["out"])


def select(tree, index):
    """The parameters of one layer of a stacked tree."""
    if isinstance(tree, dict):
        return {name: select(value, index) for name, value in tree.items()}
    return tree[index]


def to_float64(tree):
    """Every leaf as a numpy float64 array."""
    if isinstance(tree, dict):
        return {name: to_float64(value) for name, value in tree.items()}
    return np.asarray(tree, dtype=np.float64)


def embed(params, images, *, patch_size, position, cls_token, sincos="moco"):
    """Images [B, H, W, C] to tokens: patches row by row, positions, CLS in front."""
    params, images = to_float64(params), np.asarray(images, dtype=np.float64)
    patch_height, patch_width = patch_size
    rows, columns = images.shape[1] // patch_height, images.shape[2] // patch_width
    tokens = []
    for row in range(rows):
        for column in range(columns):
            top, left = row * patch_height, column * patch_width
            patch = images[:, top : top + patch_height, left : left + patch_width, :]
            kernel = params["embedding"]["kernel"]
            token = np.einsum("bhwc,hwcd->bd", patch, kernel)
            tokens.append(token + params["embedding"]["bias"])
    tokens = np.stack(tokens, axis=1)
    if position == "learned":
        tokens = tokens + params["position_embedding"]
    if position == "sincos2d":
        tokens = tokens + SINCOS[sincos](rows, columns, tokens.shape[-1])
    if cls_token:
        cls = np.repeat(params["cls"], len(tokens), axis=0)
        tokens = np.concatenate([cls, tokens], axis=1)
    if position == "learned_cls":
        tokens = tokens + params["position_embedding"]
    return tokens


def encode(params, tokens, *, num_heads, gelu="tanh", eps=None):
    """The pre-norm blocks and the final norm: (tokens, the blocks' outputs)."""
    params, x = to_float64(params), np.asarray(tokens, dtype=np.float64)
    eps = dict.fromkeys(NORMS, 1e-6) | (eps or {})
    outputs = []
    for index in range(len(params["blocks"]["attention_norm"]["scale"])):
        block = select(params["blocks"], index)
        normed = layer_norm(x, block["attention_norm"], eps["attention_norm"])
        x = x + attention(normed, normed, block["attention"], num_heads)
        normed = layer_norm(x, block["mlp_norm"], eps["mlp_norm"])
        x = x + mlp(normed, block["mlp"], gelu)
        outputs.append(x)
    return layer_norm(x, params["norm"], eps["norm"]), np.stack(outputs)


def pool_tokens(params, tokens, *, pool, cls_token, num_heads, gelu="tanh", eps=None):
    """Tokens [B, N, D] to features [B, D]."""
    params = to_float64(params)
    eps = dict.fromkeys(NORMS, 1e-6) | (eps or {})
    if pool == "cls":
        return tokens[:, 0]
    if pool == "gap":
        patches = tokens[:, 1:] if cls_token else tokens
        return patches.mean(axis=1)
    if pool == "map":
        head = params["pooling"]
        probe = np.repeat(head["probe"], len(tokens), axis=0)
        x = attention(probe, tokens, head["attention"], num_heads)
        normed = layer_norm(x, head["norm"], eps["pooling_norm"])
        return (x + mlp(normed, head["mlp"], gelu))[:, 0]
    raise ValueError(pool)


def classify(params, features, *, pre_logits):
    """Features [B, D] to logits [B, classes]."""
    params = to_float64(params)
    if pre_logits:
        features = np.tanh(dense(features, params["pre_logits"]))
    return dense(features, params["head"])


def forward(
    params,
    images,
    *,
    patch_size,
    num_heads,
    pool,
    position,
    cls_token,
    pre_logits,
    gelu="tanh",
    eps=None,
    sincos="moco",
):
    """The whole model, as a dict of embedded, intermediates, tokens, features, logits.

    `eps` maps names of NORMS to an epsilon other than 1e-6.
    """
    embedded = embed(
        params,
        images,
        patch_size=patch_size,
        position=position,
        cls_token=cls_token,
        sincos=sincos,
    )
    tokens, intermediates = encode(
        params, embedded, num_heads=num_heads, gelu=gelu, eps=eps
    )
    features = pool_tokens(
        params,
        tokens,
        pool=pool,
        cls_token=cls_token,
        num_heads=num_heads,
        gelu=gelu,
        eps=eps,
    )
    return {
        "embedded": embedded,
        "intermediates": intermediates,
        "tokens": tokens,
        "features": features,
        "logits": classify(params, features, pre_logits=pre_logits),
    }
