"""A work directory as others see it: what is read for `vit-jax report` and `status`.

Nothing is written and no JAX is imported. The run may be going on, may have died at any
moment, or may be of an older version: whatever is missing is left empty.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from vit_jax import storage
from vit_jax.config_file import ConfigError, resolve_duration
from vit_jax.data.split import parse_split
from vit_jax.goodput import PHASES, PREFIX
from vit_jax.jsonl import NAME as METRICS
from vit_jax.jsonl import location, read_rows
from vit_jax.jsonl_parts import FOLDER
from vit_jax.lock.look import Seen, look
from vit_jax.report.series import Points, curves
from vit_jax.starts import NAME as STARTS
from vit_jax.starts import Start, read_text

# What makes a folder a work directory.
SIGNS = ("config.json", METRICS, FOLDER, "lock", STARTS, "checkpoints")
COMMITTED = "commit_success.txt"  # orbax's mark of a whole step in a bucket


@dataclasses.dataclass(frozen=True)
class Record:
    """What a work directory holds.

    Args:
      place: as it was asked for.
      name: of the run, for people.
      saved: ``config.json``.
      starts: of the run, oldest first.
      rows: that were logged, by step.
      noted: the newest of ``goodput.json``.
      lock: whose it is, while somebody is there.
      checkpoints: saved steps, and seconds since each was written.
      logged_age: seconds since the last row was written.
    """

    place: str
    name: str
    saved: Mapping[str, Any]
    starts: list[Start]
    rows: list[dict[str, Any]]
    noted: Mapping[str, Any]
    lock: Seen | None
    checkpoints: dict[int, float]
    logged_age: float | None

    @property
    def config(self) -> Mapping[str, Any]:
        """The config as JSON; empty where none was saved."""
        found = self.saved.get("config")
        return found if isinstance(found, dict) else {}

    @property
    def start(self) -> Start:
        """The newest start."""
        return self.starts[-1] if self.starts else {}

    @property
    def step(self) -> int:
        """The last step known to be done."""
        return max([0, *(row["step"] for row in self.rows), *self.checkpoints])

    @property
    def batch_size(self) -> int | None:
        """Images a step."""
        return _number(self.start.get("batch_size") or self.value("train.batch_size"))

    @property
    def num_examples(self) -> int | None:
        """Of the training split, where that can be told."""
        known = _number(self.start.get("num_examples"))
        sizes = (self.saved.get("data") or {}).get("splits")
        if known is None and isinstance(sizes, dict):
            with contextlib.suppress(ValueError, TypeError):
                ranges = parse_split(str(self.value("data.split")), sizes)
                return sum(stop - start for _, start, stop in ranges) or None
        return known

    @property
    def total_steps(self) -> int | None:
        """Of the whole run, where that can be told."""
        known, batch_size = _number(self.start.get("total_steps")), self.batch_size
        duration = self.value("train.duration")
        if known is None and batch_size and isinstance(duration, dict):
            with contextlib.suppress(ConfigError, TypeError):
                return resolve_duration(
                    duration, batch_size=batch_size, num_examples=self.num_examples
                )
        return known

    def value(self, key: str) -> Any:
        """A field or section of the config, such as ``"optim.learning_rate"``."""
        found: Any = self.config
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    def newest(self, name: str) -> tuple[int, float] | None:
        """The step and value of the last row with it; NaN where it was not finite."""
        for row in reversed(self.rows):
            if name in row and isinstance(row[name], int | float | None):
                value = row[name]
                return row["step"], math.nan if value is None else float(value)
        return None

    def goodput(self) -> dict[str, float]:
        """Seconds by phase, up to the last sign of the run; {} where none was kept."""
        logged = (row for row in reversed(self.rows) if f"{PREFIX}ratio" in row)
        every = [
            {phase: _seconds(row, phase) for phase in PHASES if _seconds(row, phase)}
            for row in (next(logged, {}), self.noted)
        ]
        return max(every, key=lambda seconds: sum(seconds.values()))

    @functools.cached_property
    def curves(self) -> dict[str, Points]:
        """What was logged, by name (`series.curves`)."""
        return curves(self.rows)


def read(place: str, name: str = "") -> Record:
    """Reads a work directory, in a file system or a bucket.

    Args:
      place: the directory.
      name: of the run; else the folder's.

    Raises:
      StorageError: it is not there, cannot be reached, or holds no run.
    """
    storage.prepare(place)
    folder = _path(place)
    names = _names(folder)
    if not names:
        reason = "is empty" if _is_folder(folder) else "does not exist"
        if not storage.is_bucket(place) and folder.is_file():
            reason = "is a file"
        raise storage.StorageError(f"{place} {reason}; give the --workdir of a run")
    if not names.intersection(SIGNS):
        raise storage.StorageError(
            f"{place} holds no run (no {SIGNS[0]}); give the --workdir of one"
        )
    return Record(
        place=place,
        name=name or pathlib.PurePath(os.path.abspath(place)).name,
        saved=_json(folder / "config.json"),
        starts=read_text(_text(folder / STARTS)),
        rows=_rows(place),
        noted=_json(folder / "goodput.json"),
        lock=look(place),
        checkpoints=_checkpoints(folder / "checkpoints", storage.is_bucket(place)),
        logged_age=_logged_age(folder),
    )


def figures(place: str) -> dict[str, bytes]:
    """The pictures in ``figures/`` by name; of a series over steps, the newest."""
    folder = _path(place) / "figures"
    newest: dict[str, Any] = {}
    for name in sorted(name for name in _names(folder) if name.endswith(".png")):
        stem, _, number = name.removesuffix(".png").rpartition("-")
        series = stem if stem and number.isdigit() else name.removesuffix(".png")
        newest[series] = folder / name
    found = {}
    for name, path in newest.items():
        with contextlib.suppress(OSError):
            found[name] = path.read_bytes()
    return found


def _path(place: str) -> Any:
    """A path with pathlib's methods; what buckets need is imported for them alone."""
    if storage.is_bucket(place):
        return storage.absolute(place)
    return pathlib.Path(place).expanduser()


def _names(folder: Any) -> set[str]:
    try:
        return {child.name for child in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise storage.StorageError(f"{folder} cannot be read ({error})") from error


def _is_folder(folder: Any) -> bool:
    return not storage.is_bucket(folder) and folder.is_dir()


def _text(path: Any) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text()
    return ""


def _json(path: Any) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(_text(path))
        if isinstance(found, dict):
            return found
    return {}


def _rows(place: str) -> list[dict[str, Any]]:
    try:
        return sorted(read_rows(place), key=lambda row: row["step"])
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage.StorageError(
            f"{location(place)} cannot be read ({error})"
        ) from error


def _checkpoints(folder: Any, in_bucket: bool) -> dict[int, float]:
    found = {}
    for name in sorted(_names(folder)):
        if name.isdigit():
            mark = folder / name / COMMITTED if in_bucket else folder / name
            age = _age(mark)
            if age is not None:
                found[int(name)] = age
    return dict(sorted(found.items()))


def _logged_age(folder: Any) -> float | None:
    parts = [folder / FOLDER / name for name in _names(folder / FOLDER)]
    ages = [_age(path) for path in (folder / METRICS, *parts)]
    return min((age for age in ages if age is not None), default=None)


def _age(path: Any) -> float | None:
    with contextlib.suppress(OSError):
        found = path.stat()
        written = getattr(found, "st_mtime", None) or getattr(found, "mtime", None)
        return max(0.0, time.time() - written) if written else None
    return None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _seconds(row: Mapping[str, Any], phase: str) -> float:
    value = row.get(f"{PREFIX}{phase}_seconds")
    return float(value) if isinstance(value, int | float) else 0.0
