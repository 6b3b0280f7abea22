"""Records of a list of ArrayRecord files by number; damage is told file by file."""

import bisect
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vit_jax.data.errors import BadExampleError, DataError
from vit_jax.data.retry import LASTING, failed_call, patiently

OPEN_THREADS = 32


class Shards:
    """The records of several files, one after the other; safe to use from threads.

    Every file is opened and counted at once, so that a missing or truncated one is
    found at the start. After unpickling, files are opened as they are used.

    Args:
      paths: the files.
      lengths: records of each, as their data set says.
      tolerant: a file that cannot be used makes each of its records a
        `BadExampleError` when it is read, instead of an error here.
      hint: what to do about a damaged file, for the messages.

    Raises:
      DataError: a file is missing, damaged or of another length (not ``tolerant``), or
        storage fails.
    """

    def __init__(
        self,
        paths: Sequence[str],
        lengths: Sequence[int],
        *,
        tolerant: bool = False,
        hint: str = "",
    ):
        self.paths, self.lengths = tuple(paths), tuple(lengths)
        self._ends = list(itertools.accumulate(self.lengths))
        self._readers: list[Any] = [None] * len(self.paths)
        with ThreadPoolExecutor(OPEN_THREADS) as pool:
            reasons = list(pool.map(self._check, range(len(self.paths))))
        # Of files that cannot be used, by number.
        self.damaged = {n: reason for n, reason in enumerate(reasons) if reason}
        for number, reason in self.damaged.items():
            if not tolerant:
                raise DataError(f"{self.paths[number]} {reason}; {hint}")

    def _check(self, number: int) -> str:
        """Opens a file; what is wrong with it, or nothing."""
        try:
            found = patiently(
                lambda: self._count(number), lambda: str(self.paths[number])
            )
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return "is missing"
            if not isinstance(error.__cause__, LASTING):
                raise
            return f"cannot be opened ({error.__cause__.strerror})"
        except (RuntimeError, ValueError, IndexError) as error:
            return f"cannot be opened ({first_line(error)})"
        expected = self.lengths[number]
        if found != expected:
            return f"holds {found:,} examples where dataset_info.json says {expected:,}"
        return ""

    def _count(self, number: int) -> int:
        """The records in a file."""
        found = self._reader(number).num_records()
        if not found:  # what fails to open counts as empty until it is read
            self._record(number, 0)
        return found

    def _record(self, number: int, record: int) -> bytes:
        """A record of a file.

        Raises:
          OSError: storage fails; the next call opens the file anew.
          RuntimeError, ValueError, IndexError: the file is damaged.
        """
        try:
            return self._reader(number).read([record])[0]
        except RuntimeError as error:
            if (storage := failed_call(error, self.paths[number])) is None:
                raise
            self._readers[number] = None
            raise storage from error

    def _reader(self, number: int) -> Any:
        reader = self._readers[number]
        if reader is None:
            from array_record.python import array_record_module

            path = self.paths[number]
            if "://" not in path and not os.path.exists(path):
                raise FileNotFoundError(path)
            reader = self._readers[number] = array_record_module.ArrayRecordReader(
                path, options="readahead_buffer_size:0", file_reader_buffer_size=32768
            )
        return reader

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def locate(self, index: int) -> tuple[int, int]:
        """The number of a record's file, and the record's number in it."""
        number = bisect.bisect_right(self._ends, index)
        return number, index - self._ends[number] + self.lengths[number]

    def where(self, index: int) -> str:
        """File and record, for messages."""
        number, record = self.locate(index)
        return f"{self.paths[number]}, record {record}"

    def __getitem__(self, index: int) -> bytes:
        number, record = self.locate(index)
        if number in self.damaged:
            raise BadExampleError(
                f"{self.where(index)}: the file {self.damaged[number]}"
            )
        try:
            return self._record(number, record)
        except (RuntimeError, ValueError, IndexError) as error:
            raise BadExampleError(
                f"{self.where(index)}: cannot be read ({first_line(error)})"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": [None] * len(self.paths)}


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its name where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
