"""Writing a model as a folder that is there whole or not at all."""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from vit_jax.weights.files import WeightsError


@contextlib.contextmanager
def new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to write into, which becomes ``path`` if nothing is raised.

    Raises:
      WeightsError: something is at ``path`` already; nothing is overwritten.
    """
    if path.exists():
        raise WeightsError(f"{path}: is there already; name a new folder")
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_safetensors(
    file: pathlib.Path, arrays: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Writes arrays as torch's libraries expect them to be marked."""
    from safetensors.numpy import save_file

    save_file(dict(arrays), str(file), metadata={"format": "pt"})
    file.chmod(0o666 & ~_umask())  # the library leaves it to its owner alone


def _umask() -> int:
    """What the system takes from the permissions of new files; reading it sets it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_json(file: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes an indented JSON object."""
    file.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
