"""Threads, workers, damaged examples, repeats, views, streams: rows stay the same."""

import io
import os
import pickle
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.data import sources
from tests.data.test_pipeline import over
from vit_jax.data import arrays, augment, pipeline, retry, rows
from vit_jax.data import workers as workers_module
from vit_jax.data.errors import BadExampleError, DataError

ANY = {"shuffle": True, "depth": 2}


@pytest.fixture
def make_loader():
    loaders = []

    def make(source, *, devices=1, load=None, batch_size=16, **settings):
        loader = pipeline.Loader(
            source,
            load or pipeline.Deferred(sources.make_augment),
            sharding=over(devices),
            batch_size=batch_size,
            seed=3,
            **({"threads": 2} | settings),
        )
        loaders.append(loader)
        return loader

    yield make
    for loader in loaders:
        loader.close()


def host(batches):
    return [{key: np.asarray(value) for key, value in b.items()} for b in batches]


def same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert set(batch) == set(other)
        for key, value in batch.items():
            np.testing.assert_array_equal(value, other[key])
    return True


def test_workers_load_what_threads_load(make_loader):
    source = sources.Numbers(50, bad=[7, 20])
    threads = make_loader(source, bad="skip")
    workers = make_loader(source, bad="skip", workers=2, devices=8)
    expected = host(pipeline.train_batches(threads, start=0, stop=9, **ANY))
    # Kept until the end: no memory is given to two batches that are alive.
    alive = list(pipeline.train_batches(workers, start=0, stop=9, **ANY))
    assert same(host(alive), expected)
    assert same(
        host(pipeline.train_batches(workers, start=4, stop=9, **ANY)), expected[4:]
    )
    found = {bad.id for bad in workers.take_bad()}
    assert found == {bad.id for bad in threads.take_bad()} == {7, 20}
    assert same(
        host(pipeline.eval_batches(workers)), host(pipeline.eval_batches(threads))
    )


def test_batches_that_are_kept_stay_as_they_are(make_loader):
    loader = make_loader(sources.Numbers(50), batches=2)
    alive = list(pipeline.train_batches(loader, start=0, stop=12, **ANY))
    fresh = make_loader(sources.Numbers(50))
    assert same(
        host(alive), host(pipeline.train_batches(fresh, start=0, stop=12, **ANY))
    )


def test_a_killed_worker_is_named(make_loader):
    loader = make_loader(sources.Mortal(50), workers=2)
    with pytest.raises(DataError, match=r"data worker \d \(process \d+\) was ended by"):
        list(pipeline.train_batches(loader, start=0, stop=9, **ANY))


def test_what_a_worker_cannot_make_is_an_error_here(make_loader):
    loader = make_loader(sources.Numbers(5), workers=1)
    with pytest.raises(AssertionError):
        loader.batch(np.arange(16), 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_of_the_program_says_where_and_stays_what_it_is(make_loader, workers):
    for make, kind in (
        (sources.make_failing, ZeroDivisionError),
        (sources.make_failing_strangely, Exception),
    ):
        loader = make_loader(
            sources.Numbers(50),
            load=pipeline.Deferred(make),
            workers=workers,
            threads=1,
        )
        with pytest.raises(kind) as raised:
            loader.batch(np.array([3] * 16), 0)
        assert not isinstance(raised.value, DataError)
        notes = [*getattr(raised.value, "__notes__", ()), str(raised.value)]
        assert any("while loading numbers, record 3" in note for note in notes)


def test_workers_start_side_by_side(monkeypatch):
    events = []

    class Worker:
        def __init__(self, number, memory):
            events.append("start")

        def send(self, message):
            events.append("send")

    monkeypatch.setattr(workers_module, "_Worker", Worker)
    rows_of = rows.RowLoader(sources.Numbers(5), sources.augment, 0)
    made = workers_module.Workers(rows_of, workers=3)
    assert events == ["start"] * 3 + ["send"] * 3
    os.close(made._file)


def test_what_is_sent_to_a_worker_is_small():
    load = pipeline.Deferred(sources.make_augment, takes_sound=True)
    loader = rows.RowLoader(sources.Numbers(1_000_000), load, 0)
    loader._sound[7] = 1
    sent = pickle.dumps(loader)
    assert len(sent) < 2000
    received = pickle.loads(sent)
    assert received._sound == bytearray(1_000_000)  # it has decoded none
    assert loader._sound[7]


def test_workers_end_with_the_process(tmp_path):
    code = f"""
import os, sys, jax, numpy as np
sys.path.insert(0, {os.getcwd()!r})
from tests.data import sources
from vit_jax.data import pipeline
loader = pipeline.Loader(
    sources.Slow(50), pipeline.Deferred(sources.make_augment),
    sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]),
    batch_size=8, seed=0, workers=2)
loader.batch(np.arange(8), 0)
batches = pipeline.train_batches(loader, start=0, stop=20, shuffle=False, depth=2)
next(batches)
print(*[worker.process.pid for worker in loader._pool._workers], flush=True)
os.kill(os.getpid(), 9)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    pids = [int(pid) for pid in run.stdout.split()]
    assert len(pids) == 2, run.stderr
    limit = time.monotonic() + 10

    def alive(pid):
        try:
            with open(f"/proc/{pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    while any(map(alive, pids)) and time.monotonic() < limit:
        time.sleep(0.1)
    assert not any(map(alive, pids))


@pytest.mark.parametrize("workers", [0, 1])
def test_closing_does_not_wait_for_a_source_that_blocks(make_loader, workers):
    loader = make_loader(sources.Slow(50), workers=workers, batch_size=4)
    batches = pipeline.train_batches(loader, start=0, stop=20, shuffle=False, depth=1)
    next(batches)
    time.sleep(0.5)  # until it reads record 13
    begun = time.monotonic()
    batches.close()
    loader.close()
    assert time.monotonic() - begun < 4


# --- damaged examples


def test_stop_names_file_record_and_reason_at_its_place(make_loader):
    source = sources.Numbers(64, bad=[40])
    batches = pipeline.train_batches(
        make_loader(source), start=0, stop=4, shuffle=False, depth=3
    )
    assert [batch["label"][0] for batch in (next(batches), next(batches))] == [0, 16]
    with pytest.raises(
        BadExampleError, match=r"^numbers, record 40: is garbled \(the same"
    ):
        next(batches)


def test_the_first_of_several_is_named(make_loader):
    source = sources.Numbers(64, bad=[3, 5, 14])
    for threads in (1, 4):
        with pytest.raises(BadExampleError, match="record 3:"):
            make_loader(source, threads=threads).batch(np.arange(16), 0)


def test_a_replacement_is_a_function_of_seed_and_position(make_loader):
    bad = [4, 11, 30]
    source = sources.Numbers(50, bad=bad)
    whole = host(
        pipeline.train_batches(make_loader(source, bad="skip"), start=0, stop=8, **ANY)
    )
    eight = make_loader(source, bad="skip", devices=8, threads=1)
    assert same(host(pipeline.train_batches(eight, start=3, stop=8, **ANY)), whole[3:])
    clean = host(
        pipeline.train_batches(make_loader(sources.Numbers(50)), start=0, stop=8, **ANY)
    )
    labels, before = (
        np.concatenate([b["label"] for b in batches]) for batches in (whole, clean)
    )
    assert not set(labels) & set(bad)
    # The others are where they would be, pixels included.
    replaced = np.isin(before, bad)
    assert replaced.sum() == 8  # 128 rows are 2 epochs, and 28 rows of a third
    np.testing.assert_array_equal(labels[~replaced], before[~replaced])
    images = np.concatenate([b["image"] for b in whole])
    expected = np.concatenate([b["image"] for b in clean])
    np.testing.assert_array_equal(images[~replaced], expected[~replaced])
    np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
    assert len(set(labels[replaced])) > 3  # not one in the place of all


def test_bad_examples_are_counted_once_and_taken_once(make_loader):
    loader = make_loader(sources.Numbers(20, bad=[4, 11]), bad="skip", max_bad=2)
    list(pipeline.train_batches(loader, start=0, stop=2, **ANY))
    taken = loader.take_bad()
    assert sorted(found[:3] for found in taken) == [
        (4, "numbers, record 4", "is garbled"),
        (11, "numbers, record 11", "is garbled"),
    ]
    list(pipeline.train_batches(loader, start=2, stop=9, **ANY))
    assert loader.take_bad() == []


def test_too_many_bad_examples_stop_all_the_same(make_loader):
    loader = make_loader(sources.Numbers(20, bad=[4, 11, 12]), bad="skip", max_bad=2)
    message = r"3 examples are damaged, more than 2 \(data.max_bad, .*; the last: numb"
    with pytest.raises(DataError, match=message):
        list(pipeline.train_batches(loader, start=0, stop=2, **ANY))


def test_nothing_but_bad_examples_ends(make_loader):
    loader = make_loader(sources.Numbers(9, bad=range(9)), bad="skip")
    with pytest.raises(DataError, match="and so are 100 others"):
        loader.batch([0] * 16, 0)


@pytest.mark.parametrize("devices", [1, 8])
def test_evaluation_leaves_bad_examples_out(make_loader, devices):
    bad = [0, 5, 17, 20]
    loader = make_loader(sources.Numbers(21, bad=bad), bad="skip", devices=devices)
    batches = host(pipeline.eval_batches(loader))
    labels = np.concatenate([batch["label"] for batch in batches])
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert labels[mask].tolist() == [n for n in range(21) if n not in bad]
    assert sorted(found.id for found in loader.take_bad()) == bad
    with pytest.raises(BadExampleError, match="record 0:"):
        list(pipeline.eval_batches(make_loader(sources.Numbers(21, bad=bad))))


def test_what_was_loaded_ahead_is_taken_with_its_step(make_loader):
    loader = make_loader(sources.Numbers(40, bad=[3, 20, 21]), bad="skip", max_bad=3)
    for step in range(2):
        loader.batch(np.arange(16) + 16 * step, 16 * step)
    assert [found.id for found in loader.take_bad(16)] == [3]
    assert loader.take_bad(20) == []
    assert [(found.id, found.position) for found in loader.take_bad(32)] == [
        (20, 20),
        (21, 21),
    ]


def test_what_a_resumed_run_knew_counts(make_loader):
    first = make_loader(sources.Numbers(40, bad=[3, 20]), bad="skip", max_bad=2)
    first.batch(np.arange(16), 0)
    again = make_loader(sources.Numbers(40, bad=[3, 20, 21]), bad="skip", max_bad=2)
    again.know_bad(first.take_bad())
    with pytest.raises(DataError, match="3 examples are damaged, more than 2"):
        again.batch(np.arange(16) + 16, 16)
    assert [found.id for found in again.take_bad()] == [20, 21]


def test_storage_that_comes_back_is_read_again(make_loader, monkeypatch):
    monkeypatch.setattr(retry, "RETRY_AFTER", (0.01, 0.01, 0.01))
    source = sources.Flaky(50)
    source.failures = 3
    loader = make_loader(source, threads=1, bad="skip")
    np.testing.assert_array_equal(loader.batch(np.arange(16), 0)["label"], range(16))
    assert loader.take_bad() == []
    source.failures = 4
    with pytest.raises(DataError, match="record 0: storage cannot be read, 4 tries: c"):
        loader.batch(np.arange(16), 0)
    # Another one: the thread of the first may still be reading the rest of its batch.
    source = sources.Flaky(50)
    source.failures, source.error = 1, PermissionError("denied")
    with pytest.raises(DataError, match="1 try: denied"):
        make_loader(source, threads=1, bad="skip").batch(np.arange(16), 0)


def test_files_are_decoded_whole_the_first_time(make_loader):
    class Files(sources.Numbers):
        def __getitem__(self, index):
            return {"image": bytes([index]), "label": index}

    calls = []

    def make():
        def load(image, rng, *, sound=False):
            calls.append((image[0], sound))
            if image[0] == 4:
                raise BadExampleError("is garbled")
            return np.full((2, 2, 3), image[0], np.uint8)

        return load

    load = pipeline.Deferred(make, takes_sound=True)
    loader = make_loader(Files(16), load=load, bad="skip")
    loader.batch(np.arange(16), 0)
    assert all((id, False) in calls for id in range(16))
    calls.clear()
    loader.batch(np.arange(16), 16)
    assert all((id, id != 4) in calls for id in range(16))


def test_a_crop_of_a_sound_file_is_the_same_crop():
    photo = Image.fromarray(load_sample_images().images[0][:120, :160])
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=90)
    transform = augment.train_transform(
        image_size=(32, 32),
        channels=3,
        crop="inception",
        area=(0.05, 1.0),
        resize=None,
        pad=0,
        policy="randaugment",
        randaugment_layers=2,
        randaugment_magnitude=10,
        color_jitter=0.3,
        views=1,
    )
    for number in range(100):
        whole, part = (
            transform(stream.getvalue(), rows.row_rng(0, number), **sound)
            for sound in ({}, {"sound": True})
        )
        np.testing.assert_array_equal(whole, part)


# --- repeats, views, streams


def ids_of(step, **changes):
    settings = {"seed": 0, "batch_size": 12, "num_examples": 18, "shuffle": True}
    return pipeline.example_ids(step, **(settings | changes))


def test_repeats_stand_apart_and_every_example_is_seen():
    for step in range(9):
        ids = ids_of(step, repeats=3)
        np.testing.assert_array_equal(ids, np.tile(ids[:4], 3))
        assert len(set(ids)) == 4
    # Three epochs of rows are one permutation, each example three times.
    seen = np.concatenate([ids_of(step, repeats=3) for step in range(9)])
    assert np.bincount(seen[: 3 * 36]).sum() == 108
    draws = np.concatenate([ids_of(step, repeats=3)[:4] for step in range(9)])
    np.testing.assert_array_equal(np.sort(draws[:18]), np.arange(18))
    np.testing.assert_array_equal(np.sort(draws[18:]), np.arange(18))
    with pytest.raises(ValueError, match=r"repeats must divide the batch of 12, got 5"):
        ids_of(0, repeats=5)


def test_copies_are_augmented_anew(make_loader):
    loader = make_loader(sources.Numbers(50), repeats=4)
    (batch,) = host(pipeline.train_batches(loader, start=2, stop=3, **ANY))
    np.testing.assert_array_equal(batch["label"], np.tile(batch["label"][:4], 4))
    assert len({image.tobytes() for image in batch["image"]}) == 16


@pytest.mark.parametrize("workers", [0, 1])
def test_views_are_an_axis_of_an_image(make_loader, workers):
    load = pipeline.Deferred(sources.make_augment, views=2)
    loader = make_loader(sources.Numbers(50), load=load, devices=8, workers=workers)
    for step in range(2):
        batch = loader.batch(np.arange(16), 16 * step)
        assert batch["image"].shape == (16, 2, 4, 4, 3)
        np.testing.assert_array_equal(batch["image"][:, 1, 0, 0, 0], np.arange(16))


def test_a_row_of_another_shape_is_an_error(make_loader):
    def load(image, rng):
        return image if image[0, 0, 0] < 20 else image[:1]

    loader = make_loader(sources.Numbers(50), load=load)
    loader.batch(np.arange(16), 0)
    with pytest.raises(ValueError, match=r"made uint8 \[1, 4, 3\], the rows before"):
        loader.batch(np.arange(16) + 10, 0)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("repeats", [1, 2])
def test_streams(make_loader, workers, repeats):
    def loader(**settings):
        return make_loader(sources.Stream(50), repeats=repeats, **settings)

    whole = host(pipeline.train_batches(loader(), start=0, stop=8, **ANY))
    tail = loader(workers=workers, devices=8)
    assert same(host(pipeline.train_batches(tail, start=5, stop=8, **ANY)), whole[5:])
    stream = sources.Stream(50).stream(0, seed=0, shuffle=True)
    for batch in whole:
        ids = [next(stream)[0] for _ in range(16 // repeats)]
        np.testing.assert_array_equal(batch["label"], ids * repeats)


@pytest.mark.parametrize("size", [15, 16, 17, 40])
def test_evaluation_of_a_stream(make_loader, size):
    batches = host(pipeline.eval_batches(make_loader(sources.Stream(size))))
    labels = np.concatenate([batch["label"] for batch in batches])
    mask = np.concatenate([batch["mask"] for batch in batches])
    np.testing.assert_array_equal(labels[mask], np.arange(size))
    np.testing.assert_array_equal(labels[~mask], size - 1)


def test_streams_do_not_skip(make_loader):
    with pytest.raises(DataError, match="needs random access"):
        make_loader(sources.Stream(9), bad="skip")


# --- processes and place


@pytest.mark.parametrize("processes", [2, 4])
def test_each_process_loads_its_rows_and_no_others(make_loader, processes, monkeypatch):
    source = sources.Numbers(50, bad=[4, 30])
    settings = {"bad": "skip"}
    (whole,) = host(
        pipeline.train_batches(make_loader(source, **settings), start=3, stop=4, **ANY)
    )
    share = 16 // processes
    for process in range(processes):
        loader = make_loader(source, **settings)
        loader._ranges = [(share * process, share * (process + 1))]
        ids = loader.ids(3, shuffle=True)
        pixels, labels, _ = loader._load(ids, 48, None, None)
        part = slice(share * process, share * (process + 1))
        assert len(pixels) == share
        np.testing.assert_array_equal(pixels, whole["image"][part])
        np.testing.assert_array_equal(labels, whole["label"][part])


@pytest.mark.parametrize("devices", [1, 8])
def test_further_columns_are_of_the_examples_that_are_really_there(
    make_loader, devices
):
    columns = {"id": lambda ids: ids, "twice": lambda ids: np.stack([ids, ids], 1) * 2}
    loader = make_loader(
        sources.Numbers(50, bad=[2, 34]), bad="skip", columns=columns, devices=devices
    )
    drawn = loader.ids(3, shuffle=True)
    assert {2, 34} < set(drawn.tolist())
    batch = loader.batch(drawn, 48)
    np.testing.assert_array_equal(batch["id"], batch["label"])  # of `Numbers` the same
    np.testing.assert_array_equal(batch["twice"][:, 1], 2 * np.asarray(batch["id"]))
    assert "id" not in loader.masked_batch(drawn, np.ones(16, bool))


def test_several_labels_of_an_example(make_loader):
    label = np.full((50, 3), -1)
    label[:, 0] = np.arange(50) % 7
    source = arrays.ArraySource(np.zeros((50, 4, 4, 3), np.uint8), label)
    loader = make_loader(source)
    batch = loader.batch(np.arange(16), 0)
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["label"], label[:16])


def test_every_label_is_there_once():
    given = np.array([[2, -1, 5, 2], [-1, -1, -1, -1], [0, 3, 0, 0], [1, 4, 2, 0]])
    expected = [[5, 2, -1, -1], [-1] * 4, [3, 0, -1, -1], [4, 2, 1, 0]]
    found = rows.each_once(given)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(rows.each_once(found), found)


def test_a_damaged_example_has_none_of_several_labels():
    stacked = rows.stack_labels([np.array([3, 1, -1]), 0], (3,))
    np.testing.assert_array_equal(stacked, [[3, 1, -1], [-1, -1, -1]])


def test_seeking_is_fast():
    begun = time.perf_counter()
    pipeline.example_ids(
        1_000_000, seed=5, batch_size=1024, num_examples=1_281_167, shuffle=True
    )
    assert time.perf_counter() - begun < 1


def test_memory_of_arrays_on_the_device_is_not_reused(make_loader):
    loader = make_loader(sources.Numbers(200), batches=1)
    first = loader.batch(np.arange(16), 0)["image"]
    loader.batch(np.arange(16), 0)
    shared = jax.jit(lambda image: image[:, 0, 0, 0] + 0)(first)
    loader.batch(np.arange(16) + 100, 0)
    np.testing.assert_array_equal(shared, np.arange(16))
    np.testing.assert_array_equal(first[:, 0, 0, 0], np.arange(16))
