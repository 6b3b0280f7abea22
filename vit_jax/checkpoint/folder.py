"""The files of a checkpoints folder: steps, their meta, marks, what is set aside.

``STEP/state`` holds the arrays, ``STEP/meta/metadata`` what is known of them, signed;
``STEP/verified`` says that they were read back; ``quarantine/`` holds damaged steps.
"""

import contextlib
import dataclasses
import datetime
import os
import pathlib
import re
from collections.abc import Mapping

from etils import epath

from vit_jax import digest
from vit_jax.checkpoint.arrays import LeafMeta
from vit_jax.checkpoint.errors import (
    CheckpointError,
    DamageError,
    first_line,
    judge,
)

_COMMITTED = "commit_success.txt"  # orbax's; the commit itself in a bucket
_TEMPORARY = ".orbax-checkpoint-tmp"
_DELETED = ".deleted"
_REPLACED = ".replaced"
_MARGIN = 1.05  # what file formats add to the bytes of the arrays
_SPARE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Meta:
    """What is written beside the arrays of a step."""

    step: int
    evaluations: Mapping[str, float]
    measured: bool  # whether the evaluations are of this very step
    leaves: Mapping[str, LeafMeta]

    def to_text(self) -> str:
        """Signed JSON."""
        return digest.sign(
            {
                "step": self.step,
                "evaluations": dict(self.evaluations),
                "measured": self.measured,
                "leaves": {
                    name: [leaf.dtype, list(leaf.shape), leaf.digest]
                    for name, leaf in self.leaves.items()
                },
            }
        )

    @classmethod
    def from_text(cls, text: str) -> "Meta":
        """Raises ValueError when the text is not as it was written."""
        content = digest.signed(text)
        leaves = {
            name: LeafMeta(dtype, tuple(shape), found)
            for name, (dtype, shape, found) in content["leaves"].items()
        }
        return cls(content["step"], content["evaluations"], content["measured"], leaves)


class Folder:
    """A folder of checkpoints, local or in a bucket."""

    def __init__(self, path: epath.Path):
        self._bucket = "://" in str(path)
        self.path = path if self._bucket else epath.Path(os.path.abspath(path))
        self.quarantine = self.path / "quarantine"

    def step_path(self, step: int) -> epath.Path:
        return self.path / str(step)

    def state_path(self, step: int) -> epath.Path:
        return self.step_path(step) / "state"

    def newest_good(self) -> str:
        """What is left after something failed, for the end of a message."""
        newest = max(self.steps(), default=None)
        if newest is None:
            return "there is no older one"
        return f"the newest good one is step {newest}"

    def steps(self) -> list[int]:
        """The committed steps, in order."""
        return sorted(
            int(child.name)
            for child in self._children()
            if child.name.isdigit() and self._committed(child)
        )

    def _children(self) -> list[epath.Path]:
        try:
            return list(self.path.iterdir()) if self.path.is_dir() else []
        except FileNotFoundError:
            return []

    def _committed(self, step: epath.Path) -> bool:
        # On a disk a step is renamed when it is complete; a bucket cannot rename.
        return not self._bucket or (step / _COMMITTED).exists()

    def meta(self, step: int) -> Meta:
        """What is known of a step.

        Raises:
          DamageError: it is missing or was changed.
          CheckpointError: another version wrote it, or storage cannot be reached.
        """
        file = self.step_path(step) / "meta" / "metadata"
        try:
            text = file.read_text()
        except FileNotFoundError:
            raise DamageError("meta/metadata is missing") from None
        except UnicodeDecodeError:
            raise DamageError("meta/metadata is not text") from None
        except Exception as error:
            raise judge(error, "meta/metadata") from None
        try:
            meta = Meta.from_text(text)
        except (ValueError, TypeError, KeyError) as error:
            if re.fullmatch(r'\{"step": \d+, "evaluations": \{[^{}]*\}\}', text):
                raise CheckpointError(
                    f"{self.step_path(step)} was saved by an earlier version, without "
                    "digests; this version cannot tell whether it is right"
                ) from None
            raise DamageError(f"meta/metadata: {first_line(error)}") from None
        if meta.step != step:
            raise DamageError(f"meta/metadata is of step {meta.step}")
        return meta

    def write_meta(self, step_path: epath.Path, meta: Meta) -> None:
        """Writes what is known of a step that is being written at ``step_path``."""
        (step_path / "meta").mkdir(parents=True, exist_ok=True)
        (step_path / "meta" / "metadata").write_text(meta.to_text())

    def metas(self) -> dict[int, Meta]:
        """The meta of every committed step that has a good one."""
        found = {}
        for step in self.steps():
            try:
                found[step] = self.meta(step)
            except (DamageError, CheckpointError):
                continue
        return found

    def mark_verified(self, meta: Meta) -> None:
        """Notes that the arrays of a step were read and are right."""
        (self.step_path(meta.step) / "verified").write_text(_seal(meta))

    def verified(self, metas: Mapping[int, Meta]) -> list[int]:
        """Those steps whose mark is there, and is of the meta that is there."""
        found = []
        for step, meta in metas.items():
            try:
                if (self.step_path(step) / "verified").read_text() == _seal(meta):
                    found.append(step)
            except (OSError, ValueError):
                continue
        return found

    def set_aside(self, step: int, reason: str) -> epath.Path:
        """Moves a damaged step to ``quarantine/``; nothing of it is changed.

        Raises:
          CheckpointError: it cannot be moved.
        """
        now = datetime.datetime.now(datetime.UTC)
        words = "-".join(re.findall(r"[A-Za-z0-9]+", reason))[:60].rstrip("-")
        name = f"{step}-{now:%Y%m%dT%H%M%S.%f}-{words}"
        target = self.quarantine / name
        with contextlib.suppress(OSError):  # the disk may be full; the name says it too
            self.quarantine.mkdir(parents=True, exist_ok=True)
            # Before the move: a folder in a bucket exists once there is a file in it.
            (self.quarantine / f"{name}.txt").write_text(f"step {step}: {reason}\n")
        try:
            self.step_path(step).rename(target)
        except Exception as error:
            raise CheckpointError(
                f"{self.step_path(step)} is damaged ({reason}) and cannot be moved "
                f"to {self.quarantine}: {first_line(error)}"
            ) from None
        return target

    def quarantined(self) -> list[str]:
        """Names of what was set aside."""
        if not self.quarantine.is_dir():
            return []
        names = [child.name for child in self.quarantine.iterdir()]
        return sorted(name for name in names if not name.endswith(".txt"))

    def delete(self, step: int) -> None:
        """Removes a step; one that is half removed never looks like a step."""
        path = self.step_path(step)
        if self._bucket:
            (path / _COMMITTED).unlink(missing_ok=True)
            path.rmtree()
            return
        gone = self.path / f"{step}{_DELETED}"
        path.rename(gone)
        gone.rmtree()

    def replace(self, step: int) -> None:
        """Takes a step away that is about to be saved anew, until that is done."""
        old = self.path / f"{step}{_REPLACED}"
        if old.exists():
            old.rmtree()
        self.step_path(step).rename(old)

    def replaced(self, step: int) -> None:
        """Removes what ``replace`` took away."""
        old = self.path / f"{step}{_REPLACED}"
        if old.exists():
            old.rmtree()

    def clean(self) -> None:
        """Removes what an interrupted save or removal left behind."""
        for child in self._children():
            name = child.name
            if name.endswith(_REPLACED):
                step = self.path / name.removesuffix(_REPLACED)
                if not (step.exists() and self._committed(step)):
                    if step.exists():
                        step.rmtree()
                    child.rename(step)
                    continue
            half = name.isdigit() and not self._committed(child)
            if half or name.endswith((_TEMPORARY, _DELETED, _REPLACED)):
                child.rmtree()

    def discard_half(self, step: int) -> None:
        """Removes what a failed save of ``step`` wrote, to give back the space."""
        half = self.path / f"{step}{_TEMPORARY}"
        if self._bucket and not self._committed(self.step_path(step)):
            half = self.step_path(step)
        if half.exists():
            half.rmtree()

    def free_bytes(self) -> int | None:
        """Free space where the folder is or will be; None in a bucket."""
        if self._bucket:
            return None
        place = pathlib.Path(os.path.abspath(self.path))
        while not place.exists():
            place = place.parent
        stats = os.statvfs(place)
        return stats.f_bavail * stats.f_frsize


def needed_bytes(array_bytes: int) -> int:
    """What a save of so many bytes of arrays may take on the disk."""
    return int(array_bytes * _MARGIN) + _SPARE


def gib(size: int) -> str:
    """A number of bytes for a message, such as ``1.2 GiB``."""
    if size < 1 << 29:
        return f"{size / 2**20:.1f} MiB"
    return f"{size / 2**30:.1f} GiB"


def _seal(meta: Meta) -> str:
    return digest.seal(meta.to_text())
