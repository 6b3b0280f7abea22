"""vision_transformer's ViT (arXiv 2010.11929) on the arrays of its npz files.

`checkpoint` makes a file's arrays from sizes alone; `forward` runs them in float64, read
by their own names. Nothing of the package is used. The keyword arguments `gelu`, `eps`
and `standardise` of `forward` make known mistakes on purpose.
"""

import functools
import math
import re

import numpy as np
import pytest

from tests.models import reference

PRE_LINEN, LINEN = (0, 1, 2, 3), (0, 0, 1, 0)


def draw(shapes, seed=0, std=0.2):
    """Random float32 arrays by name, none zero; norm scales near 1."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        values = generator.normal(0.0, std, shape) + name.endswith("scale")
        arrays[name] = values.astype(np.float32)
    return arrays


def layer_shapes(name, **leaves):
    return {f"{name}/{leaf}": shape for leaf, shape in leaves.items()}


def attention_shapes(name, width, heads):
    head_dim = width // heads
    inner = {"kernel": (width, heads, head_dim), "bias": (heads, head_dim)}
    return {
        **layer_shapes(f"{name}/query", **inner),
        **layer_shapes(f"{name}/key", **inner),
        **layer_shapes(f"{name}/value", **inner),
        **layer_shapes(f"{name}/out", kernel=(heads, head_dim, width), bias=(width,)),
    }


def mlp_shapes(name, width, mlp_dim):
    return {
        **layer_shapes(f"{name}/Dense_0", kernel=(width, mlp_dim), bias=(mlp_dim,)),
        **layer_shapes(f"{name}/Dense_1", kernel=(mlp_dim, width), bias=(width,)),
    }


def block_shapes(numbers, width=24, mlp_dim=40, heads=3):
    """One encoder block; `numbers` follow the names of its four modules."""
    first, attends, second, mlp = numbers
    norm = {"scale": (width,), "bias": (width,)}
    return {
        **layer_shapes(f"LayerNorm_{first}", **norm),
        **attention_shapes(f"MultiHeadDotProductAttention_{attends}", width, heads),
        **layer_shapes(f"LayerNorm_{second}", **norm),
        **mlp_shapes(f"MlpBlock_{mlp}", width, mlp_dim),
    }


def encoder_shapes(numbers, *, depth=2, width=24, **sizes):
    """The blocks one by one, and the last norm."""
    shapes = layer_shapes("Transformer/encoder_norm", scale=(width,), bias=(width,))
    for layer in range(depth):
        for name, shape in block_shapes(numbers, width, **sizes).items():
            shapes[f"Transformer/encoderblock_{layer}/{name}"] = shape
    return shapes


def head_shapes(pre_logits, classes, width=24):
    shapes = {}
    if pre_logits:
        kernel, width = (width, pre_logits), pre_logits
        shapes |= layer_shapes("pre_logits", kernel=kernel, bias=(pre_logits,))
    if classes:
        shapes |= layer_shapes("head", kernel=(width, classes), bias=(classes,))
    return shapes


def stem_shapes(units, group_norm):
    """The ResNet; `group_norm` is the shape of a norm's parameters but the last axis."""

    def conv(name, norm, *kernel):
        vector = (*group_norm, kernel[-1])
        return {
            f"{name}/kernel": kernel,
            **layer_shapes(norm, scale=vector, bias=vector),
        }

    shapes = conv("conv_root", "gn_root", 7, 7, 3, 64)
    channels = 64
    for stage, count in enumerate(units, 1):
        inner = 64 * 2 ** (stage - 1)
        for unit in range(1, count + 1):
            place = f"block{stage}/unit{unit}/"
            shapes |= conv(f"{place}conv1", f"{place}gn1", 1, 1, channels, inner)
            shapes |= conv(f"{place}conv2", f"{place}gn2", 3, 3, inner, inner)
            shapes |= conv(f"{place}conv3", f"{place}gn3", 1, 1, inner, 4 * inner)
            if unit == 1:
                kernel = (1, 1, channels, 4 * inner)
                shapes |= conv(f"{place}conv_proj", f"{place}gn_proj", *kernel)
            channels = 4 * inner
    return shapes, channels


def checkpoint(
    *,
    tree="",
    numbers=PRE_LINEN,
    cls=True,
    pre_logits=0,
    classes=7,
    units=None,
    group_norm=(1, 1, 1),
    grid=(3, 3),
    patch_size=(4, 5),
    seed=0,
):
    """A file's arrays; `patch_size` is the embedding's kernel, behind any ResNet."""
    shapes, channels = {}, 3
    if units is not None:
        shapes, channels = stem_shapes(units, group_norm)
    positions = (1, math.prod(grid) + cls, 24)
    shapes |= layer_shapes("embedding", kernel=(*patch_size, channels, 24), bias=(24,))
    shapes |= encoder_shapes(numbers)
    shapes |= {"Transformer/posembed_input/pos_embedding": positions}
    shapes |= head_shapes(pre_logits, classes)
    if cls:
        shapes["cls"] = (1, 1, 24)
    return {tree + name: array for name, array in draw(shapes, seed).items()}


def nested(arrays, tree=""):
    """Arrays below `tree` as nested dicts, in float64."""
    result = {}
    for name, array in arrays.items():
        if name.startswith(tree):
            *folders, leaf = name[len(tree) :].split("/")
            place = result
            for folder in folders:
                place = place.setdefault(folder, {})
            place[leaf] = np.asarray(array, np.float64)
    return result


def numbered(block, module):
    """A block's modules of one class, in the order in which it runs them."""
    names = [name for name in block if re.fullmatch(rf"{module}_\d+", name)]
    return [block[name] for name in sorted(names, key=lambda name: int(name[-1]))]


def embed(images, params):
    """Patches row by row through the embedding's kernel."""
    kernel = params["kernel"]
    ph, pw = kernel.shape[:2]
    rows, columns = images.shape[1] // ph, images.shape[2] // pw
    tokens = [
        np.einsum(
            "bhwc,hwcd->bd",
            images[:, y * ph : (y + 1) * ph, x * pw : (x + 1) * pw],
            kernel,
        )
        for y in range(rows)
        for x in range(columns)
    ]
    return np.stack(tokens, axis=1) + params["bias"]


def mlp(x, params, gelu):
    layers = {"hidden": params["Dense_0"], "out": params["Dense_1"]}
    return reference.mlp(x, layers, gelu)


def encode(x, params, gelu="tanh", eps=1e-6):
    """The blocks of `Transformer` and its last norm."""
    blocks = [name for name in params if name.startswith("encoderblock_")]
    for layer in range(len(blocks)):
        block = params[f"encoderblock_{layer}"]
        before, after = numbered(block, "LayerNorm")
        (attends,) = numbered(block, "MultiHeadDotProductAttention")
        (feeds,) = numbered(block, "MlpBlock")
        heads = attends["query"]["kernel"].shape[1]
        y = reference.layer_norm(x, before, eps)
        x = x + reference.attention(y, y, attends, heads)
        x = x + mlp(reference.layer_norm(x, after, eps), feeds, gelu)
    return reference.layer_norm(x, params["encoder_norm"], eps)


def classify(x, params):
    if "pre_logits" in params:
        x = np.tanh(reference.dense(x, params["pre_logits"]))
    return reference.dense(x, params["head"]) if "head" in params else x


def forward(arrays, images, *, tree="", gelu="tanh", eps=1e-6, standardise=True):
    """Logits of NHWC images."""
    params = nested(arrays, tree)
    x = np.asarray(images, np.float64)
    if "conv_root" in params:
        x = resnet(x, params, standardise)
    x = embed(x, params["embedding"])
    if "cls" in params:
        cls = np.repeat(params["cls"], len(x), axis=0)
        x = np.concatenate([cls, x], axis=1)
    x = x + params["Transformer"]["posembed_input"]["pos_embedding"]
    x = encode(x, params["Transformer"], gelu, eps)
    x = x[:, 0] if "cls" in params else x.mean(axis=1)
    return classify(x, params)


def resnet(images, params, standardise):
    """The ResNet of the hybrid models, in torch's functions; NHWC in and out."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def pad(x, size, stride, value=0.0):
        sides = []
        for length in (x.shape[3], x.shape[2]):
            total = max((math.ceil(length / stride) - 1) * stride + size - length, 0)
            sides += [total // 2, total - total // 2]
        return functional.pad(x, sides, value=value)

    def conv(x, kernel, stride=1):
        if standardise:
            kernel = kernel - kernel.mean((0, 1, 2))
            kernel = kernel / (kernel.std((0, 1, 2)) + 1e-5)
        kernel = torch.from_numpy(np.moveaxis(kernel, (3, 2), (0, 1)).copy())
        return functional.conv2d(pad(x, kernel.shape[2], stride), kernel, stride=stride)

    def norm(x, params):
        scale, bias = (
            torch.from_numpy(params[leaf].ravel()) for leaf in ("scale", "bias")
        )
        return functional.group_norm(x, 32, scale, bias, eps=1e-6)

    def unit(x, params, stride):
        y = norm(conv(x, params["conv1"]["kernel"]), params["gn1"]).relu()
        y = norm(conv(y, params["conv2"]["kernel"], stride), params["gn2"]).relu()
        y = norm(conv(y, params["conv3"]["kernel"]), params["gn3"])
        if "conv_proj" in params:
            x = conv(x, params["conv_proj"]["kernel"], stride)
            x = norm(x, params["gn_proj"])
        return (x + y).relu()

    x = torch.from_numpy(np.moveaxis(images, -1, 1).copy())
    x = norm(conv(x, params["conv_root"]["kernel"], 2), params["gn_root"]).relu()
    x = functional.max_pool2d(pad(x, 3, 2, -math.inf), 3, 2)
    stages = [name for name in params if re.fullmatch(r"block\d+", name)]
    for stage in range(1, len(stages) + 1):
        units = params[f"block{stage}"]
        for index in range(1, len(units) + 1):
            stride = 2 if stage > 1 and index == 1 else 1
            x = unit(x, units[f"unit{index}"], stride)
    return np.moveaxis(x.numpy(), 1, -1)


@functools.cache
def images(size, channels=3, batch=2):
    """Random NHWC images."""
    values = np.random.default_rng(9).normal(size=(batch, *size, channels))
    return values.astype(np.float32)
