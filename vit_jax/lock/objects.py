"""A lock object in a bucket: made only if there is none, a lease that is renewed.

Each renewal replaces the generation that the last one made, and so fails when anybody
else has written in between. How old a lease is, is told by the storage's clock.
"""

import contextlib
import datetime
import time
from typing import Any

from vit_jax import storage
from vit_jax.lock.files import NAME
from vit_jax.lock.owner import (
    EXPIRED_SECONDS,
    UNKNOWN,
    LockError,
    LockHeldError,
    LockLostError,
    Owner,
    held,
)

_ATTEMPTS = 5
_TIMEOUT = (3.0, 5.0)  # seconds to connect, and between bytes
# The service takes about one write a second to the same object.
_UNWRITTEN_SECONDS = 3.0


class ObjectPlace:
    """The object ``lock`` in a folder of a bucket."""

    def __init__(self, folder: str) -> None:
        storage.prepare(folder)
        from google.api_core import exceptions

        self._errors = exceptions
        self._folder = folder.rstrip("/")
        bucket, _, inside = self._folder.removeprefix("gs://").partition("/")
        self._bucket = storage.client().bucket(bucket)
        self._name = f"{inside}/{NAME}" if inside else NAME
        self._content, self._token = b"", ""
        self._generation = 0
        self._written = 0.0  # by the clock of this process

    def acquire(self, owner: Owner) -> Owner | None:
        self._content, self._token = owner.to_json(), owner.token
        try:
            return self._take()
        except LockHeldError:
            raise
        except Exception as error:  # of requests, google-auth or the service
            line = (str(error).splitlines() or [""])[0]
            raise LockError(
                f"{self._folder} cannot be used as a work directory "
                f"({type(error).__name__}: {line})"
            ) from error

    def _take(self) -> Owner | None:
        previous = None
        for _ in range(_ATTEMPTS):
            if self._write(over=0):
                return None
            found = self._look()
            if found is None:
                continue  # freed in between
            blob, previous = found
            if previous is not None and previous.token == self._token:
                self._generation = blob.generation  # written, and the answer was lost
                return None
            if previous is None or previous.running() is not False:
                age = (self._now() - blob.updated).total_seconds()
                if age < EXPIRED_SECONDS:
                    raise held(self._folder, previous, age)
            if self._write(over=blob.generation):
                return previous or UNKNOWN
        raise held(self._folder, previous)

    def renew(self) -> None:
        if time.monotonic() - self._written < _UNWRITTEN_SECONDS:
            blob = self._bucket.get_blob(self._name, timeout=_TIMEOUT, retry=None)
            if blob is not None and blob.generation == self._generation:
                return
        elif self._write(over=self._generation):
            return
        found = self._look()
        if found is None:
            raise LockLostError(f"{self._folder}/{NAME} was removed")
        blob, owner = found
        if owner is None or owner.token != self._token:
            raise LockLostError(
                f"{self._folder}/{NAME} is another run's now ({owner or 'unreadable'})"
            )
        self._generation = blob.generation  # a renewal whose answer was lost

    def release(self) -> None:
        found = self._look()
        if found is not None and found[1] and found[1].token == self._token:
            found[0].delete(
                if_generation_match=found[0].generation, timeout=_TIMEOUT, retry=None
            )

    def abandon(self) -> None:
        """Nothing is held by this process but the knowledge of it."""

    def _write(self, *, over: int) -> bool:
        """Writes the lock in place of a generation; False if another is there."""
        blob = self._bucket.blob(self._name)
        blob.cache_control = "no-store"
        try:
            blob.upload_from_string(
                self._content,
                content_type="application/json",
                if_generation_match=over,
                timeout=_TIMEOUT,
                retry=None,
            )
        except self._errors.PreconditionFailed:
            return False
        self._generation, self._written = blob.generation, time.monotonic()
        return True

    def _look(self) -> tuple[Any, Owner | None] | None:
        """The lock as it is, and whose; None if it is not there or just changed."""
        blob = self._bucket.get_blob(self._name, timeout=_TIMEOUT, retry=None)
        if blob is None:
            return None
        seen = blob.generation  # the download tells the blob what it found
        with contextlib.suppress(
            self._errors.NotFound, self._errors.PreconditionFailed
        ):
            text = blob.download_as_bytes(
                if_generation_match=seen, timeout=_TIMEOUT, retry=None
            )
            if blob.generation == seen:
                return blob, Owner.from_json(text)
        return self._look()  # replaced between the two requests

    def _now(self) -> datetime.datetime:
        """The time by the clock of the storage."""
        blob = self._bucket.blob(f"{self._name}.clock.{self._token}")
        blob.upload_from_string(b"", timeout=_TIMEOUT, retry=None)
        now = blob.updated
        with contextlib.suppress(Exception):  # litter, and no reason to stop
            blob.delete(timeout=_TIMEOUT, retry=None)
        return now
