"""Rows both ways: decoding makes views, counts what it reads; encoding is its inverse."""

import json

import ml_dtypes
import numpy as np
import pytest

from vit_jax.weights import codecs
from vit_jax.weights.arrays import Arrays, open_arrays
from vit_jax.weights.files import WeightsError
from vit_jax.weights.table import Codec, Row, constant, decode, encode, whole

H, DH, D, M = 3, 4, 5, 7  # heads, their width, width, hidden width: no two alike

# A codec, the shape of their array, and of ours.
CODECS = {
    "same": (codecs.same, (D, M), [(D, M)]),
    "transposed": (codecs.transposed, (M, D), [(D, M)]),
    "convolution": (codecs.convolution, (D, 3, 4, 2), [(4, 2, 3, D)]),
    "reshaped": (codecs.reshaped((1, 1, D), (D,)), (D,), [(1, 1, D)]),
    "heads_in": (codecs.heads_in(H), (H * DH, D), [(D, H, DH)]),
    "heads_bias": (codecs.heads_bias(H), (H * DH,), [(H, DH)]),
    "heads_out": (codecs.heads_out(H), (D, H * DH), [(H, DH, D)]),
    "packed_heads_in": (
        codecs.packed_heads_in(H, 3),
        (3 * H * DH, D),
        [(D, H, DH)] * 3,
    ),
    "packed_heads_bias": (codecs.packed_heads_bias(H, 3), (3 * H * DH,), [(H, DH)] * 3),
    "packed_dense": (codecs.packed_dense(2), (2 * M, D), [(D, M)] * 2),
    "packed_dense of a bias": (codecs.packed_dense(2), (2 * M,), [(M,)] * 2),
}


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def same_bits(one, other):
    assert one.dtype == other.dtype and one.shape == other.shape
    np.testing.assert_array_equal(one, other)


def test_every_codec_is_tested():
    def is_codec(name):
        value = getattr(codecs, name)
        own = getattr(value, "__module__", None) == codecs.__name__
        return isinstance(value, Codec) or (own and not name.startswith("_"))

    assert {name for name in vars(codecs) if is_codec(name)} <= CODECS.keys()


@pytest.mark.parametrize("name", CODECS)
def test_codec_is_undone(name):
    codec, theirs, ours = CODECS[name]
    array = random(*theirs)
    decoded = codec.decode(array)
    assert [part.shape for part in decoded] == ours
    same_bits(np.asarray(codec.encode(*decoded)), array)
    params = [random(*shape, seed=seed) for seed, shape in enumerate(ours)]
    for part, param in zip(codec.decode(codec.encode(*params)), params, strict=True):
        same_bits(np.asarray(part), param)


@pytest.mark.parametrize("name", CODECS)
def test_codec_makes_views(name):
    codec, theirs, _ = CODECS[name]
    array = random(*theirs)
    for part in codec.decode(array):
        assert np.shares_memory(part, array)
    outline = np.broadcast_to(np.float32(0), theirs)
    for part in codec.decode(outline):
        assert part.strides == (0,) * part.ndim


def test_heads_are_where_torch_has_them():
    """By hand: row ``h * DH + e`` of their matrix is our ``[:, h, e]``."""
    theirs = random(3 * H * DH, D)
    _, _, value = codecs.packed_heads_in(H, 3).decode(theirs)
    same_bits(value[:, 2, 1], theirs[2 * H * DH + 2 * DH + 1])
    out = random(D, H * DH)
    (ours,) = codecs.heads_out(H).decode(out)
    same_bits(ours[2, 1], out[:, 2 * DH + 1])


@pytest.mark.parametrize("name", [name for name in CODECS if "heads" in name])
def test_projections_have_their_number_of_axes(name):
    codec, theirs, _ = CODECS[name]
    for shape in ((1, *theirs), (*theirs, 1)):
        with pytest.raises(ValueError):
            codec.decode(random(*shape))


ROWS = [
    Row(
        "blocks.{i}.qkv",
        tuple(f"blocks/{n}/kernel" for n in ("q", "k", "v")),
        codecs.packed_heads_in(H, 3),
    ),
    Row("all.norm", ("blocks/norm/scale",), codecs.same, stacked=True),
    Row("cls", ("cls",), codecs.reshaped((1, 1, D), (D,))),
    Row("head", ("head/kernel",), codecs.transposed),
]
DEPTH = 4
SIZES = {
    **{f"blocks.{layer}.qkv": (3 * H * DH, D) for layer in range(DEPTH)},
    "all.norm": (DEPTH, D),
    "cls": (D,),
    "head": (M, D),
    "step": (1,),
}


def make(**changes):
    arrays = {
        name: random(*shape, seed=seed)
        for seed, (name, shape) in enumerate(SIZES.items())
    }
    return {
        name: array for name, array in (arrays | changes).items() if array is not None
    }


def test_decode_finds_everything_and_reads_nothing():
    values = make()
    arrays = Arrays("file", values)
    leaves = decode(arrays, ROWS, DEPTH)
    assert {path: leaf.shape for path, leaf in leaves.items()} == {
        **{f"blocks/{n}/kernel": (DEPTH, D, H, DH) for n in ("q", "k", "v")},
        "blocks/norm/scale": (DEPTH, D),
        "cls": (1, 1, D),
        "head/kernel": (D, M),
    }
    assert arrays.unused == ("step",) and arrays.bytes_read == 0
    same_bits(whole(leaves["head/kernel"]), np.ascontiguousarray(values["head"].T))
    same_bits(whole(leaves["blocks/norm/scale"]), values["all.norm"])
    expected = [
        values[f"blocks.{layer}.qkv"].reshape(3, H, DH, D)[1].transpose(2, 0, 1)
        for layer in range(DEPTH)
    ]
    same_bits(whole(leaves["blocks/k/kernel"]), np.stack(expected))


def test_reading_counts_the_bytes_of_the_slice():
    arrays = Arrays("file", make(head=random(M, D).astype(np.float16)))
    leaves = decode(arrays, ROWS, DEPTH)
    part = leaves["blocks/q/kernel"].read(
        (slice(1, 3), slice(0, 2), slice(H), slice(1, 2))
    )
    assert part.shape == (2, 2, H, 1) and part.dtype == np.float32
    assert arrays.bytes_read == part.nbytes
    same_bits(part, whole(leaves["blocks/q/kernel"])[1:3, :2, :, 1:2].copy())
    before = arrays.bytes_read
    leaves["head/kernel"].read((slice(0, 2), slice(0, 3)))
    assert arrays.bytes_read - before == 2 * 3 * 2  # as they are in the file


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_encode_undoes_decode(save, tmp_path):
    """Also of compressed files, whose arrays are unpacked again after each release."""
    values = make()
    save(tmp_path / "x.npz", **values)
    arrays = open_arrays(str(tmp_path / "x.npz"))
    leaves = decode(arrays, ROWS, DEPTH)
    params = {}
    for path, leaf in leaves.items():
        params[path] = whole(leaf)
        arrays.release()
    written = dict(encode(params, ROWS))
    assert written.keys() == values.keys() - {"step"}
    for name, array in written.items():
        assert array.flags.c_contiguous
        same_bits(array, values[name])
    again = decode(Arrays("again", written), ROWS, DEPTH)
    for path, leaf in again.items():
        same_bits(whole(leaf), params[path])


def test_encode_refuses_what_it_would_leave_out():
    params = dict.fromkeys([path for row in ROWS for path in row.ours], np.zeros(1))
    params |= {"norm/scale": np.zeros(1), "cls_extra": np.zeros(1)}
    with pytest.raises(WeightsError, match=r"no place for cls_extra, norm/scale$"):
        next(encode(params, ROWS))


def test_encode_fetches_one_parameter_at_a_time():
    fetched = []

    class Params(dict):
        def __getitem__(self, path):
            fetched.append(path)
            return super().__getitem__(path)

    params = Params(
        {
            path: whole(leaf)
            for path, leaf in decode(Arrays("file", make()), ROWS, DEPTH).items()
        }
    )
    names = [
        name
        for name, _ in zip(
            (name for name, _ in encode(params, ROWS)), range(2), strict=False
        )
    ]
    assert names == ["blocks.0.qkv", "blocks.1.qkv"]
    assert fetched == list(ROWS[0].ours)


def test_all_missing_arrays_are_named():
    values = make(cls=None, **{"blocks.2.qkv": None})
    with pytest.raises(
        WeightsError, match=r"file: 2 arrays are missing: blocks\.2\.qkv, cls$"
    ):
        decode(Arrays("file", values), ROWS, DEPTH)
    with pytest.raises(WeightsError, match=r"12 arrays .*blocks\.11\.qkv and 4 more$"):
        decode(Arrays("file", make()), ROWS, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.1.qkv": random(3 * H * DH + 1, D)}, r"blocks\.1\.qkv is .37, 5., which cannot be blocks/q/kernel and"),
        ({"blocks.1.qkv": random(3 * H * DH)}, r"blocks\.1\.qkv is .36,., which cannot be"),
        ({"blocks.1.qkv": random(3 * H * DH, D + 1)}, r"blocks/q/kernel has layers of .5, 3, 4. and .6, 3, 4.$"),
        ({"all.norm": random(DEPTH + 1, D)}, r"all\.norm is .5, 5.; its first axis should be the 4 layers"),
        ({"all.norm": np.array(1.0)}, r"all\.norm is ..; its first axis"),
        ({"cls": random(D + 1)}, r"cls is .6,., which cannot be cls$"),
        ({"cls": random(0)}, r"'cls' is .0,.: it is empty$"),
        ({"head": np.ones((M, D), np.int64)}, r"head has type int64; parameters are floating-point"),
        ({"head": np.array("text")}, r"head has type <U4; parameters are floating-point"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_named(changes, message):
    with pytest.raises(WeightsError, match=message):
        decode(Arrays("file", make(**changes)), ROWS, DEPTH)


def test_no_layers():
    with pytest.raises(WeightsError, match="no layers"):
        decode(Arrays("file", make()), ROWS, 0)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, ">f4"])
def test_other_floating_point_types(dtype):
    values = {name: array.astype(dtype) for name, array in make().items()}
    for leaf in decode(Arrays("file", values), ROWS, DEPTH).values():
        assert whole(leaf).dtype == np.float32
    head = decode(Arrays("file", values), ROWS, DEPTH)["head/kernel"]
    same_bits(whole(head), np.ascontiguousarray(values["head"].T.astype(np.float32)))


def test_doubles_beyond_float32_warn_nobody():
    values = make(head=np.full((M, D), 1e300))
    assert np.isinf(
        whole(decode(Arrays("file", values), ROWS, DEPTH)["head/kernel"])
    ).all()


def test_constant_leaf():
    leaf = constant(np.arange(6).reshape(2, 3))
    assert leaf.shape == (2, 3)
    same_bits(leaf.read((slice(1, 2), slice(0, 2))), np.array([[3, 4]], np.float32))
    whole(leaf)[:] = 0  # is not the leaf's own
    assert whole(leaf).sum() == 15


def test_fortran_order(tmp_path):
    values = {name: np.asfortranarray(array) for name, array in make().items()}
    np.savez(tmp_path / "x.npz", **values)
    fortran = decode(open_arrays(str(tmp_path / "x.npz")), ROWS, DEPTH)
    plain = decode(Arrays("file", make()), ROWS, DEPTH)
    for path, leaf in plain.items():
        same_bits(whole(fortran[path]), whole(leaf))


def test_config_is_not_shared():
    config = json.loads('{"a": 1}')
    arrays = Arrays("file", make(), config=config)
    config["a"] = 2
    assert arrays.config == {"a": 1}
