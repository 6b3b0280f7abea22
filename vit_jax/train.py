"""Training: set-up in named steps, then the loop."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from vit_jax import goodput, rollback, setup, setup_data, storage, warm_start
from vit_jax import metrics as reporting
from vit_jax.data.errors import DataError
from vit_jax.data.pipeline import train_batches
from vit_jax.distributed import Peers
from vit_jax.evaluations import due, of
from vit_jax.life import Life
from vit_jax.outcome import Interrupted, explained
from vit_jax.pending import NONFINITE, Scalars
from vit_jax.report import curves, pictures, run_figures
from vit_jax.report.summary import Result, headline
from vit_jax.run import Run, exclusive, open_run
from vit_jax.run_files import save_config
from vit_jax.stopping import Stop, Stopping
from vit_jax.watchdog import Watchdog
from vit_jax.writers import first_line


def train(
    config: ConfigDict,
    workdir: str,
    *,
    say: Callable = print,
    allow_config_change: bool = False,
    stop: Stop | None = None,
    peers: Peers | None = None,
    started: float | None = None,
    command: Sequence[str] = (),
) -> Result:
    """Trains until the configured duration is over, resuming what is in ``workdir``.

    Args:
      config: a loaded config.
      workdir: a folder, or a ``gs://`` address.
      say: prints a line.
      allow_config_change: resumes a run although its config asks for another one.
      stop: notices signals; one is made where none is given.
      peers: the other processes of the run, if there are any.
      started: `time.perf_counter` when the command began; default: now.
      command: the words after `vit-jax`, for whoever wants the same run again.

    Raises:
      ConfigError: the config is wrong, or another run is in the directory. Nothing
        has been written then.
      LockHeldError: another process works in the directory.
      NonFiniteError: the loss diverged; the last good checkpoint stays.
      RunError: a checkpoint could not be written, or an example could not be read.
      LockLostError: somebody else took the work directory.
      PeerError: another process of the run is gone.
      Interrupted: a signal came; the state is saved.
    """
    started = time.perf_counter() if started is None else started
    storage.prepare(workdir)
    folder = epath.Path(workdir).expanduser()
    first = jax.process_index() == 0
    say = say if first else _nothing
    config = warm_start.adopt(config, folder)
    facts = setup.describe_data(config)
    config = setup.resolve(config, facts)
    examples = setup_data.num_train_examples(config, facts)
    steps = setup.resolve_steps(config, examples)
    with contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(Stop())
        lock = stack.enter_context(exclusive(folder, peers, say))
        stop.releases(lock.release)
        if peers is not None:
            peers.releases(lock.release)
        watchdog = stack.enter_context(
            Watchdog(
                **config.train.watchdog,
                folder=folder,
                on_expire=lock.release,
                waits=() if first else ("restore", "save"),  # for the first process
            )
        )
        life = Life(goodput.Goodput(started=started), watchdog, stop)
        parts = setup.build_parts(config, steps)
        # Before a new run writes anything, and again if it died before its first save.
        source = warm_start.prepare(config, parts.state_shapes.params, folder)
        save_config(
            config,
            folder,
            facts,
            loaded=parts.loaded,
            allow_change=allow_config_change,
            say=say,
            write=first,
        )
        stack.enter_context(jax.set_mesh(parts.mesh))
        run, state = open_run(
            config,
            parts,
            steps,
            folder,
            life=life,
            lock=lock,
            source=source,
            note={"command": [*command], "num_examples": examples},
            say=say,
            stack=stack,
        )
        if run.start < steps.total:
            say(reporting.parameter_overview(state.params))
            say(headline(config, facts, parts, steps))
        stack.enter_context(explained(run, peers))
        run_loop(run, state)
        if run.start < steps.total:
            run.progress.say(f"time: {goodput.table(life.goodput.seconds())}")
    if run.start < steps.total and first:
        try:
            curves.draw(folder)
        except Exception as error:  # such as a full disk; the run is complete
            say(f"no figures: {error}")
    return Result(
        steps=steps.total,
        trained_steps=max(0, steps.total - run.start),
        seconds=time.perf_counter() - started,
        img_per_sec=run.rates.average(),
        evaluations=run.known,
        workdir=folder,
    )


def _nothing(line: str) -> None:
    """Says nothing: of several processes, the first speaks."""


def run_loop(run: Run, state: Any) -> None:
    """THE loop: evaluate, save, draw the next batch, step, log; in this order.

    Data advance only after the save, so a checkpoint's step is its place in the data.
    One pass more than there are steps, so the end needs no special case.

    Raises:
      Interrupted: a signal came; the state is saved.
    """
    run.life.enter("step")
    step, total, batch = run.start, run.steps.total, {}
    try:
        with run.profile, batches_from(run) as batches:
            for step in range(run.start, total + 1):
                run.life.tick()
                measured = evaluate(run, step, state)
                if saves(run, step, measured):
                    save(run, step, state, measured)
                if step == total:
                    break
                # A stream may read over a whole epoch before its first batch.
                waiting = "init" if step == run.start else "data"
                with run.life.during(waiting), run.life.stop.interruptible():
                    batch = next(batches)
                state = advance(run, step, state, batch)
                if step + 1 == total or due(step + 1, run.steps.log_every):
                    state = log(run, step, state)
        with run.life.during("save"):
            run.checkpoints.wait(verified=False)
            while run.checkpoints.verifying() and not run.life.stop.signal:
                time.sleep(0.01)  # complete: a signal only ends reading back
            run.checkpoints.poll()
        if run.start < total and run.config.log.figures:
            draw(run, state, batch)
    except Stopping:
        with run.life.during("save"):
            if step > run.saved:
                take(run)
                save(run, step, state, [])
            run.checkpoints.wait(verified=False)  # the next start verifies it
        raise Interrupted(run.life.stop.signal, step) from None
    except DataError:  # no fault of the state: nothing done so far is lost
        list_bad(run, None)
        if step > run.saved and jax.process_count() == 1:
            take(run)
            save(run, step, state, [])
        raise


def draw(run: Run, state: Any, batch: dict[str, jax.Array]) -> None:
    """Draws the figures; what goes wrong with them does not end the run."""
    with run.life.during("compile"):  # of unknown length, as that is
        try:
            run_figures.draw(run, state, batch)
        except Exception as error:
            run.progress.say(f"no figures: {first_line(error)}")


def evaluate(run: Run, step: int, state: Any) -> list[str]:
    """Runs the evaluators that are due; returns their names."""
    known = run.done if step == run.start else ()
    measured = run.evaluations.missing(step, known)
    if not measured:
        return []
    take(run)
    with run.life.during("eval"), run.rates.pause():
        for name in measured:
            run.known = run.known | run.evaluations.run(name, state)
            bad = run.evaluations.take_bad(name)
            if new := run.bad_examples.write(bad, evaluation=name):
                run.progress.say(f"{new} damaged examples are left out of {name}")
            run.writer.write_scalars(step, of(name, run.known))
        show(run, step)
    return measured


def show(run: Run, step: int) -> None:
    """Writes what evaluators drew; the run goes on without it."""
    images = run.evaluations.take_images()
    if jax.process_index():
        return
    try:
        pictures.show(run.folder, step, images, run.writer)
    except Exception as error:  # such as a full disk
        run.progress.say(f"no pictures: {error}")


def saves(run: Run, step: int, measured: list[str]) -> bool:
    """Whether a step is saved; one that is there already if it is measured only now."""
    if step == run.start:
        return bool(measured)
    return step == run.steps.total or due(step, run.steps.checkpoint_every)


def save(run: Run, step: int, state: Any, measured: list[str]) -> None:
    """Starts a save; the copy off the devices is waited for."""
    take(run)
    with run.life.during("save"), run.rates.pause():
        list_bad(run, step)
        run.writer.flush()  # first: a checkpoint is never ahead of the log
        best = run.config.checkpoint.best.rpartition("/")[0].removesuffix("_ema")
        run.checkpoints.save(step, state, run.known, measured=best in measured)
    run.saved = step
    run.progress.saved(step)


def advance(run: Run, step: int, state: Any, batch: dict[str, jax.Array]) -> Any:
    """One step of training."""
    parts, life = run.parts, run.life
    first = step == run.start
    if run.profile.begins(step, compiled=not first):
        with life.during("compile"), run.rates.pause():
            run.profile.begin(step, state)
    with life.during("compile" if first else "step"):
        state, values = parts.train_step(state, parts.frozen, batch, parts.step_key)
        if first:
            life.stop.from_now_on_save()  # it is compiled, and runs
            jax.block_until_ready(values)
        run.pending.add(step + 1, values)
    run.rates.step(life.goodput.last("data"))
    if run.profile.ends(step + 1):
        # Writing it may take long; the watchdog gives this phase the most time.
        with life.during("compile"), run.rates.pause():
            run.profile.end(step + 1, values)
    run.progress.advance(step + 1)
    run.checkpoints.poll()
    if first:
        seconds = life.goodput.last("compile")
        run.progress.say(f"first step done after {seconds:.1f} s of compilation")
        run.rates.reset()
    return state


def take(run: Run) -> Scalars:
    """Looks at the steps since the last look; those not applied get a row each.

    Raises:
      NonFiniteError: too many in a row.
    """
    if not run.pending:
        return {}
    newest, skipped = run.pending.take()
    for step in skipped:
        run.writer.write_scalars(step, {NONFINITE: 1.0})
        run.progress.say(f"step {step} was not finite and is not applied")
    return newest


def log(run: Run, step: int, state: Any) -> Any:
    """Writes the row of a step; returns the state, an older one after a loss spike."""
    run.guard()
    row = take(run) | {"learning_rate": float(run.parts.schedule(step))}
    row |= run.rates.scalars() | reporting.memory_peak(jax.local_devices())
    scalars = {f"train/{name}": value for name, value in row.items()}
    scalars |= run.life.goodput.scalars()
    checksum = run.ids_checksum(step) if run.config.log.example_ids else None
    if checksum is not None:
        scalars["data/example_ids"] = float(checksum)
    if bad := list_bad(run, step + 1):
        scalars["data/bad_examples"] = float(bad)
    run.writer.write_scalars(step + 1, scalars)
    if not run.spikes.spiked(row["loss"]):
        return state
    return roll_back(run, step + 1, state)


def list_bad(run: Run, step: int | None) -> int:
    """Lists the damaged examples of the first ``step`` steps; returns their number.

    None: also those of batches that were only loaded.
    """
    if run.loader is None:
        return 0
    before = None if step is None else step * run.loader.batch_size
    if new := run.bad_examples.write(run.loader.take_bad(before)):
        run.progress.say(f"{new} damaged examples were replaced")
    return len(run.bad_examples.training)


def roll_back(run: Run, step: int, state: Any) -> Any:
    """The state of the last checkpoint, placed at this step of the data."""
    with run.life.during("restore"), run.rates.pause():
        run.checkpoints.wait()
        restored = run.checkpoints.restore_latest(
            run.parts.state_shapes, every=run.steps.checkpoint_every
        )
    if restored is None:
        run.progress.say(f"loss spike at step {step}, but there is no checkpoint yet")
        return state
    saved, older, _ = restored
    run.writer.write_scalars(step, {rollback.EVENT: float(saved)})
    run.progress.say(f"loss spike at step {step}: parameters of step {saved} again")
    return older.replace(step=state.step)


@contextlib.contextmanager
def batches_from(run: Run) -> Iterator[Iterator[dict[str, jax.Array]]]:
    """Training batches from where the run starts; none when nothing is left."""
    if run.loader is None:
        yield iter(())
        return
    data = run.config.data
    batches = train_batches(
        run.loader,
        start=run.start,
        stop=run.steps.total,
        shuffle=data.shuffle,
        depth=data.prefetch,
    )
    with contextlib.closing(batches):
        yield batches
