"""Work directories in a bucket: what has to be in place before one is used."""

import functools
import importlib.util
import logging
import os
import socket
import threading
import urllib.parse
from typing import Any

SERVICE = "storage.googleapis.com"
REACH_SECONDS = 3.0


class StorageError(ValueError):
    """A work directory that cannot be used; the message says what to do."""


def is_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path is in a bucket, ``gs://...``."""
    return os.fspath(path).startswith("gs://")


def prepare(path: str | os.PathLike[str]) -> None:
    """Readies this process for a path; nothing to do for one in a file system.

    Paths in a bucket go through gcsfs, not through TensorFlow, which would have to be
    imported for it; and arrays through tensorstore.

    Raises:
      StorageError: no such storage, a package is missing, or it cannot be reached.
    """
    text = os.fspath(path)
    if "://" not in text:
        return
    if not is_bucket(text) or not text.removeprefix("gs://").strip("/"):
        raise StorageError(
            f"{text}: a work directory is a path of a file system or gs://BUCKET/PATH"
        )
    missing = [
        name for name in ("gcsfs", "google.cloud.storage") if not _is_installed(name)
    ]
    if missing:
        raise StorageError(
            f"{text}: {', '.join(missing)} not installed; run: pip install "
            "'vit-jax[gcs]'"
        )
    os.environ.setdefault("EPATH_USE_TF", "false")
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it raises them as well
    _forget_listings()
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if emulator:
        os.environ.setdefault("TENSORSTORE_GCS_HTTP_URL", emulator)
        os.environ.setdefault("GOOGLE_AUTH_TOKEN_FOR_TESTING", "emulated")
        # Otherwise asked of the real service, which knows nothing of these buckets.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    _check_reachable(text, emulator)


def _forget_listings() -> None:
    """gcsfs remembers listings, and knows nothing of what tensorstore writes."""
    from fsspec import config

    for protocol in ("gcs", "gs"):
        config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)


def write_text(path: Any, text: str) -> None:
    """Writes a file of etils.epath: others find the old or the new one, whole."""
    if is_bucket(path):
        path.write_text(text)  # an object appears when it is complete
        return
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # or a power failure leaves an empty file in its place
    temporary.replace(path)


def client() -> Any:
    """A client of google-cloud-storage; anonymous against an emulator.

    Raises:
      StorageError: there are no credentials.
    """
    from google.auth import credentials, exceptions
    from google.cloud import storage

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return storage.Client(
            project="emulated", credentials=credentials.AnonymousCredentials()
        )
    try:
        return storage.Client()
    except (exceptions.GoogleAuthError, OSError) as error:
        line = (str(error).splitlines() or [""])[0]
        raise StorageError(
            f"no access to Google Cloud Storage ({line}); run: gcloud auth "
            "application-default login"
        ) from error


def absolute(path: str | os.PathLike[str]) -> Any:
    """An absolute path of etils.epath, which takes ``gs://`` for a relative one."""
    from etils import epath

    folder = epath.Path(path).expanduser()
    return folder if is_bucket(path) else folder.absolute()


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # of a parent
        return False


@functools.cache
def _check_reachable(path: str, emulator: str | None) -> None:
    """Without a network every request is tried again for minutes."""
    host, port = SERVICE, 443
    if emulator:
        url = urllib.parse.urlsplit(emulator if "//" in emulator else f"//{emulator}")
        host, port = url.hostname or "localhost", url.port or 80
    elif os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY"):
        return
    reason = ["no answer"]
    thread = threading.Thread(target=_connect, args=(host, port, reason), daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)  # looking up the name of a host has no limit of its own
    if reason:
        raise StorageError(
            f"{path}: {host} cannot be reached ({reason[0]}); check the network, or "
            "use a local --workdir"
        )


def _connect(host: str, port: int, reason: list[str]) -> None:
    """Empties ``reason`` where a connection can be made."""
    try:
        socket.create_connection((host, port), timeout=REACH_SECONDS).close()
        reason.clear()
    except OSError as error:
        reason[:] = [str(error)]
