"""Broken and hostile files end in one line and exit code 2, and nothing else happens."""

import contextlib
import importlib
import io
import json
import os
import pickle
import re
import struct
import tarfile
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.weights import hostile
from tests.weights.hostile import (
    DEPTH,
    WIDTH,
    deflated_zeros,
    end_of_zip,
    entry,
    npy,
    pack,
    safetensors,
    save_hf,
    save_npz,
    save_timm,
    save_torch,
)
from vit_jax.cli import main

MOST = 200 << 20  # bytes that reading a small file may take, at most
MARKER = "executed"


class Payload:
    """What creates a file when it is unpickled."""

    def __init__(self, folder):
        self.command = f"touch {folder / MARKER}"

    def __reduce__(self):
        return os.system, (self.command,)


def put(name, content):
    """A case that is a file of these bytes."""

    def make(folder):
        (folder / name).write_bytes(content(folder) if callable(content) else content)
        return folder / name

    return make


def st(header, data=b"", **length):
    return put("x.safetensors", lambda _: safetensors(header, data, **length))


def npz(*members, **overrides):
    return put("x.npz", lambda _: pack(members, **overrides))


def cut(save, name, share=0.6):
    """A case that is the beginning of a good file."""

    def make(folder):
        place = save(folder)
        file = folder / name
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * share)])
        return place

    return make


def bad(save, changes=None, **config):
    return lambda folder: save(folder, changes, **config)


def in_torch(make):
    """A case that needs torch."""

    def skip_or_make(folder):
        pytest.importorskip("torch", reason="torch is not installed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make(folder)

    return skip_or_make


def repickled(content):
    """A torch file with another pickle in it."""

    @in_torch
    def make(folder):
        place = save_torch(folder)
        new = folder / "y.pth"
        data = content(folder) if callable(content) else content
        hostile.rezip(
            place, new, lambda name, old: data if name.endswith("data.pkl") else old
        )
        return new

    return make


def object_array(folder):
    array = np.empty(1, object)
    array[0] = Payload(folder)
    np.savez(folder / "x.npz", **hostile.npz_arrays(), extra=array)
    return folder / "x.npz"


def many_objects_in_an_npy(folder):
    return pack([("x.npy", npy({"descr": "|O"}, pickle.dumps([Payload(folder)])))])


def evaluated(folder):
    return pack([("x.npy", npy(f"{{'descr': __import__('os').system('touch {folder / MARKER}'), 'fortran_order': False, 'shape': (2,)}}"))])  # fmt: skip


def giant_directory(folder):
    """A sparse file whose zip directory would be gigabytes."""
    size = 3 << 30
    with (folder / "x.npz").open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(end_of_zip(1, size - 1, 1))
    return folder / "x.npz"


def giant_header(folder):
    size = 3 << 30
    with (folder / "x.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", size - 8))
        file.truncate(size)
    return folder / "x.safetensors"


def fifo(folder):
    os.mkfifo(folder / "x.npz")
    return folder / "x.npz"


def two_files(folder):
    for name in ("a", "b"):
        (folder / f"{name}.npz").write_bytes(pack([]))
    return folder


def index(content):
    def make(folder):
        inside = folder / "folder"
        inside.mkdir()
        (inside / "model.safetensors.index.json").write_text(json.dumps(content))
        (inside / "x.txt").write_text("")
        (folder / "x.safetensors").write_bytes(
            safetensors({"a": entry(0, 8)}, bytes(8))
        )
        return inside

    return make


def config(text):
    """A good model with another config.json."""

    def make(folder):
        save_hf(folder)
        (folder / "config.json").write_bytes(
            text if isinstance(text, bytes) else text.encode()
        )
        return folder

    return make


@in_torch
def old_torch_with_payload(folder):
    return put("x.pth", pickle.dumps({"a": Payload(folder)}, protocol=2))(folder)


@in_torch
def torch_with_payload(folder):
    return save_torch(folder, {"model": Payload(folder)})


@in_torch
def old_format_with_payload(folder):
    return save_torch(
        folder, {"a": Payload(folder)}, _use_new_zipfile_serialization=False
    )


@in_torch
def torch_tar(folder):
    content = pickle.dumps(Payload(folder), protocol=2)
    with tarfile.open(folder / "x.pth", "w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return folder / "x.pth"


@in_torch
def torch_module(folder):
    import torch

    return save_torch(folder, torch.nn.Linear(2, 2))


@in_torch
def torch_script(folder):
    import torch

    torch.jit.script(torch.nn.Linear(2, 2)).save(folder / "x.pt")
    return folder / "x.pt"


@in_torch
def torch_expanded(folder):
    import torch

    return save_torch(folder, {"a": torch.zeros(1).expand(1 << 20, 1 << 20)})


@in_torch
def torch_compressed(folder):
    place = save_torch(folder)
    content = place.read_bytes()
    assert content[8:10] == b"\0\0"
    new = folder / "y.pth"
    members = {}

    def keep(name, old):
        members[name] = old

    hostile.rezip(place, folder / "z.pth", keep)
    new.write_bytes(pack([(name, (deflated_zeros(1 << 20), 1 << 20)) if name.endswith("data.pkl") else (name, old) for name, old in members.items()]))  # fmt: skip
    return new


@in_torch
def torch_cut(folder):
    return cut(save_torch, "x.pth")(folder)


DOUBLING = (  # a text that is encoded again and again, in a few bytes of a pickle
    b"\x80\x02c_codecs\nencode\nq\x00X\x01\x00\x00\x00aX\x06\x00\x00\x00latin1\x86R"
    + b"q\x01h\x00h\x01X\x03\x00\x00\x00hex\x86R" * 40
    + b"."
)
NPY = npy({}, bytes(8))
MIB = 1 << 20

# What is made, and what its message says.
CASES = {
    # safetensors
    "header longer than memory": (st({}, length=1 << 63), "a header of 9,223,372"),
    "header longer than the file": (st({}, length=3), "a header of 3 bytes in 10"),
    "gigabytes of header": (giant_header, "a header of 3,221,225,464 bytes"),
    "header cut": (put("x.safetensors", b"\x02\0\0"), "not a whole safetensors file"),
    "deep header": (st(b'{"a":' * 100_000), "not a whole JSON file"),
    "header of many lists": (st(b'{"a":[' + b"[]," * 600_000 + b"[]]}"), "not a whole saf"),
    "header no object": (st([1]), "not a JSON object"),
    "header no text": (st(b'{"\xff": 1}'), "not a whole JSON file"),
    "header entry no object": (st({"a": 3}), "not a whole safetensors file"),
    "header name twice": (
        st(b'{"a":%b,"a":%b}' % ((json.dumps(entry(0, 8)).encode(),) * 2), bytes(8)),
        "a key is in it twice",
    ),
    "offsets behind the file": (st({"a": entry(0, 800, (200,))}, bytes(8)), "arrays of 800|buffer is too small"),
    "offsets overlap": (st({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "'b' does not begin where"),
    "offsets negative": (st({"a": entry(-8, 0)}, bytes(8)), "'a' does not begin where"),
    "offsets reversed": (st({"a": entry(0, -8, (-2,))}, bytes(8)), "'a' has no valid shape"),
    "offsets not whole": (st({"a": entry(0, 8.5)}, bytes(8)), "offsets that are not whole"),
    "offsets with a gap": (st({"a": entry(4, 12)}, bytes(12)), "'a' does not begin where"),
    "bytes left over": (st({"a": entry(0, 8)}, bytes(9)), "arrays of 8 bytes in 9"),
    "type unknown": (st({"a": entry(0, 2, dtype="F8_E4M3")}, bytes(2)), "has type F8_E4M3; known: F64"),
    "type no text": (st({"a": entry(0, 8, dtype=["F32"])}, bytes(8)), "not a whole saf"),
    "shape too large": (st({"a": entry(0, 8, (1 << 62, 4))}, bytes(8)), "needs 73,786,976"),
    "shape with text": (st({"a": entry(0, 8, ("2",))}, bytes(8)), "no valid shape"),
    "shape of truths": (st({"a": entry(0, 4, (True,))}, bytes(4)), "no valid shape"),
    "shape with zero": (st({"patch_embed.proj.weight": entry(0, 0, (0, 1 << 60)), "blocks.0.a": entry(0, 0, (0,))}), "it is empty"),
    "safetensors cut": (cut(save_timm, "model.safetensors"), "not a whole safetensors file"),
    # npz
    "no zip": (put("x.npz", b"no zip file" * 9), "not a whole npz file: File is not a zip"),
    "npz cut": (cut(save_npz, "x.npz"), "not a whole npz file"),
    "gigabytes of directory": (giant_directory, "a part of its directory is too large"),
    "objects": (object_array, "'extra.npy' holds pickled Python objects"),
    "objects in an npy": (put("x.npz", many_objects_in_an_npy), "holds pickled Python objects"),
    "header that is evaluated": (put("x.npz", evaluated), "'x.npy' is not an array"),
    "header deep": (npz(("x.npy", npy("(" * 9000))), "'x.npy' is not an array"),
    "header of gigabytes": (npz(("x.npy", npy("{}", version=2, length=0xFFFFFFF0))), "'x.npy' is not an array"),
    "header of zeros": (npz(("x.npy", (deflated_zeros(16 * MIB), 16 * MIB))), "'x.npy' is not an array"),
    "header version": (npz(("x.npy", npy({}, version=9))), "'x.npy' is not an array"),
    "header of Python 2": (npz(("x.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2L,)}", bytes(8)))), "not a format that is read"),
    "npy shape negative": (npz(("x.npy", npy({"shape": (-2,)}, bytes(8)))), "no valid shape"),
    "npy shape too large": (npz(("x.npy", npy({"shape": (1 << 61, 4)}, bytes(8)))), "it is damaged"),
    "npy shape overflows": (npz(("x.npy", npy({"shape": (1 << 63, 1 << 63)}))), "it is damaged"),
    "npy shape of truths": (npz(("x.npy", npy({"shape": (True, 2)}, bytes(8)))), "no valid shape"),
    "npy of many digits": (npz(("x.npy", npy({"shape": (int("9" * 4000),)}, bytes(8)))), "x.npz"),
    "npy of structures": (npz(("x.npy", npy({"descr": [("a", "<f4")]}, bytes(8)))), "known: numbers"),
    "npy of subarrays": (npz(("x.npy", npy({"descr": ("<f4", (2,)), "shape": (1,)}, bytes(8)))), "known: numbers|not an array|no valid"),
    "npy of nothing": (npz(("x.npy", npy({"descr": "|S0", "shape": (1 << 50,)}))), "no valid shape"),
    "npy of bytes": (npz(("x.npy", npy({"descr": "|V8", "shape": (1,)}, bytes(8)))), "known: numbers"),
    "no npy": (npz(("x.npy", b"text")), "'x.npy' is not an array"),
    "member twice": (npz(("x.npy", NPY), ("x.npy", NPY)), "'x.npy' is in it twice"),
    "member with two names": (npz(("x.npy", NPY), ("x", NPY)), "'x' is in it twice"),
    "member encrypted": (npz(("x.npy", NPY), flags=0x801), "'x.npy' is encrypted"),
    "member in bz2": (npz(("x.npy", NPY), method=12), "compressed in a way that is not read"),
    "member of another length": (npz(("x.npy", NPY), size=9), "'x.npy' has two lengths"),
    "member of terabytes": (npz(("x.npy", (deflated_zeros(MIB), 1 << 41))), "would unpack to 2,199,023,255,552; no"),
    "members overlap": (npz(("x.npy", NPY + bytes(MIB)), again=100), "would unpack to 104"),
    "zip bomb": (npz(("x.npy", (deflated_zeros(512 * MIB), 512 * MIB))), "would unpack to 536,870,912; no"),
    "names of a terminal": (npz(("a\nvit-jax: fine\x1b[31m\u202e.npy", b"")), r"'a\\nvit-jax: fine\\x1b"),
    # torch
    "torch runs code": (torch_with_payload, "refers to (posix|nt) system, which is no part"),
    "old torch runs code": (old_format_with_payload, "refers to (posix|nt) system"),
    "pickle runs code": (old_torch_with_payload, "not a whole torch file"),
    "torch tar": (torch_tar, "not a whole torch file"),
    "torch module": (torch_module, "refers to torch.nn.modules.linear Linear"),
    "torch script": (torch_script, "TorchScript program"),
    "torch cut": (torch_cut, "not a whole torch file"),
    "torch expanded": (torch_expanded, "would unpack to 4,398,046,511,104"),
    "torch compressed": (torch_compressed, "data.pkl' is compressed"),
    "torch of gigabytes": (repickled(b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\0\0\0\0\x01\x85R."), "refers to __builtin__ bytearray"),
    "torch that doubles": (repickled(DOUBLING), "refers to _codecs encode"),
    "torch of a list": (in_torch(lambda folder: save_torch(folder, [1, 2])), "not a dictionary of arrays"),
    "torch of nothing": (in_torch(lambda folder: save_torch(folder, {})), "no arrays in it"),
    "torch pickle cut": (repickled(b"\x80\x02}"), "not a whole torch file"),
    # files and folders
    "nothing there": (lambda folder: folder / "x.npz", "no such file or folder"),
    "ending unknown": (put("x.ckpt", b"x"), "not a file that ends in .safetensors"),
    "fifo": (fifo, "not a file that ends in"),
    **{f"empty{end}": (put(f"x{end}", b""), "the file is empty") for end in (".npz", ".safetensors", ".pth", ".pt", ".bin")},
    "folder empty": (lambda folder: folder, "no .safetensors, .npz"),
    "folder with two": (two_files, r"several files .a.npz, b.npz.; name one"),
    "folder named as a file": (lambda folder: (folder / "x.npz").mkdir() or folder / "x.npz", "file in it"),
    "name too long": (lambda folder: folder / ("x" * 300 + ".npz"), "File name too long"),
    "name with zero": (lambda folder: f"{folder}/x\0.npz", "no such file or folder"),
    "index of another folder": (index({"weight_map": {"a": "../x.safetensors"}}), "names '../x.safetensors', which is no"),
    "index of a whole path": (index({"weight_map": {"a": "/etc/passwd"}}), "names '/etc/passwd', which is no"),
    "index of another type": (index({"weight_map": {"a": "x.txt"}}), "names 'x.txt', which is no"),
    "index of a list": (index({"weight_map": ["x.safetensors"]}), "no weight_map in it"),
    "index of nothing": (index({"weight_map": {}}), "no arrays in it"),
    # config.json
    "config deep": (config('{"a":' * 100_000), "not a whole JSON file"),
    "config of many lists": (config('{"a":[' + "[]," * 1_000_000 + "[]]}"), "do not divide"),
    "config too large": (config(" " * (9 << 20)), "larger than 8 MiB"),
    "config no object": (config("[]"), "not a JSON object"),
    "config no text": (config(b'{"a": "\xff"}'), "not a whole JSON file"),
    "config with NaN": (config('{"layer_norm_eps": NaN}'), "NaN is not a finite number"),
    "config with a large number": (config('{"image_size": 1e999}'), "1e999 is not a finite"),
    "config with many digits": (config('{"image_size": ' + "9" * 5000 + "}"), "not a finite number"),
    "patches of gigapixels": (bad(save_timm, {"patch_embed.proj.weight": np.ones((WIDTH, 3, 256, 256), np.float32), "pos_embed": np.ones((1, 101**2 + 1, WIDTH), np.float32)}, pretrained_cfg={}), "image_size is .25856, 25856., which no model has"),
    "patches without number": (bad(save_timm, {"pos_embed": np.ones((1, 150**2 + 1, WIDTH), np.float32)}, pretrained_cfg={}), "number of patches is 22500"),
    "config cut": (config(json.dumps(hostile.HF_CONFIG)[:50]), "not a whole JSON file"),
    "config of code": (bad(save_hf, model_type="evil", auto_map={"AutoConfig": "evil.Evil"}), "model_type 'evil' is not read"),
    "image of gigapixels": (bad(save_hf, image_size=10**9), "config.json has image_size"),
    "image negative": (bad(save_hf, image_size=-12), "image_size"),
    "image of zero": (bad(save_hf, image_size=[0, 0]), "image_size"),
    "image a list of lists": (bad(save_hf, image_size=[[12], {}]), "config.json: image_size is"),
    "layers in the config": (bad(save_hf, num_hidden_layers=10**9), f"has {DEPTH} layers"),
    "heads zero": (bad(save_hf, num_attention_heads=0), "heads do not divide|number of heads"),
    "heads negative": (bad(save_hf, num_attention_heads=-2), "do not divide"),
    "heads a list": (bad(save_hf, num_attention_heads=[2]), "num_attention_heads is"),
    "heads a truth": (bad(save_hf, num_attention_heads=True), "num_attention_heads is True"),
    "heads that do not divide": (bad(save_hf, num_attention_heads=3), "do not divide"),
    "epsilon a text": (bad(save_hf, layer_norm_eps="1e-6"), "layer_norm_eps is '1e-6'"),
    "activation an object": (bad(save_hf, hidden_act={"gelu": 1}), "hidden_act is"),
    "type a list": (bad(save_hf, model_type=["vit"]), "model_type"),
    "timm of another kind": (bad(save_timm, architecture="resnet50"), "'resnet50' is not one of"),
    "timm heads": (bad(save_timm, model_args={"num_heads": "2"}), "heads do not divide"),
    "timm activation": (bad(save_timm, model_args={"num_heads": 2, "act_layer": {}}), "activation"),
    "timm pool": (bad(save_timm, global_pool=["avg"]), "global_pool"),
    # arrays
    "no known names": (put("x.npz", lambda _: pack([("evil.npy", NPY)])), "not a format that is read here"),
    "names of a terminal in a list": (st({"evil\nvit-jax: fine\x1b[2J": entry(0, 8)}, bytes(8)), r"such as evil\\nvit-jax: fine\\x1b"),
    "heads do not fit": (bad(save_timm, {"blocks.1.attn.qkv.weight": np.ones((3 * WIDTH + 1, WIDTH), np.float32)}), r"blocks.1.attn.qkv.weight is \(25, 8\)"),
    "an axis too few": (bad(save_timm, {"patch_embed.proj.weight": np.ones(9, np.float32)}), r"proj.weight is \(9,\)"),
    "a scalar": (bad(save_timm, {"blocks.1.norm1.weight": np.float32(1)}), "norm"),
    "another width": (bad(save_timm, {"norm.weight": np.ones(9, np.float32)}), r"norm/scale is \(9,\) in the weights"),
    "a layer without an array": (bad(save_timm, {"blocks.1.mlp.fc1.weight": None}), "missing: blocks.1.mlp.fc1.weight"),
    "a layer is not there": (bad(save_timm, {n: None for n in hostile.timm_arrays() if n.startswith("blocks.1.")}), "not numbered from 0 without gaps"),
    "no layer": (bad(save_timm, {n: None for n in hostile.timm_arrays() if n.startswith("blocks.")}), "not a format that is read"),
    "layer of many digits": (bad(save_timm, {f"blocks.{'9' * 4999}.a": np.ones(1, np.float32)}), "not numbered from 0 without gaps"),
    "whole numbers": (bad(save_timm, {"norm.weight": np.ones(WIDTH, np.int64)}), "norm.weight has type int64"),
    "positions in no square": (bad(save_npz, {"Transformer/posembed_input/pos_embedding": np.ones((1, 8, WIDTH), np.float32)}), "positions for 7 patches"),
    "positions of nothing": (bad(save_npz, {"Transformer/posembed_input/pos_embedding": np.ones((1, 0, WIDTH), np.float32)}), "it is empty"),
    "heads beyond the width": (bad(save_npz, {"Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel": np.ones((WIDTH, 3, 4), np.float32)}), "3 heads of 4 in a width of 8"),
    "not a number": (bad(save_npz, {"head/kernel": np.full((WIDTH, 5), np.nan, np.float32)}), "difference nan"),
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _import_everything(tmp_path_factory):
    """Modules and compiled programs are no part of what a file makes the reader use."""
    folder = tmp_path_factory.mktemp("good")
    assert (
        main(["convert", str(save_npz(folder)), str(folder / "y.npz"), "--to=npz"]) == 0
    )
    with warnings.catch_warnings(), contextlib.suppress(ImportError):
        warnings.simplefilter("ignore")
        importlib.import_module("torch")


def peak_memory():
    """Bytes of memory at most since the last `reset`."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) << 10


def reset_peak_memory():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the peak of a process's memory cannot be reset here")


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def convert(source, target):
    return main(["convert", str(source), str(target), "--to=npz"])


@pytest.mark.parametrize("save", [save_npz, save_timm, save_hf, in_torch(save_torch)])
def test_good_files_are_converted(save, tmp_path, capsys):
    """What the cases change is only what they say: without it, this is what happens."""
    assert convert(save(tmp_path), tmp_path / "out" / "y.npz") == 0
    assert (tmp_path / "out" / "y.npz").exists()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", CASES)
def test_hostile(name, tmp_path, capfd):
    make, message = CASES[name]
    source = make(tmp_path)
    before = tree(tmp_path)
    tracemalloc.start()
    try:
        code = convert(source, tmp_path / "y.npz")
        allocated = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    printed = capfd.readouterr()
    assert code == 2
    assert printed.err.startswith("vit-jax: ") and printed.err.endswith("\n")
    assert printed.err.count("\n") == 1 and printed.err[:-1].isprintable()
    assert len(printed.err) < 1100
    assert re.search(message, printed.err), printed.err
    assert "vit-jax: fine" not in printed.err.splitlines()
    assert not (tmp_path / MARKER).exists()
    assert tree(tmp_path) == before
    assert allocated < MOST


BOMBS = [
    "header longer than memory",
    "gigabytes of header",
    "header of many lists",
    "gigabytes of directory",
    "header of gigabytes",
    "header of zeros",
    "member of terabytes",
    "zip bomb",
    "members overlap",
    "shape with zero",
    "torch expanded",
    "torch compressed",
    "torch of gigabytes",
    "torch that doubles",
    "config of many lists",
    "config too large",
    "layers in the config",
    "image of gigapixels",
]


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_do_not_fill_the_memory(name, tmp_path):
    source = CASES[name][0](tmp_path)
    reset_peak_memory()
    before = peak_memory()
    assert convert(source, tmp_path / "y.npz") == 2
    assert peak_memory() - before < MOST


def test_payload_works(tmp_path):
    """So that its absence elsewhere means something."""
    pickle.loads(pickle.dumps(Payload(tmp_path)))
    assert (tmp_path / MARKER).exists()


def test_peak_is_of_memory_that_was_used():
    reset_peak_memory()
    before = peak_memory()
    np.ones(MOST, np.uint8)
    assert peak_memory() - before > 0.9 * MOST


def test_code_beside_weights_is_not_run(tmp_path, capsys):
    source = save_hf(tmp_path, auto_map={"AutoConfig": "evil.Evil"})
    (source / "evil.py").write_text(
        f"import os\nos.system('touch {source / MARKER}')\n"
    )
    assert convert(source, tmp_path / "out" / "y.npz") == 0
    assert not (source / MARKER).exists()
