"""Who holds a work directory, looked at without taking or touching anything."""

import dataclasses
import datetime
import pathlib
import time

from vit_jax import storage
from vit_jax.lock.files import NAME
from vit_jax.lock.owner import EXPIRED_SECONDS, UNKNOWN, Owner


@dataclasses.dataclass(frozen=True)
class Seen:
    """A lock that is there.

    Args:
      owner: whose it is, or was.
      alive: whether that process is taken to work there.
      age: seconds since its last sign of life.
    """

    owner: Owner
    alive: bool
    age: float


def look(folder: str) -> Seen | None:
    """The lock of a work directory, or None where there is none.

    On the owner's own machine the kernel says whether it lives; elsewhere its last sign
    of life does, by this machine's clock.

    Raises:
      StorageError: a bucket that cannot be reached.
    """
    found = _in_bucket(folder) if storage.is_bucket(folder) else _in_files(folder)
    if found is None:
        return None
    text, age = found
    owner = Owner.from_json(text) or UNKNOWN
    running = owner.running()
    alive = age < EXPIRED_SECONDS if running is None else running
    return Seen(owner, alive, max(0.0, age))


def _in_files(folder: str) -> tuple[bytes, float] | None:
    path = pathlib.Path(folder).expanduser() / NAME
    try:
        return path.read_bytes(), time.time() - path.stat().st_mtime
    except OSError:  # no lock, or freed in between
        return None


def _in_bucket(folder: str) -> tuple[bytes, float] | None:
    storage.prepare(folder)
    bucket, _, inside = folder.rstrip("/").removeprefix("gs://").partition("/")
    name = f"{inside}/{NAME}" if inside else NAME
    blob = storage.client().bucket(bucket).get_blob(name, timeout=(3.0, 5.0))
    if blob is None or blob.updated is None:
        return None
    now = datetime.datetime.now(datetime.UTC)
    return blob.download_as_bytes(timeout=(3.0, 5.0)), (
        now - blob.updated
    ).total_seconds()
