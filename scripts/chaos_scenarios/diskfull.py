"""A disk that fills up: a named error, and a checkpoint that can be read."""

import pathlib
import shutil
import subprocess

import numpy as np

from . import compare, runs
from .core import CannotRunError, Context, Outcome, Scenario
from .kill9 import Straight, straight_run

SIZES = 20
EVERY = 5  # steps between saves
# In a name space of its own: the disk is gone when the command ends, so copy it out.
SCRIPT = """
mount -t tmpfs -o size="$SIZE" chaos "$DISK" || exit 99
"$@"
code=$?
cp -a "$DISK/." "$SAVED"
exit $code
"""
WORDS = ("no space", "disk", "free", "full")


def prepare(context: Context, home: pathlib.Path) -> Straight:
    """An uninterrupted run, once it is known that a small disk can be made."""
    disk = home / "disk"
    disk.mkdir(exist_ok=True)
    try:
        subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "chaos", str(disk)],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotRunError(
            "mounting a file system in memory is not permitted here"
        ) from error
    return straight_run(context, home)


def size_of(folder: pathlib.Path) -> int:
    """Bytes of all files, each in whole pages as on a file system in memory."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(-(-size // 4096) * 4096 for size in sizes)


def trial(
    context: Context,
    straight: Straight,
    folder: pathlib.Path,
    index: int,
    rng: np.random.Generator,
) -> Outcome:
    """Sizes from a quarter of a checkpoint to what four of them take."""
    newest = str(compare.committed(straight.workdir)[-1])
    one = size_of(straight.workdir / "checkpoints" / newest)
    share = np.linspace(0.25, 4.0, SIZES)[7 * index % SIZES]  # far apart
    size = int(one * share)
    disk, saved = folder / "disk", folder / "saved"
    disk.mkdir()
    saved.mkdir()
    workdir = disk / "run"
    process = runs.start(
        context,
        workdir,
        prefix=[
            *("unshare", "-rm", "env", f"SIZE={size}", f"DISK={disk}"),
            *(f"SAVED={saved}", "sh", "-c", SCRIPT, "sh"),
        ],
    )
    code = process.wait()
    log = process.output()
    left = saved / "run"
    steps = compare.committed(left) if left.exists() else []
    if code == 0:
        kind = "large enough"
    else:
        kind = f"full after {len(steps)} kept" if steps else "full before the first"
    problems = []
    if code not in (0, 1, 2):
        problems.append(f"exit code {code}")
    said = [line.lower() for line in log.splitlines() if line.startswith("vit-jax:")]
    if code and not any(word in line for line in said for word in WORDS):
        problems.append("no line of an error names the disk")
    # What is full is known when the save after the newest good one begins or, at the
    # latest, a step later.
    shown = runs.steps_shown(log)
    due = (max(steps, default=0) // EVERY + 1) * EVERY
    if code and shown > due + 1:
        problems.append(f"the save of step {due} failed, and step {shown} was reached")
    if problems:
        text = f"{size} bytes: {'; '.join(problems)}; last lines:\n{process.tail()}"
        return Outcome(f"{kind}: WRONG", False, text)
    return resumed(context, straight, folder, left, kind)


def resumed(
    context: Context,
    straight: Straight,
    folder: pathlib.Path,
    left: pathlib.Path,
    kind: str,
) -> Outcome:
    """On a larger disk what was left runs on to the same end."""
    workdir = folder / "larger"
    if left.exists():
        shutil.copytree(left, workdir)
    process = runs.start(context, workdir)
    runs.finish(process)
    if "full after" in kind and "resuming from step" not in process.output():
        return Outcome(f"{kind}: NOT RESUMED", False, process.tail())
    different = compare.run_differences(workdir, straight.workdir)
    if different:
        return Outcome(f"{kind}: DIFFERENT", False, "; ".join(different))
    return Outcome(kind, True)


SCENARIO = Scenario(
    name="diskfull",
    what="a disk that is full, at 20 sizes",
    bar="error named within one step, non-zero exit, the newest checkpoint resumes",
    count=SIZES,
    short=2,
    prepare=prepare,
    trial=trial,
)
