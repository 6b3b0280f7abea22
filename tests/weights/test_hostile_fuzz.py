"""Files cut anywhere and with any byte changed: one kind of error, or a bounded read."""

import copy
import itertools
import json
import tracemalloc
import warnings

import numpy as np
import pytest

from tests.weights import hostile
from vit_jax.weights.arrays import open_arrays
from vit_jax.weights.files import WeightsError
from vit_jax.weights.load import open_checkpoint
from vit_jax.weights.table import whole

CUTS = 40
MOST = 32 << 20  # bytes that a file of kilobytes may take


def save_compressed(folder):
    return hostile.save_npz(folder, save=np.savez_compressed)


def save_safetensors(folder):
    return hostile.save_timm(folder) / "model.safetensors"


def save_torch(folder, **arguments):
    pytest.importorskip("torch", reason="torch is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hostile.save_torch(folder, **arguments)


def save_old_torch(folder):
    return save_torch(folder, _use_new_zipfile_serialization=False)


FILES = {
    "npz": hostile.save_npz,
    "compressed npz": save_compressed,
    "safetensors": save_safetensors,
    "torch": save_torch,
    "old torch": save_old_torch,
}


@pytest.fixture(params=FILES)
def good(request, tmp_path):
    """A good file and its content; the file may be written again."""
    path = FILES[request.param](tmp_path)
    return path, path.read_bytes()


def read_all(path):
    """Everything that a file says, as numbers in memory; the sum of their bytes."""
    arrays = open_arrays(str(path))
    return sum(np.array(arrays[name]).nbytes for name in arrays)


def try_to(read, path):
    """What ``read`` returns, or None after its error; nothing else may come of it."""
    try:
        return read(path)
    except WeightsError as refusal:
        message = str(refusal)
    assert message.isprintable() and len(message) < 1100
    return None


def test_cut_anywhere(good):
    path, content = good
    whole_size = read_all(path)
    assert whole_size > 8000
    edges = [*range(0, 64, 4), *range(len(content) - 64, len(content), 4)]
    spread = np.linspace(0, len(content) - 1, CUTS).astype(int).tolist()
    for length in sorted({*edges, *spread}):
        path.write_bytes(content[:length])
        assert try_to(read_all, path) is None, length


def changed(content, generator, most):
    """A copy with one to three bytes changed, in the first or last ``most``."""
    copied = bytearray(content)
    for _ in range(generator.integers(1, 4)):
        place = int(generator.integers(most))
        if generator.random() < 0.5:
            place = len(copied) - 1 - place
        copied[place] = int(
            generator.choice([0, 1, 0x20, 0x7F, 0x80, 0xFF, generator.integers(256)])
        )
    return bytes(copied)


def read_model(path):
    opened = open_checkpoint(str(path), num_heads=hostile.HEADS)
    return sum(whole(leaf).nbytes for leaf in opened.leaves.values())


def change_often(path, content, read, times):
    """Reads changed files; how many were refused."""
    generator = np.random.default_rng(times)
    refused = 0
    for _ in range(times):
        most = min(len(content), int(generator.choice([100, 3000, 30_000])))
        path.write_bytes(changed(content, generator, most))
        size = try_to(read, path)
        refused += size is None
        assert size is None or size <= len(content) * 16
    return refused


SOME, MANY = 40, pytest.param(300, marks=pytest.mark.slow)


@pytest.mark.parametrize("times", [SOME, MANY])
def test_any_byte_changed(good, times):
    path, content = good
    read_all(path)
    tracemalloc.start()
    try:
        refused = change_often(path, content, read_all, times)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused > times / 10
    assert peak < MOST


@pytest.mark.parametrize("times", [SOME, MANY])
def test_model_of_changed_bytes(good, times):
    path, content = good
    assert read_model(path) > 8000
    assert change_often(path, content, read_model, times) > times / 10


JUNK = (
    *(None, True, False, -1, 0, 1, 3, 10**9, 10**30, -0.5, 0.0, 1e-300, 1e300),
    *("", "x", "gelu", [], [0], [1, 2, 3], [[]], ["a", "b", "c"], {}, {"a": 1}),
)


def places(content, inside=()):
    """Every place in nested dictionaries."""
    for key, value in content.items():
        yield (*inside, key)
        if isinstance(value, dict):
            yield from places(value, (*inside, key))


def put(content, place, value):
    content = copy.deepcopy(content)
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return content


PREPROCESSOR = {
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "resample": 3,
    "size": {"shortest_edge": 14},
    "crop_size": {"height": 12, "width": 12},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
TIMM = hostile.TIMM_CONFIG | {
    "global_pool": "token",
    "label_names": list("abcde"),
    "model_args": hostile.TIMM_CONFIG["model_args"]
    | {
        "img_size": 12,
        "init_values": None,
        "norm_layer": None,
        "global_pool": "token",
        "no_embed_class": False,
        "dynamic_img_size": False,
        "pool_include_prefix": False,
    },
    "pretrained_cfg": {
        "input_size": [3, 12, 12],
        "crop_pct": 0.9,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "label_names": list("abcde"),
        "num_classes": 5,
    },
}
HF = hostile.HF_CONFIG | {
    "qkv_bias": True,
    "pooler_act": "tanh",
    "vision_config": None,
    "id2label": {str(number): "a" for number in range(5)},
}
CONFIGS = {
    "timm": (hostile.save_timm, "config.json", TIMM),
    "huggingface": (hostile.save_hf, "config.json", HF),
    "preprocessor": (hostile.save_hf, "preprocessor_config.json", PREPROCESSOR),
}


@pytest.mark.parametrize("share", [0.15, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", CONFIGS)
def test_any_value_in_a_config(kind, share, tmp_path):
    save, name, content = CONFIGS[kind]
    folder = save(tmp_path)
    (folder / name).write_text(json.dumps(content))
    expected = open_checkpoint(str(folder)).settings
    generator = np.random.default_rng(0)
    accepted = 0
    for place, junk in itertools.product(places(content), JUNK):
        if generator.random() > share:
            continue
        (folder / name).write_text(json.dumps(put(content, place, junk)))
        opened = try_to(lambda path: open_checkpoint(str(path)), folder)
        if opened is not None:
            accepted += 1
            check_sane(opened, expected)
    assert accepted > 10


def check_sane(opened, expected):
    """What a config cannot change is as it was, and its numbers are numbers."""
    for size in ("image_size", "width", "depth", "mlp_dim", "patch_size", "channels"):
        assert opened.settings[size] == expected[size]
    assert 0 < opened.settings["norm_epsilon"] < 1
    preparation = opened.inferred.preprocessing
    assert np.isfinite([*preparation.mean, *preparation.std]).all()
    assert all(each > 0 for each in preparation.std)
    assert 0 <= preparation.resize < 1 << 20
