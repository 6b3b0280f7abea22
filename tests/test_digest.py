"""Digests: the same on every layout and on the host, another for every changed bit."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax import digest

DTYPES = [
    "bool", "int8", "uint8", "int16", "uint16", "float16", "bfloat16", "int32", "uint32",
    "float32", "int64", "uint64", "float64",
]  # fmt: skip
SHAPES = [(), (5,), (3, 4), (2, 3, 5), (0, 3), (1, 1, 7)]


def numbers(dtype, shape, seed=0):
    bits = np.random.default_rng(seed).integers(0, 256, (*shape, 8), np.uint8)
    dtype = jnp.dtype(dtype)
    if dtype.name == "bool":
        return np.asarray(bits[..., 0] % 2 == 1)
    wide = np.ascontiguousarray(bits[..., : dtype.itemsize])
    return wide.view(dtype).reshape(shape)


def on_host(array, shape=None):
    found = digest.HostDigest(array.dtype, array.shape if shape is None else shape)
    found.add(array)
    return found.text()


def on_device(array):
    return digest.as_texts(digest.start([array]))[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_host_and_devices_agree_on_every_dtype_and_shape(dtype):
    with jax.enable_x64(dtype.endswith("64")):
        arrays = [numbers(dtype, shape) for shape in SHAPES]
        texts = digest.as_texts(digest.start([jnp.asarray(a) for a in arrays]))
    assert texts == [on_host(array) for array in arrays]
    assert len(set(texts) - {"0" * 16}) == len(SHAPES) - 1


def reference(array):
    """The definition, word by word in Python's integers."""
    import zlib

    word = {1: "u1", 2: "u2", 4: "<u4", 8: "<u4"}[array.dtype.itemsize]
    words = np.frombuffer(np.ascontiguousarray(array).tobytes(), word)
    salt = zlib.crc32(f"{array.dtype.name}{array.shape}".encode())
    lanes, mask = [0, 0], 2**32 - 1
    for place, value in enumerate(words.tolist()):
        x = value ^ ((place * 0x9E3779B9 + salt) & mask)
        x ^= x >> 16
        x = x * 0x7FEB352D & mask
        x ^= x >> 15
        x = x * 0x846CA68B & mask
        x ^= x >> 16
        y = (x ^ (x >> 13)) * 0xC2B2AE35 & mask
        y ^= y >> 16
        lanes = [(lanes[0] + x) & mask, (lanes[1] + y) & mask]
    return "{:08x}{:08x}".format(*lanes)


@pytest.mark.parametrize("dtype", ["uint8", "bfloat16", "float32", "int64"])
def test_the_definition(dtype):
    array = numbers(dtype, (3, 5, 4))
    assert on_host(array) == reference(array)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_every_layout_has_the_same_digest(dtype):
    array = numbers(dtype, (8, 4, 16))
    expected = on_host(array)
    mesh = jax.make_mesh(
        (4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    axes = [None, "a", "b", ("a", "b")]
    seen = 0
    for spec in itertools.product(axes, repeat=3):
        names = [
            n for part in spec for n in (part if isinstance(part, tuple) else [part])
        ]
        used = [name for name in names if name]
        if len(used) != len(set(used)):
            continue
        if any(np.prod([mesh.shape[n] for n in (p if isinstance(p, tuple) else [p]) if n]) > size
               for p, size in zip(spec, array.shape, strict=True)):  # fmt: skip
            continue
        placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
        assert on_device(placed) == expected, spec
        seen += 1
    assert seen >= 15
    one = jax.device_put(array, jax.devices()[3])
    assert on_device(one) == expected


def test_blocks_in_any_order_add_up_to_the_whole():
    array = numbers("float32", (5, 6, 7))
    found = digest.HostDigest("float32", array.shape)
    blocks = list(itertools.product(range(0, 5, 2), range(0, 6, 4), range(0, 7, 3)))
    np.random.default_rng(1).shuffle(blocks)
    for i, j, k in blocks:
        found.add(array[i : i + 2, j : j + 4, k : k + 3], (i, j, k))
    assert found.text() == on_host(array)


def test_large_arrays_are_added_in_tiles():
    wide, tall = numbers("uint8", (3, 70_001)), numbers("uint8", (70_001, 3))
    flat = numbers("float16", (200_003,))
    for array in (wide, tall, flat, tall[:, :2]):
        assert on_host(np.ascontiguousarray(array)) == on_device(jnp.asarray(array))


def test_places_beyond_32_bits_wrap_as_on_the_devices():
    shape = (3, 2**31)
    first, second = (digest.HostDigest("uint8", shape) for _ in range(2))
    block = numbers("uint8", (1, 100))
    first.add(block, (2, 2**31 - 100))
    second.add(block[:, :50], (2, 2**31 - 100))
    second.add(block[:, 50:], (2, 2**31 - 50))
    assert first.text() == second.text()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8", "int64"])
def test_every_single_flipped_bit_changes_both_lanes(dtype):
    array = numbers(dtype, (3, 5))
    before = on_host(array)
    for bit in range(array.nbytes * 8):
        data = bytearray(array.tobytes())
        data[bit // 8] ^= 1 << bit % 8
        changed = np.frombuffer(bytes(data), array.dtype).reshape(array.shape)
        after = on_host(changed)
        assert after[:8] != before[:8], bit
        assert after[8:] != before[8:], bit


def test_flipped_bits_on_the_devices_change_it():
    array = numbers("uint32", (4, 9))
    flips = 1 << np.arange(32, dtype=np.uint32)
    tree = [jnp.asarray(array)] + [
        jnp.asarray(np.where(np.arange(36).reshape(4, 9) == place, array ^ flip, array))
        for place, flip in zip(np.arange(32), flips, strict=True)
    ]
    texts = digest.as_texts(digest.start(tree))
    assert len(set(texts)) == len(tree)


def test_moved_words_other_shapes_and_dtypes_change_it():
    array = np.arange(1, 25, dtype=np.float32)
    variants = [array, array[::-1], np.roll(array, 1), np.append(array[2:], array[:2]),
                array.reshape(4, 6), array.reshape(6, 4), array.view(np.int32),
                array.view(np.uint32), -array]  # fmt: skip
    texts = {on_host(np.ascontiguousarray(variant)) for variant in variants}
    assert len(texts) == len(variants)


def test_random_keys_have_the_digest_of_their_data():
    keys = jax.random.split(jax.random.key(0), 3)
    assert on_device(keys) == on_device(jax.random.key_data(keys))


def test_a_tree_by_name():
    tree = {"b": [jnp.ones(3), jnp.zeros(2)], "a": jnp.ones((), jnp.int32)}
    found = digest.of_tree(tree)
    assert list(found) == ["a", "b.0", "b.1"]
    assert found["b.0"] == on_host(np.ones(3, np.float32))
    assert digest.of_tree({}) == {}


def test_what_has_no_digest():
    with pytest.raises(TypeError, match="no digest for arrays of complex64"):
        digest.HostDigest("complex64", (3,))
    with pytest.raises(TypeError, match="no digest for arrays of complex64"):
        digest.start([jnp.ones(3, jnp.complex64)])
    with pytest.raises(ValueError, match="a block of int32 for an array of float32"):
        digest.HostDigest("float32", (3,)).add(np.ones(3, np.int32))


def test_a_signed_text_tells_of_every_change():
    content = {"step": 4, "evaluations": {"val/loss": 0.25, "x": float("inf")}}
    text = digest.sign(content)
    assert digest.signed(text) == content
    for bit in range(len(text) * 8):
        data = bytearray(text.encode())
        data[bit // 8] ^= 1 << bit % 8
        try:
            found = digest.signed(data.decode())
        except ValueError:  # UnicodeDecodeError is one
            continue
        assert found == content, bit  # a blank became a tab, say
    for wrong in (
        "",
        "[]",
        "3",
        json.dumps(content),
        text[:-1],
        text[: len(text) // 2],
    ):
        with pytest.raises(ValueError):
            digest.signed(wrong)
