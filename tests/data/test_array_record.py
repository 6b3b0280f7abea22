"""Damage in ArrayRecord files: what stops a run, and what one can go on without."""

import os
import pickle
import shutil

import numpy as np
import pytest

from tests.data import images
from vit_jax.data import convert_images, retry
from vit_jax.data.array_record import Shards
from vit_jax.data.convert import writing
from vit_jax.data.errors import BadExampleError, DataError
from vit_jax.data.prepare import prepare
from vit_jax.data.retry import failed_call
from vit_jax.data.tfds import TfdsSource

RECORDS = [np.random.default_rng(n).bytes(200 + n) for n in range(40)]
LENGTHS = (15, 5, 20)


@pytest.fixture
def files(tmp_path):
    paths, first = [], 0
    for number, length in enumerate(LENGTHS):
        path = tmp_path / f"shard-{number}"
        with writing(path) as write:
            for record in RECORDS[first : first + length]:
                write(record)
        paths.append(path)
        first += length
    return paths


def opened(files, **settings):
    return Shards([str(path) for path in files], LENGTHS, hint="do this", **settings)


def read(shards):
    """Every record, or the message of its error."""
    found = []
    for index in range(len(shards)):
        try:
            found.append(shards[index])
        except BadExampleError as error:
            found.append(str(error))
    assert not any("\n" in text for text in found if isinstance(text, str))
    return found


def test_records_in_order(files):
    shards = opened(files)
    assert len(shards) == 40
    assert read(shards) == RECORDS
    assert shards.where(17) == f"{files[1]}, record 2"
    again = pickle.loads(pickle.dumps(shards))
    assert read(again) == RECORDS


def damage(path, kind):
    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "swapped":
        shutil.copy(path.with_name("shard-0"), path)
    else:
        path.write_bytes(
            {"empty": b"", "cut": data[:-1000], "text": b"no" * 50_000}[kind]
        )


KINDS = {
    "missing": "is missing",
    "empty": "cannot be opened",
    "cut": "cannot be opened",
    "text": "cannot be opened",
    "swapped": "holds 15 examples where dataset_info.json says 5",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_cannot_be_used(files, kind):
    damage(files[1], kind)
    with pytest.raises(DataError) as error:
        opened(files)
    text = images.one_line(error)
    assert text.startswith(f"{files[1]} {KINDS[kind]}") and text.endswith("; do this")
    found = read(opened(files, tolerant=True))
    assert found[:15] == RECORDS[:15] and found[20:] == RECORDS[20:]
    for number, message in enumerate(found[15:20]):
        assert message.startswith(
            f"{files[1]}, record {number}: the file {KINDS[kind]}"
        )


def test_flipped_bits_lose_their_record_alone(files):
    """Never a wrong record, and never another one; over many places of a file."""
    whole = files[1].read_bytes()
    rng = np.random.default_rng(0)
    places = np.flatnonzero(np.frombuffer(whole, np.uint8))  # the rest is padding
    hit = 0
    for place in rng.choice(places, 150, replace=False):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        files[1].write_bytes(changed)
        found = read(opened(files, tolerant=True))
        assert found[:15] == RECORDS[:15] and found[20:] == RECORDS[20:]
        wrong = [n for n in range(15, 20) if found[n] != RECORDS[n]]
        assert all(str(files[1]) in found[n] for n in wrong)
        # One record, or the index of the whole file.
        assert len(wrong) in (0, 1, 5), (place, wrong)
        hit += bool(wrong)
    assert hit > 100  # most places matter


def test_a_file_that_disappears_later(files):
    shards = pickle.loads(pickle.dumps(opened(files)))
    files[2].unlink()
    assert shards[0] == RECORDS[0]
    with pytest.raises(FileNotFoundError, match="shard-2"):  # storage, not damage
        shards[20]


def break_storage(path):
    """Makes the open reader of a file read from a folder instead."""
    (number,) = (
        int(name)
        for name in os.listdir("/proc/self/fd")
        if os.path.realpath(f"/proc/self/fd/{name}") == str(path)
    )
    folder = os.open(path.parent, os.O_RDONLY)
    os.dup2(folder, number)
    os.close(folder)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_storage_that_fails_is_no_damage_and_the_file_is_opened_anew(files):
    shards = opened(files, tolerant=True)
    break_storage(files[1])
    assert shards[0] == RECORDS[0]
    with pytest.raises(IsADirectoryError, match="shard-1"):
        shards[17]
    assert shards[17] == RECORDS[17]
    assert read(shards) == RECORDS


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("pread() failed: Input/output error; reading /x; at byte 4", OSError),
        ("open() failed: No such file or directory; opening /x", FileNotFoundError),
        ("pread() failed: Connection timed out; reading /x", TimeoutError),
        ("pread() failed: something new; reading /x", OSError),
        ("Corrupted Riegeli/records file: chunk hash mismatch", type(None)),
        ("ArrayRecord file should be at least 64KB big", type(None)),
    ],
)
def test_kinds_of_failures(text, kind):
    assert type(failed_call(RuntimeError(text), "/x")) is kind


@pytest.mark.parametrize("tolerant", [False, True])
@pytest.mark.parametrize("failures", [2, 9])
def test_storage_that_fails_at_the_opening(files, monkeypatch, tolerant, failures):
    monkeypatch.setattr(retry, "RETRY_AFTER", (0.01, 0.01, 0.01))
    left = {"failures": failures}
    original = Shards._reader

    def reader(self, number):
        if number == 1 and left["failures"]:
            left["failures"] -= 1
            raise OSError(5, "Input/output error")
        return original(self, number)

    monkeypatch.setattr(Shards, "_reader", reader)
    if failures == 2:
        assert read(opened(files, tolerant=tolerant)) == RECORDS
        return
    with pytest.raises(DataError, match=f"{files[1]}: storage .* 4 tries: .*output"):
        opened(files, tolerant=tolerant)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    images.write_folder(tmp_path / "photos", {"a": 12, "b": 8})
    monkeypatch.setattr(convert_images, "SHARD_BYTES", 900)
    facts = prepare(
        f"folder:{tmp_path / 'photos'}",
        new_name="few",
        dir=str(tmp_path),
        log=lambda text: None,
    )
    return str(tmp_path), facts


def test_a_data_set_without_one_shard(photos):
    root, facts = photos
    whole = TfdsSource(name="few", split="train", dir=root)
    expected = [whole[index] for index in range(20)]
    lost = facts.shards["train"][0]
    damage(_path(facts, lost), "cut")
    with pytest.raises(DataError) as error:
        TfdsSource(name="few", split="train", dir=root)
    text = images.one_line(error)
    assert lost in text and "data.bad=skip" in text
    source = TfdsSource(name="few", split="train", dir=root, tolerant=True)
    assert len(source) == 20
    size = facts.shard_lengths["train"][0]
    for index in range(20):
        if index < size:
            with pytest.raises(BadExampleError) as error:
                source[index]
            assert source.where(index) in str(error.value)
        else:
            assert source[index] == expected[index]


def test_a_record_that_is_no_example(photos):
    root, facts = photos
    name = facts.shards["train"][0]
    size = facts.shard_lengths["train"][0]
    reader = array_record_records(_path(facts, name))
    with writing(_path(facts, name)) as write:
        for number in range(size):
            write(b"\xff\xff garbage" if number == 0 else reader[number])
    source = TfdsSource(name="few", split="train", dir=root)
    with pytest.raises(BadExampleError) as error:
        source[0]
    text = images.one_line(error)
    assert text.startswith(f"{source.where(0)}: ") and "Example" in text
    assert source[1]["image"]


def array_record_records(path):
    from array_record.python import array_record_module

    return array_record_module.ArrayRecordReader(str(path)).read_all()


def _path(facts, name):
    import pathlib

    return pathlib.Path(facts.path) / name
