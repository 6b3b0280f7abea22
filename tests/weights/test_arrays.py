"""Arrays of files by name: views that read nothing, marks of use, memory given back."""

import json
import mmap
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from vit_jax.weights.arrays import Arrays, open_arrays
from vit_jax.weights.files import WeightsError

VALUES = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.linspace(-1, 1, 5).astype(np.float16),
    "c": np.array([[1.5], [-2.0]]),
    "d": np.array([1.0, 2.5, -3.0], ml_dtypes.bfloat16),
    "e": np.array(7, np.int64),
}


def write_npz(path, values=VALUES):
    np.savez(path, **values)
    return path


def write_compressed(path, values=VALUES):
    np.savez_compressed(path, **values)
    return path


def write_safetensors(path, values=VALUES):
    safetensors.numpy.save_file(values, path, metadata={"format": "np"})
    return path


def write_torch(path, values=VALUES, **arguments):
    from tests.foreign import torch

    tensors = {
        name: torch.tensor(array.astype(np.float32)).bfloat16()
        if array.dtype == ml_dtypes.bfloat16
        else torch.tensor(array)
        for name, array in values.items()
    }
    torch.save(tensors, path, **arguments)
    return path


def write_old_torch(path, values=VALUES):
    return write_torch(path, values, _use_new_zipfile_serialization=False)


WRITERS = {
    "stored npz": (write_npz, "x.npz"),
    "compressed npz": (write_compressed, "x.npz"),
    "safetensors": (write_safetensors, "x.safetensors"),
    "torch": (write_torch, "x.pth"),
    "old torch": (write_old_torch, "x.bin"),
}


@pytest.fixture(params=WRITERS)
def any_file(request, tmp_path):
    write, name = WRITERS[request.param]
    return str(write(tmp_path / name))


def test_values_and_types(any_file):
    arrays = open_arrays(any_file)
    assert sorted(arrays) == sorted(VALUES)
    for name, array in VALUES.items():
        assert arrays.shape(name) == array.shape
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_looking_up_marks_and_peeking_does_not(any_file):
    arrays = open_arrays(any_file)
    assert "a" in arrays and "z" not in arrays and len(arrays) == 5
    arrays.peek("a"), arrays.shape("b"), arrays.get("z")
    assert sorted(arrays.unused) == list("abcde")
    arrays["c"], arrays.outline("e")
    assert sorted(arrays.unused) == list("abd")
    assert arrays.bytes_read == 0


def test_outline_has_shape_and_type_and_no_memory(any_file):
    outline = open_arrays(any_file).outline("a")
    assert outline.shape == (3, 4) and outline.dtype == np.float32
    assert outline.strides == (0, 0) and not outline.any()


def test_release_keeps_the_values(any_file):
    arrays = open_arrays(any_file)
    before = arrays["a"]
    arrays.release()
    np.testing.assert_array_equal(before, VALUES["a"])
    np.testing.assert_array_equal(arrays["a"], VALUES["a"])


def test_missing_array_has_a_message(any_file):
    arrays = open_arrays(any_file)
    for find in (arrays.peek, arrays.shape, arrays.outline, arrays.__getitem__):
        with pytest.raises(WeightsError, match=r"no array 'z'; the file is not whole$"):
            find("z")


@pytest.mark.parametrize("kind", ["stored npz", "safetensors", "torch"])
def test_opening_and_slicing_allocate_nothing(kind, tmp_path):
    write, name = WRITERS[kind]
    path = write(tmp_path / name, {"big": np.ones((4096, 1024), np.float32)})
    open_arrays(str(path))  # imports
    tracemalloc.start()
    try:
        view = open_arrays(str(path))["big"].reshape(64, 64, 1024).transpose(2, 0, 1)
        part = view[5:7] + 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert part.sum() == 2 * 4096
    assert peak < 4 << 20  # of 16 MiB


def test_compressed_arrays_are_unpacked_once_until_released(tmp_path):
    arrays = open_arrays(str(write_compressed(tmp_path / "x.npz")))
    arrays.shape("a"), arrays.outline("a")
    first = arrays["a"]
    assert arrays["a"] is first
    arrays.release()
    assert arrays["a"] is not first


def test_pages_are_given_back_as_they_are_read():
    counted = []

    class Map(mmap.mmap):
        def madvise(self, advice):
            counted.append(advice)

    arrays = Arrays("file", VALUES, maps=(Map(-1, 4096), Map(-1, 4096)))
    arrays.took(1 << 20)
    assert arrays.bytes_read == 1 << 20 and not counted
    arrays.took(16 << 20)
    assert arrays.bytes_read == 17 << 20 and len(counted) == 2
    arrays.took(1)
    assert len(counted) == 2


def test_renamed(any_file):
    arrays = open_arrays(any_file).renamed({"a": "first", "z": "nothing"})
    assert sorted(arrays) == ["b", "c", "d", "e", "first"]
    np.testing.assert_array_equal(arrays["first"], VALUES["a"])
    assert sorted(arrays.unused) == list("bcde")
    arrays.release()  # the maps came along


def test_fortran_order_and_other_byte_orders(tmp_path):
    values = {
        "fortran": np.asfortranarray(VALUES["a"]),
        "big": VALUES["a"].astype(">f4"),
        "both": np.asfortranarray(VALUES["c"].astype(">f8")),
    }
    for write in (write_npz, write_compressed):
        path = write(tmp_path / f"{write.__name__}.npz", values)
        arrays = open_arrays(str(path))
        for name, array in values.items():
            np.testing.assert_array_equal(arrays[name], array)


@pytest.mark.parametrize(
    ("names", "depth"),
    [
        ((), 0),
        (("b.0.x",), 1),
        (("b.0.x", "b.1/x", "b.2", "b.10x", "b.x", "a.7"), 3),
        (tuple(f"b.{layer}.x" for layer in range(12)), 12),
    ],
)
def test_count(names, depth):
    zero = np.zeros(1, np.float32)
    assert Arrays("file", dict.fromkeys(names, zero)).count("b.") == depth


@pytest.mark.parametrize(
    "names", [("b.1.x",), ("b.0.x", "b.2.x"), ("b.0.x", "b." + "9" * 5000)]
)
def test_count_refuses_gaps(names):
    zero = np.zeros(1, np.float32)
    with pytest.raises(WeightsError, match=r"layers b\.\* are not numbered from 0"):
        Arrays("file", dict.fromkeys(names, zero)).count("b.")


def test_count_ignores_digits_of_other_scripts():
    zero = np.zeros(1, np.float32)
    assert Arrays("file", dict.fromkeys(("b.0.x", "b.²"), zero)).count("b.") == 1


def test_folder_with_config(tmp_path):
    write_safetensors(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    (tmp_path / "other.bin").write_bytes(b"not read: safetensors come first")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        arrays = open_arrays(str(path))
        assert arrays.config == {"hidden_size": 8} and arrays.name == str(path)
        np.testing.assert_array_equal(arrays["a"], VALUES["a"])


def test_folder_of_parts(tmp_path):
    first, second = dict(list(VALUES.items())[:2]), dict(list(VALUES.items())[2:])
    write_safetensors(tmp_path / "one.safetensors", first)
    write_safetensors(tmp_path / "two.safetensors", second)
    places = dict.fromkeys(first, "one.safetensors") | dict.fromkeys(
        second, "two.safetensors"
    )
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    arrays = open_arrays(str(tmp_path))
    for name, array in VALUES.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_symlinks_are_followed(tmp_path):
    target = write_safetensors(tmp_path / "blob")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(target)
    np.testing.assert_array_equal(open_arrays(str(folder))["a"], VALUES["a"])


def test_torch_checkpoint_with_more_in_it(tmp_path):
    from tests.foreign import torch

    weight = torch.arange(12.0).reshape(3, 4)
    part = {
        "weight": torch.nn.Parameter(weight),
        "tied": weight,
        "transposed": weight.T[1:],
        "empty": torch.zeros(0, 3),
        "flag": True,
        3: weight,
    }
    content = {"epoch": 3, "optimizer": {"state": {0: weight}}, "model": part}
    torch.save(content, tmp_path / "x.pt")
    arrays = open_arrays(str(tmp_path / "x.pt"))
    assert list(arrays) == ["weight", "tied", "transposed", "empty"]
    for name in ("weight", "tied"):
        np.testing.assert_array_equal(arrays[name], weight.numpy())
    np.testing.assert_array_equal(arrays["transposed"], weight.numpy().T[1:])
    with pytest.raises(WeightsError, match=r"'empty' is .0, 3.: it is empty"):
        arrays["empty"]


def test_torch_that_does_not_say_where_arrays_are(tmp_path, monkeypatch):
    from vit_jax.weights import torch_files

    path = write_torch(tmp_path / "x.pth")
    monkeypatch.setattr(torch_files, "_offset", lambda tensor: None)
    arrays = open_arrays(str(path))
    for name, array in VALUES.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_zip_with_something_before_it(tmp_path):
    """Offsets in a zip file count from where it begins."""
    path = write_npz(tmp_path / "x.npz")
    path.write_bytes(b"#" * 100 + path.read_bytes())
    assert zipfile.is_zipfile(path)
    np.testing.assert_array_equal(open_arrays(str(path))["a"], VALUES["a"])
