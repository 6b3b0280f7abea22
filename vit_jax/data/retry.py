"""Storage that fails may come back, and is no fault of the example that was wanted."""

import errno
import os
import re
import time
from collections.abc import Callable
from typing import TypeVar

from vit_jax.data.errors import DataError

Result = TypeVar("Result")

RETRY_AFTER = (0.5, 2.0, 5.0)  # seconds
# What is not there, or not for us, does not come by waiting.
LASTING = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)

_NUMBERS = {os.strerror(number): number for number in errno.errorcode}


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
