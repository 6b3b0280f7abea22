"""Rows of metrics in a bucket, where nothing can be appended to: numbered parts.

The last part is replaced until it is full, each time only if it is as this process left
it: a process that was suspended and succeeded by another cannot bring back old rows.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax import storage
from vit_jax.writers import Writer, first_line

FOLDER = "metrics"
PART_ROWS = 1000
KEPT_ROWS = 10_000  # that could not be written yet
WINDOW_SECONDS = 10.0  # between two writes of a part
FLUSH_SECONDS = 10.0  # that `flush` waits at most
_TIMEOUT = (3.0, 10.0)  # seconds to connect, and between bytes


class SucceededError(Exception):
    """A part was written by somebody else."""


class Parts:
    """The parts of a work directory ``gs://BUCKET/PATH``."""

    def __init__(self, workdir: str) -> None:
        storage.prepare(workdir)
        bucket, _, inside = workdir.rstrip("/").removeprefix("gs://").partition("/")
        self._bucket = storage.client().bucket(bucket)
        self._prefix = f"{inside}/{FOLDER}/" if inside else f"{FOLDER}/"
        self._generations: dict[int, int] = {}
        self._unanswered: dict[int, list[bytes]] = {}  # written, for all we know

    def read(self) -> list[tuple[int, bytes]]:
        """Numbers and contents of the parts, in order."""
        numbers = {}
        blobs = self._bucket.list_blobs(prefix=self._prefix, timeout=_TIMEOUT)
        for blob in blobs:
            found = re.fullmatch(
                r"part-(\d+)\.jsonl", blob.name.removeprefix(self._prefix)
            )
            if found:
                numbers[int(found[1])] = blob
        self._generations = {}
        contents = []
        for number, blob in sorted(numbers.items()):
            contents.append((number, blob.download_as_bytes(timeout=_TIMEOUT)))
            self._generations[number] = blob.generation
        return contents

    def write(self, number: int, content: bytes) -> None:
        """Replaces a part that is as this object last read or wrote it.

        Raises:
          SucceededError: it is not.
        """
        from google.api_core import exceptions

        attempts = self._unanswered.setdefault(number, [])
        attempts.append(content)
        try:
            self._upload(number, content)
        except exceptions.PreconditionFailed:
            # Unless it was a write of ours whose answer was lost.
            blob = self._bucket.get_blob(self._name(number), timeout=_TIMEOUT)
            found = blob and blob.download_as_bytes(timeout=_TIMEOUT)
            if found not in attempts:
                raise SucceededError(
                    f"another run has written {self._name(number)}"
                ) from None
            self._generations[number] = blob.generation
            if found != content:
                self._upload(number, content)
        del self._unanswered[number]

    def _upload(self, number: int, content: bytes) -> None:
        blob = self._bucket.blob(self._name(number))
        blob.upload_from_string(
            content,
            content_type="application/json",
            if_generation_match=self._generations.get(number, 0),
            timeout=_TIMEOUT,
            retry=None,
        )
        self._generations[number] = blob.generation

    def truncate(self, keep: Callable[[bytes], bytes]) -> list[tuple[int, bytes]]:
        """Keeps of each part what ``keep`` returns; what is left, as `read`.

        From the last to the first, so that no rows come after a gap if it is cut short.
        """
        left = []
        for number, content in reversed(self.read()):
            kept = keep(content)
            if not kept:
                self._bucket.blob(self._name(number)).delete(timeout=_TIMEOUT)
                del self._generations[number]
                continue
            if kept != content:
                self.write(number, kept)
            left.append((number, kept))
        return left[::-1]

    def _name(self, number: int) -> str:
        return f"{self._prefix}part-{number:05}.jsonl"


class PartsWriter(Writer):
    """Writes rows to parts, on a thread: a slow network does not hold up the run.

    Args:
      workdir: ``gs://BUCKET/PATH``.
      encode: makes a row of a step and its numbers.
      keep_until: of some rows, those not later than a step.
      after: rows later than this step are dropped before the first one is written.
      warn: receives one line when rows cannot be written, and one when they are.
    """

    def __init__(
        self,
        workdir: str,
        encode: Callable[[int, Mapping[str, Any]], bytes],
        keep_until: Callable[[bytes, int], bytes],
        *,
        after: int | None = None,
        warn: Callable[[str], Any] = print,
    ) -> None:
        self._workdir, self._encode, self._keep_until = workdir, encode, keep_until
        self._after, self._warn = after, warn
        self._parts: Parts | None = None
        self._number = 0
        self._part: list[bytes] = []  # rows of the last part
        self._rows: list[bytes] = []  # not in a part yet
        self._dropped, self._failing = 0, False
        self._changed = threading.Condition()
        self._asked = self._answered = 0
        self._closing = self._off = False
        self._thread = threading.Thread(
            target=self._run, name="PartsWriter", daemon=True
        )
        self._thread.start()

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        row = self._encode(step, scalars)
        with self._changed:
            if not self._off:
                self._rows.append(row)
                self._dropped += max(0, len(self._rows) - KEPT_ROWS)
                del self._rows[:-KEPT_ROWS]

    def rewind(self, step: int) -> None:
        with self._changed:
            self._rows = [row for row in self._rows if self._keep_until(row, step)]
            self._drop_after(step)  # before the next row is written
        self.flush()

    def _drop_after(self, step: int) -> None:
        self._after = step if self._after is None else min(step, self._after)

    def flush(self) -> None:
        with self._changed:
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            done = self._changed.wait_for(
                lambda: self._answered >= mine or self._off,
                0 if self._failing else FLUSH_SECONDS,
            )
        if not done:
            self._fail("the storage is slow")

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(FLUSH_SECONDS)
        lost = len(self._rows) + self._dropped
        self._rows, self._dropped = [], 0
        if lost:
            self._say(f"{lost} rows are lost")

    def _run(self) -> None:
        while not self._off:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closing or self._asked > self._answered,
                    WINDOW_SECONDS,
                )
                asked, closing = self._asked, self._closing
            try:
                self._write()
            except SucceededError as error:
                self._off = True
                self._say(f"nothing is written any more ({error})")
            except Exception as error:  # of requests, google-auth or the service
                self._fail(first_line(error))
            else:
                self._recover()
            with self._changed:
                self._answered = asked
                self._changed.notify_all()
            if closing:
                return

    def _write(self) -> None:
        with self._changed:
            after, self._after = self._after, None
            rows = list(self._rows)
        if self._parts is None or after is not None:
            try:
                self._read(after)
            except BaseException:
                if after is not None:
                    with self._changed:
                        self._drop_after(after)
                raise
        parts = self._parts
        assert parts is not None
        while rows:
            if len(self._part) >= PART_ROWS:
                self._number, self._part = self._number + 1, []
            taken = rows[: PART_ROWS - len(self._part)]
            parts.write(self._number, b"".join(self._part + taken))
            self._part += taken
            rows = rows[len(taken) :]
            with self._changed:  # by identity: a rewind may have dropped some
                written = set(map(id, taken))
                self._rows = [row for row in self._rows if id(row) not in written]

    def _read(self, after: int | None) -> None:
        """Learns what there is, without what is later than a step."""
        parts = Parts(self._workdir)
        if after is None:
            found = parts.read()
        else:
            found = parts.truncate(lambda content: self._keep_until(content, after))
        number, content = found[-1] if found else (0, b"")
        self._number, self._part = number, content.splitlines(keepends=True)
        self._parts = parts

    def _fail(self, reason: str) -> None:
        if not self._failing:
            self._say(f"rows wait in memory ({reason})")
        self._failing = True

    def _recover(self) -> None:
        if self._failing:
            lost = f"; {self._dropped} rows are lost" if self._dropped else ""
            self._say(f"written again{lost}")
        self._failing, self._dropped = False, 0

    def _say(self, text: str) -> None:
        with contextlib.suppress(Exception):
            self._warn(f"warning: {self._workdir}/{FOLDER}: {text}")
