"""Makers of good, broken and hostile weights files, of tiny models and small pieces.

The good ones are three formats of the same size of model; the others change one thing.
"""

import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

WIDTH, HEADS, MLP, DEPTH, PATCH, SIZE, CLASSES = 8, 2, 12, 3, 4, 12, 5
ROWS = 1 + (SIZE // PATCH) ** 2

HF_CONFIG = {
    "model_type": "vit",
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": MLP,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "image_size": SIZE,
    "patch_size": PATCH,
    "num_channels": 3,
}
TIMM_CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": CLASSES,
    "model_args": {"num_heads": HEADS, "act_layer": "gelu_tanh"},
    "pretrained_cfg": {"input_size": [3, SIZE, SIZE]},
}


def random(shapes):
    generator = np.random.default_rng(0)
    return {
        name: generator.normal(size=shape).astype(np.float32) * 0.1
        for name, shape in shapes.items()
    }


def timm_arrays():
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, ROWS, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "head.weight": (CLASSES, WIDTH),
        "head.bias": (CLASSES,),
    }
    for layer in range(DEPTH):
        for name, shape in {
            "norm1": (WIDTH,),
            "attn.qkv": (3 * WIDTH, WIDTH),
            "attn.proj": (WIDTH, WIDTH),
            "norm2": (WIDTH,),
            "mlp.fc1": (MLP, WIDTH),
            "mlp.fc2": (WIDTH, MLP),
        }.items():
            shapes[f"blocks.{layer}.{name}.weight"] = shape
            shapes[f"blocks.{layer}.{name}.bias"] = shape[:1]
    return random(shapes)


def hf_arrays():
    shapes = {
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.position_embeddings": (1, ROWS, WIDTH),
        "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "layernorm.weight": (WIDTH,),
        "layernorm.bias": (WIDTH,),
    }
    for layer in range(DEPTH):
        for name, shape in {
            "layernorm_before": (WIDTH,),
            "attention.attention.query": (WIDTH, WIDTH),
            "attention.attention.key": (WIDTH, WIDTH),
            "attention.attention.value": (WIDTH, WIDTH),
            "attention.output.dense": (WIDTH, WIDTH),
            "layernorm_after": (WIDTH,),
            "intermediate.dense": (MLP, WIDTH),
            "output.dense": (WIDTH, MLP),
        }.items():
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
    return random(shapes)


def npz_arrays():
    shapes = {
        "cls": (1, 1, WIDTH),
        "embedding/kernel": (PATCH, PATCH, 3, WIDTH),
        "embedding/bias": (WIDTH,),
        "Transformer/posembed_input/pos_embedding": (1, ROWS, WIDTH),
        "Transformer/encoder_norm/scale": (WIDTH,),
        "Transformer/encoder_norm/bias": (WIDTH,),
        "head/kernel": (WIDTH, CLASSES),
        "head/bias": (CLASSES,),
    }
    for layer in range(DEPTH):
        block = f"Transformer/encoderblock_{layer}/"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes[f"{block}{norm}/scale"] = shapes[f"{block}{norm}/bias"] = (WIDTH,)
        attention = f"{block}MultiHeadDotProductAttention_1/"
        for part in ("query", "key", "value"):
            shapes[f"{attention}{part}/kernel"] = (WIDTH, HEADS, WIDTH // HEADS)
            shapes[f"{attention}{part}/bias"] = (HEADS, WIDTH // HEADS)
        shapes[f"{attention}out/kernel"] = (HEADS, WIDTH // HEADS, WIDTH)
        shapes[f"{attention}out/bias"] = (WIDTH,)
        shapes[f"{block}MlpBlock_3/Dense_0/kernel"] = (WIDTH, MLP)
        shapes[f"{block}MlpBlock_3/Dense_0/bias"] = (MLP,)
        shapes[f"{block}MlpBlock_3/Dense_1/kernel"] = (MLP, WIDTH)
        shapes[f"{block}MlpBlock_3/Dense_1/bias"] = (WIDTH,)
    return random(shapes)


def replaced(arrays, changes):
    """Arrays with some replaced; None leaves one out."""
    return {k: v for k, v in (arrays | changes).items() if v is not None}


def save_npz(folder: Path, changes=None, *, save=np.savez):
    save(folder / "x.npz", **replaced(npz_arrays(), changes or {}))
    return folder / "x.npz"


def save_timm(folder: Path, changes=None, **config):
    from safetensors.numpy import save_file

    arrays = replaced(timm_arrays(), changes or {})
    save_file(
        {k: np.ascontiguousarray(v) for k, v in arrays.items()},
        folder / "model.safetensors",
    )
    save_json(folder, TIMM_CONFIG | config)
    return folder


def save_hf(folder: Path, changes=None, **config):
    from safetensors.numpy import save_file

    save_file(replaced(hf_arrays(), changes or {}), folder / "model.safetensors")
    save_json(folder, HF_CONFIG | config)
    return folder


def save_torch(folder: Path, content=None, **arguments):
    import torch

    if content is None:
        content = {k: torch.from_numpy(v) for k, v in timm_arrays().items()}
    torch.save(content, folder / "x.pth", **arguments)
    save_json(folder, TIMM_CONFIG)
    return folder / "x.pth"


def save_json(folder, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "config.json").write_text(text)


def safetensors(header, data=b"", length=None):
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def npy(header, data=b"", *, version=1, length=None):
    """An npy file with any header; a dict is written as numpy does."""
    if isinstance(header, dict):
        header = repr({"descr": "<f4", "fortran_order": False, "shape": (2,)} | header)
    text = header.encode("latin1")
    size = struct.pack(
        "<H" if version == 1 else "<I", len(text) if length is None else length
    )
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


def pack(members, *, again=1, **overrides):
    """A zip file of (name, content), stored; overrides are of the headers' fields.

    Args:
      members: names and contents; a content may be (compressed, size).
      again: how often each member is in the directory.
      overrides: ``method``, ``flags``, ``size`` (uncompressed, as it is declared).
    """
    body, directory = b"", b""
    for name, content in members:
        data, size = content if isinstance(content, tuple) else (content, len(content))
        size = overrides.get("size", size)
        method = overrides.get("method", 8 if isinstance(content, tuple) else 0)
        crc = zlib.crc32(data) if method == 0 else 0
        name = name.encode()
        extra = b""
        if size >= 1 << 32:
            extra = struct.pack("<HHQ", 1, 8, size)
        fields = struct.pack(
            "<HHHIIIIHH", 45, overrides.get("flags", 0x800), method, 0, crc,
            len(data), min(size, 0xFFFFFFFF), len(name), len(extra),
        )  # fmt: skip
        central = (
            b"PK\1\2" + struct.pack("<H", 45) + fields
            + struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name + extra
        )  # fmt: skip
        directory += central * again
        body += b"PK\3\4" + fields + name + extra + data
    count = len(members) * again
    return body + directory + end_of_zip(count, len(directory), len(body))


def end_of_zip(count, size, offset):
    return b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, size, offset, 0)


def deflated_zeros(size):
    """A deflate stream of that many zeros, made of one piece again and again."""
    compressor = zlib.compressobj(9, wbits=-15)
    piece = 1 << 20
    first = compressor.compress(bytes(piece)) + compressor.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, wbits=-15).flush()
    return first * (size // piece) + last


def rezip(path, out, change):
    """A zip file's members again, each as ``change(name, content)`` has it; None: out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            if (content := change(name, old.read(name))) is not None:
                new.writestr(name, content)
    return out
