"""Logits in a file, by the id of their example."""

import pathlib
import zlib

import numpy as np

from vit_jax.data.errors import DataError
from vit_jax.weights.arrays import open_arrays
from vit_jax.weights.files import WeightsError

ALLOWED = (
    "it needs an .npy of [N, K], a row's number being the id, or an .npz with logits "
    "[N, K] and ids [N]; an id is the place of an example in data.split, from 0"
)
_CHUNK = 1 << 26


class StoredLogits:
    """Logits ``[N, K]`` in a mapped file, of which rows are read.

    Args:
      path: an ``.npy`` or ``.npz``; float16 and float32 stay as they are.

    Raises:
      WeightsError: it cannot be read, or holds something else.
    """

    def __init__(self, path: str):
        self.path = path
        self._logits, ids = _open(path)
        if (
            self._logits.ndim != 2
            or not self._logits.size
            or (self._logits.dtype.kind != "f")
        ):
            logits = self._logits
            raise WeightsError(
                f"{path}: logits are {logits.dtype} {list(logits.shape)}; {ALLOWED}"
            )
        self._ids = self._order = None
        if ids is not None:
            _check_ids(path, ids, len(self._logits))
            self._order = np.argsort(ids, kind="stable")
            self._ids = ids[self._order]

    @property
    def num_classes(self) -> int:
        """K."""
        return self._logits.shape[1]

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Logits of examples, ``[len(ids), K]``.

        Raises:
          DataError: there are none of one of them.
        """
        rows, known = self._find(np.asarray(ids))
        if not known.all():
            raise DataError(f"{self.path}: no logits of example {ids[~known][0]}")
        logits = self._logits[rows]
        return logits.astype(np.float32) if logits.dtype.itemsize > 4 else logits

    def _find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of examples, and whether they are there."""
        if self._ids is None or self._order is None:
            return ids, (ids >= 0) & (ids < len(self._logits))
        places = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return self._order[places], self._ids[places] == ids

    def check_covers(self, num_examples: int) -> None:
        """Raises unless every example has its logits.

        Raises:
          DataError: the first that has none is named.
        """
        if self._ids is None and len(self._logits) != num_examples:
            raise DataError(
                f"{self.path}: logits of {len(self._logits)} examples, but data.split "
                f"has {num_examples}"
            )
        _, known = self._find(np.arange(num_examples))
        if not known.all():
            raise DataError(
                f"{self.path}: no logits of example {int(np.argmin(known))}; "
                f"data.split has {num_examples}"
            )

    def checksum(self) -> str:
        """Of every number and id."""
        total = 0
        for array in (self._logits, self._ids, self._order):
            if array is None:
                continue
            total = zlib.crc32(f"{array.dtype}{array.shape}".encode(), total)
            step = max(1, _CHUNK // max(1, array[:1].nbytes))
            for start in range(0, len(array), step):
                part = np.ascontiguousarray(array[start : start + step])
                total = zlib.crc32(part.view(np.uint8).data, total)
        return f"{total:08x}"


def _open(path: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits and, of an .npz, their ids."""
    file = pathlib.Path(path).expanduser()
    if file.suffix == ".npz":
        arrays = open_arrays(path)
        if set(arrays) != {"logits", "ids"}:
            raise WeightsError(f"{path}: it holds {', '.join(arrays)}; {ALLOWED}")
        return arrays["logits"], np.asarray(arrays["ids"])
    if file.suffix != ".npy":
        raise WeightsError(f"{path}: not a file of logits; {ALLOWED}")
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False), None
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise WeightsError(f"{path}: cannot be read ({reason}); {ALLOWED}") from None


def _check_ids(path: str, ids: np.ndarray, num_rows: int) -> None:
    """Raises unless there is an id for each row, each once."""
    if ids.dtype.kind not in "iu" or ids.shape != (num_rows,):
        raise WeightsError(
            f"{path}: ids are {ids.dtype} {list(ids.shape)} for {num_rows} rows; "
            f"{ALLOWED}"
        )
    if ids.min() < 0 or len(np.unique(ids)) < num_rows:
        raise WeightsError(f"{path}: an id is negative, or is there twice; {ALLOWED}")
