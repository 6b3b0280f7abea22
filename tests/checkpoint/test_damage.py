"""Damaged steps: found on reading, set aside unchanged, the next older one used."""

import random
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.checkpoint import steps
from vit_jax.checkpoint import CheckpointError, Checkpoints
from vit_jax.checkpoint import arrays as step_arrays

ABSTRACT = steps.abstract(steps.state_of(0))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return steps.fill(tmp_path_factory.mktemp("good") / "checkpoints")


@pytest.fixture
def folder(good, tmp_path):
    shutil.copytree(good, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def restore(folder, **options):
    said = []
    checkpoints = Checkpoints(folder, say=said.append, **options)
    try:
        return checkpoints.restore_latest(ABSTRACT), said
    finally:
        checkpoints.close()


def flip(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def payload(folder, step):
    """The file that has the arrays' bytes: the largest."""
    return max(
        (folder / str(step) / "state").rglob("d/*"), key=lambda f: f.stat().st_size
    )


def check(folder, found, said, files_before):
    """A restore after damage to step 2 is bitwise right; returns where it fell back."""
    step, state, evaluations = found
    assert steps.same(state, steps.state_of(step))
    assert evaluations == {"val/accuracy": step / 10}
    if step == 2:
        assert said == []
        return False
    assert len(said) == 1 and "checkpoint of step 2 is damaged" in said[0]
    (moved,) = [path for path in (folder / "quarantine").iterdir() if path.is_dir()]
    assert re.fullmatch(r"2-\d{8}T\d{6}\.\d+-[\w-]+", moved.name)
    contents = {str(f.relative_to(moved)): f.read_bytes() for f in steps.files(moved)}
    assert contents == files_before
    assert steps.saved(folder) == [1]
    return True


def contents(folder):
    base = folder / "2"
    return {str(f.relative_to(base)): f.read_bytes() for f in steps.files(base)}


def damaged(folder, good, change):
    """Restores after ``change`` of one file after the other; where it fell back."""
    fell_back = []
    for number, name in enumerate(
        str(f.relative_to(good)) for f in steps.files(good / "2")
    ):
        shutil.rmtree(folder)
        shutil.copytree(good, folder)
        change(folder / name, number)
        before = contents(folder)
        found, said = restore(folder)
        if check(folder, found, said, before):
            fell_back.append(name)
    return fell_back


def test_a_flipped_bit_in_any_file_is_found_or_does_no_harm(folder, good):
    fell_back = []
    for seed in range(4):
        rng = random.Random(seed)
        fell_back += damaged(folder, good, lambda path, _, rng=rng: flip(path, rng))
    assert fell_back.count("2/meta/metadata") == 4
    assert sum("/d/" in name for name in fell_back) >= 4


def test_a_truncated_file_is_found_or_does_no_harm(folder, good):
    def truncate(path, number):
        data = path.read_bytes()
        path.write_bytes(data[: random.Random(number).randrange(len(data))])

    fell_back = damaged(folder, good, truncate)
    assert {"2/meta/metadata", "2/state/manifest.ocdbt"} <= set(fell_back)


def test_a_missing_file_is_found_or_does_no_harm(folder, good):
    fell_back = damaged(folder, good, lambda path, _: path.unlink())
    assert {"2/meta/metadata", "2/state/manifest.ocdbt"} <= set(fell_back)


def test_every_flip_in_the_arrays_bytes_is_found(good, tmp_path):
    # The array of zeros is compressed to almost nothing: only random ones have bytes
    # that are all their own, and so all of these flips must be found.
    plain = steps.fill(tmp_path / "c")
    file = payload(plain, 2)
    data = file.read_bytes()
    needle = np.asarray(steps.state_of(2).params["head"]["k"]).tobytes()
    found_at = data.find(needle)
    places = range(len(data) // 3, 2 * len(data) // 3) if found_at < 0 else range(
        found_at, found_at + len(needle)
    )  # fmt: skip
    rng = random.Random(5)
    wrong = 0
    for _ in range(25):
        changed = bytearray(data)
        changed[rng.choice(places)] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
        found, _ = restore(plain, read_only=True)
        assert steps.same(found[1], steps.state_of(found[0]))
        wrong += found[0] == 1
    file.write_bytes(data)
    assert restore(plain)[0][0] == 2
    assert wrong >= 20


def test_when_all_are_damaged_each_is_named_and_training_does_not_start_over(folder):
    for step in (1, 2):
        (folder / str(step) / "meta" / "metadata").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"no checkpoint is left.*2: meta.*1: meta"
    ):
        restore(folder)
    assert steps.saved(folder) == []
    with pytest.raises(
        CheckpointError, match=r"set aside earlier: 1-.*move .*quarantine"
    ):
        restore(folder)
    shutil.move(folder / "quarantine", folder.parent / "away")
    assert restore(folder) == (None, [])


def test_a_reader_reports_and_moves_nothing(folder):
    (folder / "2" / "meta" / "metadata").write_text("{}")
    found, said = restore(folder, read_only=True)
    assert found[0] == 1
    assert len(said) == 1 and "left where it is" in said[0]
    assert steps.saved(folder) == [1, 2]
    reader = Checkpoints(folder, read_only=True)
    with pytest.raises(CheckpointError, match=r"checkpoint 2 is damaged.*there: 1, 2"):
        reader.restore(2, ABSTRACT)
    assert steps.same(reader.restore(1, ABSTRACT)[0], steps.state_of(1))
    with pytest.raises(
        CheckpointError, match=r"checkpoint 7 is not there; there: 1, 2"
    ):
        reader.restore(7, ABSTRACT)
    reader.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.replace(ema={}),
            r"ema\.encoder\.b: saved bfloat16\[7\], wanted not",
        ),
        (
            lambda s: s.replace(params=s.params | {"head": {"k": jnp.zeros((3, 5))}}),
            r"params\.head\.k: saved float32\[3, 2\], wanted float32\[3, 5\]",
        ),
        (
            lambda s: s.replace(step=jnp.zeros((), jnp.uint32)),
            r"step: saved int32\[\], wanted uint32\[\]",
        ),
    ],
)
def test_another_models_state_is_no_damage(folder, change, message):
    other = steps.abstract(change(steps.state_of(0)))
    checkpoints = Checkpoints(folder)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.restore_latest(other)
    checkpoints.close()
    assert steps.saved(folder) == [1, 2]
    assert not (folder / "quarantine").exists()


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("timed out"),
        ValueError("UNAVAILABLE: storage.googleapis.com"),
        PermissionError(13, "Permission denied"),
        OSError(24, "Too many open files"),
    ],
)
def test_storage_that_does_not_answer_is_no_damage(folder, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(step_arrays.ts, "open", fail)
    with pytest.raises(CheckpointError, match="cannot be reached"):
        restore(folder)
    assert steps.saved(folder) == [1, 2]


def test_too_little_memory_is_no_damage(folder, monkeypatch):
    def full(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(step_arrays.jax, "device_put", full)
    with pytest.raises(CheckpointError, match="does not fit on"):
        restore(folder)
    assert steps.saved(folder) == [1, 2]


def test_a_disk_that_cannot_read_a_file_is_damage(folder, monkeypatch):
    right = step_arrays.StepArrays.restore

    def restore_first(self, abstract):
        if "/2/" in str(self._store):
            raise step_arrays.judge(OSError(5, "Input/output error"), "params.w")
        return right(self, abstract)

    monkeypatch.setattr(step_arrays.StepArrays, "restore", restore_first)
    found, said = restore(folder)
    assert found[0] == 1 and "Input/output error" in said[0]


def test_a_checkpoint_of_an_earlier_version_is_no_damage(folder):
    (folder / "2" / "meta" / "metadata").write_text('{"step": 2, "evaluations": {}}')
    with pytest.raises(CheckpointError, match="an earlier version, without digests"):
        restore(folder)
    assert steps.saved(folder) == [1, 2]


def test_meta_of_another_step_is_damage(folder):
    shutil.copy(folder / "1" / "meta" / "metadata", folder / "2" / "meta" / "metadata")
    assert restore(folder)[0][0] == 1
