"""One flipped bit, one truncated or missing file in the newest of three checkpoints.

Every trial restores a copy of one committed directory in a worker process and compares
what comes back, bit for bit, with what was saved.
"""

import os
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np

from . import runs, workers
from .core import Context, Outcome, Scenario
from .restore_worker import STEPS

LIMIT = 60.0  # seconds for one restore, which takes a tenth of one
JOBS = 2
GOOD = {"right newest", "fell back"}


class Fixture:
    """The undamaged directory and the workers."""

    def __init__(self, context: Context, home: pathlib.Path):
        self.reader = context.peer or "vit_jax"
        # In memory where there is such a place: a thousand copies of a directory.
        fast = pathlib.Path("/dev/shm")
        self._folder = tempfile.TemporaryDirectory(
            prefix="chaos-", dir=fast if os.access(fast, os.W_OK) else home
        )
        self.folder = pathlib.Path(self._folder.name)
        self.master = self.folder / "checkpoints"
        words = workers.command("restore_worker", f"--reader={self.reader}")
        made = subprocess.run(
            [*words, f"--make={self.master}"],
            env=runs.environment(context),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=runs.PATIENCE,
        )
        if made.returncode:
            raise AssertionError(f"no checkpoint to damage:\n{made.stderr[-2000:]}")
        self.newest = self.master / str(max(STEPS))
        self.files = sorted(
            (path for path in self.newest.rglob("*") if path.is_file()),
            key=lambda path: shape_of(path, self.newest),
        )
        self._workers = workers.Workers(context, words, number=JOBS, limit=LIMIT)
        control = self.restore(self.master)
        if control["kind"] != "right newest":
            raise AssertionError(f"the undamaged directory: {control}")

    def restore(self, directory: pathlib.Path) -> dict:
        """What restoring a directory comes to."""
        return self._workers.ask({"directory": str(directory)})

    def close(self) -> None:
        """Ends the workers and removes the directory."""
        self._workers.close()
        self._folder.cleanup()


def shape_of(path: pathlib.Path, folder: pathlib.Path) -> tuple:
    """A key that orders files alike every time; data files have random names."""
    inner = path.relative_to(folder)
    random_name = inner.parent.name == "d"
    return str(inner.parent), path.stat().st_size, "" if random_name else inner.name


def damaged_copy(
    fixture: Fixture, folder: pathlib.Path, victim: pathlib.Path, content: bytes | None
) -> pathlib.Path:
    """A copy of the directory, in which one file has other content or is missing."""
    copy = fixture.folder / folder.name / "checkpoints"
    shutil.rmtree(copy.parent, ignore_errors=True)
    shutil.copytree(fixture.master, copy)
    target = copy / victim.relative_to(fixture.master)
    if content is None:
        target.unlink()
    else:
        target.write_bytes(content)
    return copy


def restored(
    fixture: Fixture,
    folder: pathlib.Path,
    victim: pathlib.Path,
    content: bytes | None,
    what: str,
) -> Outcome:
    """Restores a damaged copy and says what came of it."""
    copy = damaged_copy(fixture, folder, victim, content)
    answer = fixture.restore(copy)
    good = answer["kind"] in GOOD
    shutil.rmtree(copy.parent, ignore_errors=True)
    detail = f"{what} of {victim.relative_to(fixture.newest)}: {answer.get('detail')}"
    return Outcome(answer["kind"], good, "" if good else detail)


def pick(fixture: Fixture, index: int, rng: np.random.Generator) -> pathlib.Path:
    """A file of the newest step: by size in even trials, any with equal chance in odd.

    By size, nearly every flip hits array data; with equal chance, metadata.
    """
    files = [path for path in fixture.files if path.stat().st_size]
    if index % 2:
        return files[rng.integers(len(files))]
    sizes = np.array([path.stat().st_size for path in files], float)
    return files[rng.choice(len(files), p=sizes / sizes.sum())]


def flip(
    context: Context,
    fixture: Fixture,
    folder: pathlib.Path,
    index: int,
    rng: np.random.Generator,
) -> Outcome:
    """Flips one random bit."""
    victim = pick(fixture, index, rng)
    content = bytearray(victim.read_bytes())
    bit = int(rng.integers(8 * len(content)))
    content[bit // 8] ^= 1 << bit % 8
    return restored(fixture, folder, victim, bytes(content), f"bit {bit}")


def truncate(
    context: Context,
    fixture: Fixture,
    folder: pathlib.Path,
    index: int,
    rng: np.random.Generator,
) -> Outcome:
    """Each file in turn: deleted, emptied, or cut at a random length."""
    victim = fixture.files[index // 3 % len(fixture.files)]
    size = victim.stat().st_size
    if index % 3 == 0 or not size:
        return restored(fixture, folder, victim, None, "deletion")
    length = 0 if index % 3 == 1 else int(rng.integers(size))
    content = victim.read_bytes()[:length]
    return restored(fixture, folder, victim, content, f"truncation to {length} bytes")


FLIP = Scenario(
    name="flip",
    what="one flipped bit in a committed checkpoint",
    bar="0 silently wrong; falls back, or harmless",
    count=1000,
    short=40,
    prepare=Fixture,
    trial=flip,
    jobs=JOBS,
)
TRUNCATE = Scenario(
    name="truncate",
    what="a file of a checkpoint truncated or deleted",
    bar="all detected or harmless; falls back",
    count=300,
    short=40,
    prepare=Fixture,
    trial=truncate,
    jobs=JOBS,
)
