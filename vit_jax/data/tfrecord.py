"""Reads TFDS data sets in TFRecord as a stream through tf.data: ``tfrecord:NAME``.

TFRecord has no random access, so a run cannot jump to a position: it reads up to it.
Every epoch begins anew with its own order, a function of (seed, epoch), so at most one
epoch is read and thrown away on resume; of ImageNet that is up to 140 GB and minutes.
The order is not a full permutation either: files are shuffled, FILES_AT_ONCE of them
are read in turn, and a buffer of ``buffer`` examples is drawn from. ArrayRecord has
neither limit (`vit-jax prepare NAME --convert`).
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath

from vit_jax.data.array_record import first_line
from vit_jax.data.catalogue import convert_command, prepare_command
from vit_jax.data.errors import DataError
from vit_jax.data.facts import DatasetFacts, check_features, check_label, split_ranges
from vit_jax.data.tensorflow import import_tensorflow
from vit_jax.data.tfds import describe_any, parse_record

FILES_AT_ONCE = 16
BUFFER = 4096  # examples: of ImageNet some 450 MB
BATCH = 64  # records handed over at a time


def describe(
    name: str, *, dir: str | None = None, label_key: str = "label"
) -> DatasetFacts:
    """What a set in TFRecord says of itself; imports no TensorFlow.

    Raises:
      DataError: it is not prepared, or not in TFRecord.
    """
    facts = describe_any(name, dir=dir, label_key=label_key, prefer="tfrecord")
    if facts.file_format != "tfrecord":
        raise DataError(
            f"data set {name!r} in {facts.path} is in {facts.file_format} format; "
            f"read it with --config.data.name={name}"
        )
    return facts


class TfrecordSource:
    """The examples of a split one after the other; no random access.

    Ids number the examples of the split as `TfdsSource` does after a conversion.

    Args:
      name, split, dir, image_key, label_key: as of `TfdsSource`.
      tolerant: must be False: after damage the rest of a file cannot be trusted.
      buffer: examples that the shuffle draws from.
      say: told when records are skipped, and how long it took.

    Raises:
      DataError: as `describe`, or a file or feature is missing.
    """

    def __init__(
        self,
        *,
        name: str,
        split: str,
        dir: str | None = None,
        image_key: str = "image",
        label_key: str = "label",
        tolerant: bool = False,
        buffer: int = BUFFER,
        say: Callable[[str], Any] = print,
    ):
        if tolerant:
            raise DataError(
                "data.bad 'skip' needs random access, which tfrecord has not: after a "
                "damaged record the rest of its file is lost; convert it: "
                f"{convert_command(name, dir)}, and set data.name={name}"
            )
        self.facts = describe(name, dir=dir, label_key=label_key)
        self.num_classes = self.facts.num_classes
        self.class_names = self.facts.class_names
        check_features(self.facts, image_key, label_key)
        self._keys = (image_key, label_key)
        self._again = prepare_command(name, dir)
        self._buffer, self._say = buffer, say
        # Per file: its path, the first record taken, how many, and the id of the first.
        self._files: list[tuple[str, int, int, int]] = []
        length = 0
        for split_name, start, stop in split_ranges(self.facts, split):
            for path, first, taken in self._pieces(split_name, start, stop):
                self._files.append((path, first, taken, length))
                length += taken
        self._length = length
        for path, *_ in self._files:
            self._check_file(path)

    def _pieces(
        self, split: str, start: int, stop: int
    ) -> Iterator[tuple[str, int, int]]:
        begin = 0
        for shard, size in zip(
            self.facts.shards[split], self.facts.shard_lengths[split], strict=True
        ):
            low, high = max(start - begin, 0), min(stop - begin, size)
            if low < high:
                yield os.path.join(self.facts.path, shard), low, high - low
            begin += size

    def _check_file(self, path: str) -> None:
        file = epath.Path(path)
        what = "" if file.exists() else "is missing"
        if not what and not file.stat().length:
            what = "is empty"
        if what:
            raise DataError(
                f"{path} {what}; move {self.facts.path} away and prepare again: "
                f"{self._again}"
            )

    def __len__(self) -> int:
        return self._length

    def where(self, index: int) -> str:
        """File and record of an example, for messages."""
        for path, skipped, taken, first in self._files:
            if first <= index < first + taken:
                return f"{path}, record {skipped + index - first}"
        raise IndexError(f"index {index} is outside 0..{self._length - 1}")

    def stream(
        self, start: int, *, seed: int, shuffle: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """``(id, example)`` from position ``start`` of a run on, without end.

        Raises:
          DataError: a file is damaged or of another length than it should be, or a
            label is of no class.
        """
        epoch, offset = divmod(start, self._length)
        while True:
            yield from self._epoch(epoch, offset, seed, shuffle)
            epoch, offset = epoch + 1, 0

    def _epoch(
        self, epoch: int, offset: int, seed: int, shuffle: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        tf = import_tensorflow()
        started = time.perf_counter()
        if offset:
            self._say(
                f"tfrecord: reading over {offset:,} of {self._length:,} examples of "
                f"epoch {epoch} to resume"
            )
        pairs = self._dataset(epoch, seed, shuffle).skip(offset).batch(BATCH)
        count = offset
        try:
            for numbers, records in pairs.prefetch(4).as_numpy_iterator():
                if offset and count == offset:
                    seconds = time.perf_counter() - started
                    self._say(f"tfrecord: there after {seconds:.0f} s")
                count += len(numbers)
                for number, record in zip(numbers.tolist(), records, strict=True):
                    yield number, self._example(number, record)
        except tf.errors.OpError as error:
            raise self._damage(reason_of(error)) from error
        if count < self._length:  # cut between two records, which tf.data cannot see
            raise self._damage(f"{self._length - count} examples are not there")

    def _example(self, number: int, record: bytes) -> dict[str, Any]:
        try:
            example = parse_record(record, *self._keys)
        except Exception as error:  # protobuf's own kind, or a missing feature
            raise DataError(
                f"{self.where(number)}: is no Example with an image and a label "
                f"({first_line(error)})"
            ) from error
        check_label(example["label"], self.num_classes, lambda: self.where(number))
        return example

    def _dataset(self, epoch: int, seed: int, shuffle: bool) -> Any:
        """Pairs of id and record of one epoch; ids are given before any shuffling."""
        tf = import_tensorflow()
        key = np.random.SeedSequence([seed, epoch])
        order = np.arange(len(self._files))
        if shuffle:
            np.random.Generator(np.random.Philox(key)).shuffle(order)
        paths, skipped, taken, first = zip(
            *(self._files[number] for number in order), strict=True
        )
        columns = [tf.constant(column, tf.int64) for column in (skipped, taken, first)]
        files = tf.data.Dataset.from_tensor_slices((list(paths), *columns))

        def numbered(path: Any, skip: Any, take: Any, start: Any) -> Any:
            records = tf.data.TFRecordDataset(path, buffer_size=1 << 20)
            return records.skip(skip).take(take).enumerate(start)

        dataset = files.interleave(
            numbered,
            cycle_length=min(FILES_AT_ONCE, len(order)) if shuffle else 1,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if shuffle:
            word = int(key.generate_state(1, np.uint32)[0]) >> 1
            dataset = dataset.shuffle(
                self._buffer, seed=word, reshuffle_each_iteration=False
            )
        options = tf.data.Options()
        options.deterministic = True
        return dataset.with_options(options)

    def _damage(self, reason: str) -> DataError:
        """Names the damaged file and record; tf.data does not, so reads to find it."""
        for path, skipped, taken, _ in self._files:
            record, found = find_damage(path, skipped + taken)
            if found:
                return DataError(
                    f"{path}, record {record}: {found}; move {self.facts.path} away "
                    f"and prepare again: {self._again}"
                )
        return DataError(
            f"data set {self.facts.name!r} in {self.facts.path} could not be read: "
            f"{reason}"
        )


def find_damage(path: str, expected: int) -> tuple[int, str]:
    """The first record of a file that is damaged or missing, and what it is; or ""."""
    tf = import_tensorflow()
    record = 0
    try:
        for _ in tf.data.TFRecordDataset(path).take(expected).as_numpy_iterator():
            record += 1
    except tf.errors.OpError as error:
        return record, f"is damaged ({reason_of(error)})"
    if record < expected:
        return record, "is not there: dataset_info.json counts more records"
    return record, ""


def reason_of(error: Any) -> str:
    """TensorFlow's message without the names of its nodes."""
    return first_line(error).rpartition("}} ")[2].partition(" [Op:")[0]
