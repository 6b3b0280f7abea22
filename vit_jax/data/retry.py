"""Storage that fails may come back, and is no fault of the example that was wanted."""

import errno
import os
import re
import socket
import time
from collections.abc import Callable
from typing import TypeVar

from etils import epath

from vit_jax.data.errors import DataError

Result = TypeVar("Result")

RETRY_AFTER = (0.5, 2.0, 5.0)  # seconds
# What is not there, or not for us, does not come by waiting.
LASTING = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)

_NUMBERS = {os.strerror(number): number for number in errno.errorcode}


def check_reachable(root: epath.Path) -> None:
    """Without a network, a bucket takes long to look into and then seems empty."""
    host = "storage.googleapis.com"
    proxies = ("https_proxy", "HTTPS_PROXY", "STORAGE_EMULATOR_HOST")
    if not os.fspath(root).startswith("gs://") or any(map(os.environ.get, proxies)):
        return
    try:
        socket.create_connection((host, 443), timeout=3).close()
    except OSError as error:
        raise DataError(
            f"data directory {os.fspath(root)}: {host} cannot be reached ({error}); "
            "check the network, or set data.dir to a local directory"
        ) from error


def patiently(read: Callable[[], Result], where: Callable[[], str]) -> Result:
    """What ``read`` returns, tried again where storage failed.

    Raises:
      DataError: it fails for good; ``where`` says what could not be read.
    """
    for delay in (*RETRY_AFTER, None):
        try:
            return read()
        except OSError as error:
            if delay is None or isinstance(error, LASTING):
                tries = 1 if isinstance(error, LASTING) else 1 + len(RETRY_AFTER)
                raise DataError(
                    f"{where()}: storage cannot be read, "
                    f"{tries} {'try' if tries == 1 else 'tries'}: {error}"
                ) from error
            time.sleep(delay)
    raise AssertionError("unreachable: the last try returns or raises")


def failed_call(error: RuntimeError, path: str) -> OSError | None:
    """The error of storage in ArrayRecord's "pread() failed: REASON"; None if damage.

    Its reader knows one kind of exception alone.
    """
    match = re.match(r"\w+\(\) failed: ([^;\n]*)", str(error))
    if match is None:
        return None
    if number := _NUMBERS.get(match[1]):
        return OSError(number, match[1], path)  # of the kind that the number says
    return OSError(f"{match[0]}: {path}")
