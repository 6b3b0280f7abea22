"""What loading takes: resident memory on eight devices, bytes read by two processes."""

import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 300
WIDTH, DEPTH, HEADS, MLP, ROWS, CLASSES = 768, 12, 12, 3072, 197, 1000

# What runs in processes of their own: devices and memory are a process's.
START = """
import json, os, sys
import jax, numpy as np
from flax import nnx
from vit_jax import sharding
from vit_jax.weights import load

ONE = dict(slices=1, data=1, tensor=1, sequence=1)

def leaves(model):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            nnx.to_pure_dict(nnx.state(model))
        )
    }
"""

PEAK = """
def memory(what):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(what))

if sys.argv[1].endswith(".pth"):
    import torch
mesh = sharding.build_mesh(fsdp=-1, **ONE)
started = jax.device_put(np.ones((8, 8), np.float32), sharding.replicated(mesh))
jax.block_until_ready(jax.jit(lambda x: x @ x)(started))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak is counted from here
before = memory("VmRSS")
model, record = load(sys.argv[1], mesh=mesh, num_heads=int(sys.argv[2]))
sizes = [leaf.nbytes for leaf in leaves(model).values()]
print(json.dumps(dict(
    devices=len(mesh.devices.flat),
    peak=memory("VmHWM") - before,
    parameters=sum(sizes),
    largest=max(sizes),
    bytes_read=record.bytes_read,
    missing=record.missing,
)))
"""

# Sums of a shard's numbers as whole numbers, which no order of adding changes.
SHARE = """
address, process, devices = sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
jax.distributed.initialize(address, 2, process)
mesh = sharding.build_mesh(fsdp=-1, **ONE)
assert len(mesh.devices.flat) == 2 * devices
model, record = load(sys.argv[1], mesh=mesh, num_heads=int(sys.argv[2]))
shards, share = [], 0
for path, leaf in leaves(model).items():
    seen = set()
    for shard in leaf.addressable_shards:
        bounds = tuple(part.indices(n)[:2] for part, n in zip(shard.index, leaf.shape))
        numbers = np.asarray(shard.data)
        shards.append((path, bounds, int(numbers.view(np.uint32).sum(dtype=np.uint64))))
        share += 0 if bounds in seen else numbers.nbytes
        seen.add(bounds)
whole = sum(leaf.nbytes for leaf in leaves(model).values())
replicated = sum(l.nbytes for l in leaves(model).values() if l.is_fully_replicated)
print(json.dumps(dict(
    bytes_read=record.bytes_read, share=share, whole=whole, replicated=replicated,
    shards=shards, missing=record.missing, format=record.format,
)), flush=True)
jax.distributed.shutdown()
"""


def start(code, *arguments, devices):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return subprocess.Popen(
        [sys.executable, "-c", START + code, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process):
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def timm_shapes(width, depth, mlp, rows, classes):
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, rows, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
    }
    for layer in range(depth):
        for name, shape in {
            "norm1": (width,),
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "norm2": (width,),
            "mlp.fc1": (mlp, width),
            "mlp.fc2": (width, mlp),
        }.items():
            shapes[f"blocks.{layer}.{name}.weight"] = shape
            shapes[f"blocks.{layer}.{name}.bias"] = shape[:1]
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    return shapes | {"head.weight": (classes, width), "head.bias": (classes,)}


def random_blocks():
    """Random numbers, a mebibyte at a time; the same ones with another sign and scale."""
    block = np.random.default_rng(0).normal(size=1 << 18).astype(np.float32)
    while True:
        yield block
        block = np.roll(block, 1) * np.float32(-1)


def write_safetensors(path, shapes):
    """Quickly, and with nothing large in memory."""
    header, size = {}, 0
    for name, shape in shapes.items():
        end = size + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [size, end]}
        size = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for block in random_blocks():
            if size <= 0:
                break
            file.write(block.tobytes()[:size])
            size -= block.nbytes
    return path


def write_npz(path, shapes):
    blocks = random_blocks()
    np.savez(
        path, **{name: np.resize(next(blocks), shape) for name, shape in shapes.items()}
    )
    return path


def write_torch(path, shapes):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    blocks = random_blocks()
    content = {
        name: torch.from_numpy(np.resize(next(blocks), shape))
        for name, shape in shapes.items()
    }
    torch.save({"model": content}, path)
    return path


WRITERS = {
    "x.safetensors": write_safetensors,
    "x.npz": write_npz,
    "x.pth": write_torch,
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("name", WRITERS)
def test_peak_on_eight_devices(name, tmp_path):
    """The parameters, and one and a half times the largest array, at most."""
    path = WRITERS[name](tmp_path / name, timm_shapes(WIDTH, DEPTH, MLP, ROWS, CLASSES))
    found = result(start(PEAK, path, HEADS, devices=8))
    assert found["devices"] == 8 and found["missing"] == []
    assert found["parameters"] > 300 << 20
    assert found["largest"] == 4 * DEPTH * WIDTH * MLP
    assert found["bytes_read"] == found["parameters"]
    assert found["peak"] > 0.9 * found["parameters"]  # or something else was measured
    extra = (found["peak"] - found["parameters"]) / found["largest"]
    assert extra <= 1.5, found


def free_address():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(params=["x.safetensors", "x.npz"])
def two_processes(request, tmp_path):
    """A file, its single-process leaves by path, and what each of two processes did."""
    from vit_jax.weights.load import open_checkpoint

    heads, devices = 4, 2
    shapes = timm_shapes(width=64, depth=3, mlp=128, rows=5, classes=24)
    path = WRITERS[request.param](tmp_path / request.param, shapes)
    address = free_address()
    running = [
        start(SHARE, path, heads, address, process, devices, devices=devices)
        for process in range(2)
    ]
    try:
        results = [result(process) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    return open_checkpoint(str(path), num_heads=heads).leaves, results


def test_each_process_reads_its_slices(two_processes):
    leaves, results = two_processes
    for found in results:
        assert found["missing"] == [] and found["format"] == "timm"
        assert found["bytes_read"] == found["share"] < 0.55 * found["whole"]
        assert found["replicated"] < 0.1 * found["whole"]
    read = sum(found["bytes_read"] for found in results)
    assert read == results[0]["whole"] + results[0]["replicated"]  # which both have
    covered = set()
    for path, bounds, total in (
        shard for found in results for shard in found["shards"]
    ):
        part = leaves[path].read(tuple(slice(*pair) for pair in bounds))
        assert total == int(part.view(np.uint32).sum(dtype=np.uint64)), path
        covered.add((path, str(bounds)))
    sizes = dict.fromkeys(leaves, 0)
    for path, bounds in covered:
        sizes[path] += int(np.prod([end - begin for begin, end in json.loads(bounds)]))
    assert sizes == {path: int(np.prod(leaf.shape)) for path, leaf in leaves.items()}
