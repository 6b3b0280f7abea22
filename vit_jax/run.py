"""All that the loop works with besides the state: opened, handed over, closed."""

import contextlib
import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from vit_jax import metrics as reporting
from vit_jax import setup, setup_data, starts, warm_start
from vit_jax.checkpoint import CheckpointError, Checkpoints
from vit_jax.config import to_json
from vit_jax.data.pipeline import Loader
from vit_jax.distributed import Peers, PeersRefused
from vit_jax.evaluations import Evaluations, of
from vit_jax.goodput import earlier_attempts
from vit_jax.life import Life
from vit_jax.lock import WorkdirLock
from vit_jax.pending import Pending, streak_of
from vit_jax.plan import chips
from vit_jax.profiling import Profile
from vit_jax.rollback import Spikes
from vit_jax.run_files import BadExampleLog, note_goodput, noted_goodput

Scalars = dict[str, float]


@dataclasses.dataclass
class Run:
    """Everything but the state."""

    config: ConfigDict
    parts: setup.Parts
    steps: setup.Steps
    start: int
    folder: epath.Path
    life: Life
    guard: Callable[[], None]  # raises when the work directory's lock was lost
    checkpoints: Checkpoints
    evaluations: Evaluations
    loader: Loader | None  # None when nothing is left to train
    progress: reporting.Progress
    writer: reporting.Writer
    rates: reporting.Rates
    profile: Profile
    pending: Pending
    spikes: Spikes
    bad_examples: BadExampleLog
    known: Scalars  # the newest results of evaluations
    done: frozenset[str]  # names of results that the log has at ``start``
    saved: int  # the newest saved step

    def note_goodput(self, step: int) -> None:
        """Keeps where the time went, up to a step."""
        if jax.process_index() == 0:
            note_goodput(self.folder, step, self.life.goodput.scalars())

    def ids_checksum(self, step: int) -> int | None:
        """A number that says whether two runs drew the same examples at a step."""
        if self.pending.example_ids is None:
            return None
        ids = np.ascontiguousarray(self.pending.example_ids(step), np.int64)
        return zlib.crc32(ids.tobytes())


@contextlib.contextmanager
def exclusive(
    folder: epath.Path, peers: Peers | None, say: Callable
) -> Iterator[WorkdirLock]:
    """The work directory's lock, which the first process holds for all of them.

    Raises:
      LockHeldError: another process works there.
      PeersRefused: the first process found that.
    """
    lock = WorkdirLock(folder, say=say)
    if peers is not None and peers.process_id:
        if refused := peers.told():
            raise PeersRefused(refused)
        yield lock
        return
    created = not folder.exists()
    try:
        lock.acquire()
    except Exception as error:
        if peers is not None:
            peers.tell(str(error))
        raise
    if peers is not None:
        peers.tell("")
    try:
        yield lock
    finally:
        lock.release()
        if created:  # and nothing was written: a mistake leaves no trace
            with contextlib.suppress(OSError, ValueError):
                folder.rmdir()


def open_run(
    config: ConfigDict,
    parts: setup.Parts,
    steps: setup.Steps,
    folder: epath.Path,
    *,
    life: Life,
    lock: WorkdirLock,
    source: warm_start.WarmStart | None,
    say: Callable,
    stack: contextlib.ExitStack,
    note: dict[str, Any] | None = None,
) -> tuple[Run, Any]:
    """Opens what the loop needs, and restores or makes the state it begins with.

    All is closed with ``stack``, and ``note`` is kept of this start.
    """
    holds = jax.process_index() == 0
    checkpoints = Checkpoints(
        folder / "checkpoints",
        keep=config.checkpoint.keep,
        best=config.checkpoint.best,
        verify=config.checkpoint.verify,
        guard=lock.check if holds else None,
        say=say,
        alive=life.watchdog.beat,
    )
    stack.callback(closed_quietly, checkpoints, say)
    state, start, known = restore_or_init(parts, checkpoints, source, life, say)
    rows = read_log(folder)
    life.goodput.add(earlier_attempts(rows, start, noted_goodput(folder)))
    rows = [row for row in rows if row["step"] <= start]
    here = {name: v for row in rows if row["step"] == start for name, v in row.items()}
    before = start * config.train.batch_size
    bad_examples = BadExampleLog(folder, jax.process_index(), before=before)
    loader = None
    if start < steps.total:
        loader = setup_data.build_loader(config, parts.mesh, parts.teacher)
        stack.callback(loader.close)
        loader.know_bad(bad_examples.training)
    evaluations = Evaluations(
        config,
        parts,
        steps,
        beat=life.tick,
        compiling=lambda begins: life.switch("compile" if begins else "eval"),
    )
    stack.callback(evaluations.close)
    progress, writer = stack.enter_context(opened(config, folder, steps, start, life))
    run = Run(
        config=config,
        parts=parts,
        steps=steps,
        start=start,
        folder=folder,
        life=life,
        guard=functools.partial(lock.check, 0) if holds else _unguarded,
        checkpoints=checkpoints,
        evaluations=evaluations,
        loader=loader,
        progress=progress,
        writer=writer,
        rates=reporting.Rates(
            batch_size=config.train.batch_size,
            flops_per_image=parts.flops_per_image,
            peak_flops=peak_flops(parts.mesh),
        ),
        profile=profile_of(config, folder, progress),
        pending=Pending(
            max_nonfinite=config.train.max_nonfinite,
            streak=streak_of(rows, start),
            example_ids=ids_of(config, loader),
        ),
        spikes=Spikes(**config.train.rollback, rows=rows),
        bad_examples=bad_examples,
        known=known | evaluated(config, here),
        done=frozenset(here),
        saved=start,
    )
    run.note_goodput(start)
    if start < steps.total and holds:
        stack.enter_context(starts.noted(folder, (note or {}) | about(run)))
    return run, state


def about(run: Run) -> dict[str, Any]:
    """What a run knows of itself when it starts, for `starts.noted`."""
    mesh = run.parts.mesh
    return {
        "step": run.start,
        "total_steps": run.steps.total,
        "batch_size": run.config.train.batch_size,
        "flops_per_image": run.parts.flops_per_image,
        "device": mesh.devices.flat[0].device_kind,
        "num_devices": mesh.size,
        "num_processes": jax.process_count(),
        "mesh": {axis: size for axis, size in mesh.shape.items() if size > 1},
    }


def evaluated(config: ConfigDict, row: dict[str, Any]) -> Scalars:
    """The results of evaluations in a logged row, where null stands for NaN."""
    results = {key: v for name in config.evals for key, v in of(name, row).items()}
    return {key: math.nan if v is None else v for key, v in results.items()}


def closed_quietly(checkpoints: Checkpoints, say: Callable) -> None:
    """Closes checkpoints; an error here does not hide what ended the run."""
    try:
        checkpoints.close()
    except CheckpointError as error:
        say(f"warning: {error}")


def _unguarded() -> None:
    """The first process holds the lock for all."""


def ids_of(
    config: ConfigDict, loader: Loader | None
) -> Callable[[int], np.ndarray] | None:
    """Example ids of a step (0-based), where they follow from the step alone."""
    if loader is None or loader.streams:
        return None
    return functools.partial(loader.ids, shuffle=config.data.shuffle)


def read_log(folder: epath.Path) -> list[dict[str, Any]]:
    """The rows logged so far, before any process changes them."""
    rows: list[dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError):  # a new run
        rows = reporting.read_rows(folder)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("the log is read")
    return rows


def restore_or_init(
    parts: setup.Parts,
    checkpoints: Checkpoints,
    source: warm_start.WarmStart | None,
    life: Life,
    say: Callable,
) -> tuple[Any, int, Scalars]:
    """The state to start from, its step, and the evaluations known at that step."""
    with life.during("restore"):
        restored = checkpoints.restore_latest(parts.state_shapes)
    if restored is not None:
        step, state, evaluations = restored
        say(f"resuming from step {step:,} in {checkpoints.directory}")
        return state, step, evaluations
    with life.during("compile"):
        state = parts.init()
    with life.during("restore"):
        state = state if source is None else source.load(state, say=say)
    return state, 0, {}


@contextlib.contextmanager
def opened(
    config: ConfigDict, workdir: epath.Path, steps: setup.Steps, start: int, life: Life
):
    """Progress and metric writer around the loop; both closed whatever happens."""
    first = jax.process_index() == 0
    with reporting.Progress(
        total_steps=steps.total,
        batch_size=config.train.batch_size,
        start=start,
        phase=lambda: life.goodput.phase,
        quiet=not first,
    ) as progress:
        writer: reporting.Writer = reporting.MultiWriter()
        if first:
            writer = reporting.create_writer(
                workdir,
                tensorboard=config.log.tensorboard,
                wandb=config.log.wandb,
                config=to_json(config),
                progress=progress,
                after=start,
            )
        try:
            yield progress, writer
        finally:
            writer.close()


def profile_of(
    config: ConfigDict, folder: epath.Path, progress: reporting.Progress
) -> Profile:
    """The trace that is asked for; the first process writes it."""
    start, stop = config.log.profile if jax.process_index() == 0 else (0, 0)
    return Profile(start, stop, folder / "profile", progress.say)


def peak_flops(mesh: jax.sharding.Mesh) -> float | None:
    """Peak bf16 FLOP/s of a mesh's devices, None where the chip is not in the table."""
    chip = chips.find(mesh.devices.flat[0].device_kind)
    return chip.bf16_tflops * 1e12 * mesh.size if chip else None
