"""Metrics as rows of JSON: a file that is appended to, or numbered parts in a bucket.

Whatever goes wrong in writing costs no row: rows wait in memory until it works again.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vit_jax import jsonl_parts, storage
from vit_jax.writers import Writer, first_line

PathLike = str | os.PathLike[str]
Row = dict[str, Any]
NAME = "metrics.jsonl"
KEPT_ROWS = 10_000  # that could not be written yet


class JsonlWriter(Writer):
    """Appends one JSON object a line for each `write_scalars`; non-finite is null.

    Args:
      path: the file.
      after: rows later than this step are dropped before the first one is written:
        they are of an earlier life of the run, which is about to write them again.
      warn: receives one line when rows cannot be written, and one when they are.
    """

    def __init__(
        self,
        path: PathLike,
        *,
        after: int | None = None,
        warn: Callable[[str], Any] = print,
    ) -> None:
        self._path, self._after, self._warn = Path(path), after, warn
        self._file = -1
        self._end = 0  # of the last row known to be whole
        self._rows: list[bytes] = []  # not written yet
        self._dropped, self._failing, self._closed = 0, False, False
        self._attempt(lambda: None)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        self._rows.append(encode(step, scalars))
        self._dropped += max(0, len(self._rows) - KEPT_ROWS)
        del self._rows[:-KEPT_ROWS]
        self._attempt(self._write)

    def rewind(self, step: int) -> None:
        self._rows = [row for row in self._rows if keep_until(row, step)]
        self._after = step if self._after is None else min(step, self._after)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._attempt(self._write)

    def flush(self) -> None:
        self._attempt(lambda: (self._write(), os.fsync(self._file)))

    def close(self) -> None:
        if not self._closed:
            self.flush()
            if self._rows:
                self._say(f"{len(self._rows) + self._dropped} rows are lost")
            self._closed = True
            if self._file >= 0:
                os.close(self._file)

    def _attempt(self, work: Callable[[], Any]) -> None:
        """Does something with the file; a failure is said once, and tried again."""
        try:
            if self._file < 0:
                self._open()
            work()
        except OSError as error:
            if not self._failing:
                self._say(f"rows wait in memory ({first_line(error)})")
            self._failing = True
            return
        if self._failing:
            lost = f"; {self._dropped} rows are lost" if self._dropped else ""
            self._say(f"written again{lost}")
        self._failing, self._dropped = False, 0

    def _say(self, text: str) -> None:
        with contextlib.suppress(Exception):
            self._warn(f"warning: {self._path}: {text}")

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._after is not None:
            truncate_after(self._path, self._after)
            self._after = None
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._end = self._path.read_bytes().rfind(b"\n") + 1
            os.ftruncate(file, self._end)  # a line cut short by a crash
        except BaseException:
            os.close(file)
            raise
        self._file = file

    def _write(self) -> None:
        data = b"".join(self._rows)
        try:
            written = 0
            while written < len(data):
                place = self._end + written
                written += os.pwrite(self._file, data[written:], place)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)  # nobody finds half a row
            raise
        self._end += len(data)
        self._rows = []


def encode(step: int, scalars: Mapping[str, Any]) -> bytes:
    """A row as it is written."""
    row: dict[str, float | None] = {"step": int(step)}
    for name, value in scalars.items():
        number = float(value)
        row[name] = number if math.isfinite(number) else None
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def decode(content: bytes) -> list[Row]:
    """Rows, without lines that are cut short or no object with a step."""
    rows = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


def keep_until(content: bytes, step: int) -> bytes:
    """The whole rows that are not later than a step."""
    lines: Iterable[bytes] = content.splitlines(keepends=True)
    return b"".join(
        line
        for line in lines
        if line.endswith(b"\n") and all(row["step"] <= step for row in decode(line))
    )


def location(workdir: PathLike) -> str:
    """Where the metrics of a run are, for a reader of messages."""
    text = os.fspath(workdir)
    name = jsonl_parts.FOLDER if storage.is_bucket(text) else NAME
    return os.path.join(text, name)


def open_writer(
    workdir: PathLike, *, after: int | None = None, warn: Callable[[str], Any] = print
) -> Writer:
    """The writer of a run's rows; see `JsonlWriter` for the arguments."""
    if storage.is_bucket(workdir):
        return jsonl_parts.PartsWriter(
            os.fspath(workdir), encode, keep_until, after=after, warn=warn
        )
    return JsonlWriter(Path(workdir) / NAME, after=after, warn=warn)


def read_rows(place: PathLike) -> list[Row]:
    """The rows of a work directory or of a metrics file, in the order of writing."""
    text = os.fspath(place)
    if storage.is_bucket(text):
        parts = jsonl_parts.Parts(text.removesuffix(f"/{NAME}"))
        return decode(b"".join(content for _, content in parts.read()))
    path = Path(place)
    return decode((path / NAME if path.is_dir() else path).read_bytes())


def truncate_after(place: PathLike, step: int) -> None:
    """Drops the rows later than ``step``, which a resumed run is about to write again.

    Args:
      place: a work directory or a metrics file; nothing need be there.
      step: the last one to stay.
    """
    text = os.fspath(place)
    if storage.is_bucket(text):
        parts = jsonl_parts.Parts(text.removesuffix(f"/{NAME}"))
        parts.truncate(lambda content: keep_until(content, step))
        return
    path = Path(place)
    path = path / NAME if path.is_dir() else path
    if not path.exists():
        return
    content = path.read_bytes()
    kept = keep_until(content, step)
    if content.startswith(kept):  # in one move, and on a full disk as well
        os.truncate(path, len(kept))
        return
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
