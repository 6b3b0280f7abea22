"""Training: set-up in named steps, then the loop."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from vit_jax import metrics as reporting
from vit_jax import setup, storage, warm_start
from vit_jax.checkpoint import Checkpoints
from vit_jax.config import ConfigError, diff, snapshot, unsafe_changes
from vit_jax.data.pipeline import train_batches
from vit_jax.plan import chips
from vit_jax.report import curves
from vit_jax.report.summary import Result, headline

Scalars = dict[str, float]


class NonFiniteError(ArithmeticError):
    """Training diverged; the message names the step and the last good checkpoint."""


def save_config(
    config: ConfigDict, workdir: epath.Path, class_names: Sequence[str] | None = None
) -> None:
    """Writes ``config.json``, or checks that it asks for the same run as the one there.

    ``classes.txt`` beside it has the names of the classes, a line each, for whoever
    uses the weights where the data set is not.

    Raises:
      ConfigError: another run is in this directory; the differences are listed.
    """
    path = workdir / "config.json"
    new = snapshot(config)
    if path.exists():
        old = json.loads(path.read_text())
        unsafe = unsafe_changes(old["config"], new["config"])
        if unsafe:
            raise ConfigError(
                [
                    f"{workdir} holds a run with another config; "
                    "use another --workdir, or undo:",
                    *unsafe,
                ]
            )
        if not diff(old["config"], new["config"]):
            return
    workdir.mkdir(parents=True, exist_ok=True)
    if class_names:
        (workdir / "classes.txt").write_text("\n".join(class_names) + "\n")
    storage.write_text(path, json.dumps(new, indent=2))


class Evaluations:
    """The evaluators of a config, and when each is due."""

    def __init__(self, config: ConfigDict, parts: setup.Parts, steps: setup.Steps):
        self._every = steps.eval_every
        self._total = steps.total
        self._parts = parts
        self._evaluators = {
            name: setup.build_evaluator(config, name, parts=parts)
            for name in config.evals
        }

    def due(self, step: int) -> list[str]:
        """Names of those that run after ``step`` updates."""
        last = step == self._total
        return [name for name, n in self._every.items() if last or due(step, n)]

    def run(self, name: str, state: Any) -> Scalars:
        """Measures the parameters, and their average beside them where there is one."""
        evaluator = self._evaluators[name]
        results = {name: evaluator.run(state.params, self._parts.frozen)}
        if state.ema:
            results[f"{name}_ema"] = evaluator.run(state.ema, self._parts.frozen)
        return {
            f"{prefix}/{key}": value
            for prefix, scalars in results.items()
            for key, value in scalars.items()
        }

    def close(self) -> None:
        """Frees the evaluators."""
        for evaluator in self._evaluators.values():
            evaluator.close()


def due(step: int, every: int) -> bool:
    """Whether something done every ``every`` steps is done after ``step`` updates."""
    return step > 0 and step % every == 0


class Pending:
    """Metrics of the steps since the last look, still on the devices."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, dict[str, jax.Array]]] = []

    def add(self, step: int, values: dict[str, jax.Array]) -> None:
        """Notes a step, and waits for the one two before it.

        Dispatch could otherwise run away and fill memory with batches.
        """
        self._steps.append((step, values))
        if len(self._steps) > 2:
            self._steps[-3][1]["loss"].block_until_ready()

    def take(self) -> Scalars:
        """The newest step's metrics, after checking all for finiteness.

        Raises:
          NonFiniteError: a loss, gradient norm or parameter norm is not finite.
        """
        taken, self._steps = jax.device_get(self._steps), []
        for step, values in taken:
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if bad:
                raise NonFiniteError(f"{', '.join(bad)} at step {step} is not finite")
        return {name: float(value) for name, value in taken[-1][1].items()}

    def __bool__(self) -> bool:
        return bool(self._steps)


def restore_or_init(
    parts: setup.Parts,
    checkpoints: Checkpoints,
    source: warm_start.WarmStart | None,
    say: Callable,
) -> tuple[Any, int, Scalars]:
    """The state to start from, its step, and the evaluations known at that step."""
    latest = checkpoints.latest()
    if latest is not None:
        state, evaluations = checkpoints.restore(latest, parts.state_shapes)
        say(f"resuming from step {latest:,} in {checkpoints.directory}")
        return state, latest, evaluations
    state = parts.init()
    return state if source is None else source.load(state, say=say), 0, {}


@contextlib.contextmanager
def opened(config: ConfigDict, workdir: epath.Path, steps: setup.Steps, start: int):
    """Progress and metric writer around the loop; both closed whatever happens."""
    with reporting.Progress(
        total_steps=steps.total,
        batch_size=config.train.batch_size,
        quiet=jax.process_index() > 0,
    ) as progress:
        writer = reporting.create_writer(
            workdir,
            tensorboard=config.log.tensorboard,
            progress=progress,
            after=start,
        )
        try:
            yield progress, writer
        finally:
            writer.close()


def train(config: ConfigDict, workdir: str, *, say: Callable = print) -> Result:
    """Trains until the configured duration is over, resuming what is in ``workdir``.

    Raises:
      ConfigError: the config is wrong, or another run is in the directory. Nothing
        has been written then.
      NonFiniteError: the loss diverged; the last good checkpoint stays.
    """
    started = time.perf_counter()
    storage.prepare(workdir)
    folder = epath.Path(workdir).expanduser()
    config = warm_start.adopt(config, folder)
    facts = setup.describe_data(config)
    config = setup.resolve(config, facts)
    steps = setup.resolve_steps(config, setup.num_train_examples(config, facts))
    parts = setup.build_parts(config, steps)
    # Before a new run writes anything, and again if it died before its first save.
    source = warm_start.prepare(config, parts.state_shapes.params, folder)
    save_config(config, folder, facts.class_names)
    checkpoints = Checkpoints(
        folder / "checkpoints",
        keep=config.checkpoint.keep,
        best=config.checkpoint.best,
    )
    with contextlib.ExitStack() as stack, jax.set_mesh(parts.mesh):
        stack.callback(checkpoints.close)
        state, start, known = restore_or_init(parts, checkpoints, source, say)
        if start < steps.total:
            say(reporting.parameter_overview(state.params))
            say(headline(config, facts, parts, steps))
        evaluations = Evaluations(config, parts, steps)
        stack.callback(evaluations.close)
        progress, writer = stack.enter_context(opened(config, folder, steps, start))
        rates = reporting.Rates(
            batch_size=config.train.batch_size,
            flops_per_image=parts.flops_per_image,
            peak_flops=peak_flops(parts.mesh),
        )
        stack.enter_context(naming_last_good(checkpoints))
        known, speed = run_loop(
            config,
            parts,
            steps,
            state=state,
            start=start,
            known=known,
            evaluations=evaluations,
            checkpoints=checkpoints,
            progress=progress,
            writer=writer,
            rates=rates,
        )
    if start < steps.total:
        curves.draw(folder)
    return Result(
        steps=steps.total,
        trained_steps=steps.total - start,
        seconds=time.perf_counter() - started,
        img_per_sec=speed,
        evaluations=known,
        workdir=folder,
    )


@contextlib.contextmanager
def naming_last_good(checkpoints: Checkpoints) -> Iterator[None]:
    """Adds to the error of a run that diverged what the run leaves."""
    try:
        yield
    except NonFiniteError as error:
        latest, folder = checkpoints.latest(), checkpoints.directory
        left = f"the last good checkpoint is of step {latest} in {folder}"
        if latest is None:
            left = "no checkpoint was saved before it"
        raise NonFiniteError(f"{error}; {left}") from None


def ranks(config: ConfigDict, measured: list[str]) -> bool:
    """Whether the metric of the best checkpoint is among those just measured."""
    name = config.checkpoint.best.rpartition("/")[0]
    return name.removesuffix("_ema") in measured


def run_loop(
    config: ConfigDict,
    parts: setup.Parts,
    steps: setup.Steps,
    *,
    state: Any,
    start: int,
    known: Scalars,
    evaluations: Evaluations,
    checkpoints: Checkpoints,
    progress: reporting.Progress,
    writer: reporting.Writer,
    rates: reporting.Rates,
) -> tuple[Scalars, float]:
    """THE loop: evaluate, save, draw the next batch, step, log; in this order.

    Data advance only after the save, so a checkpoint's step is its place in the data.
    One pass more than there are steps, so the end needs no special case.
    """
    pending = Pending()
    with batches_from(config, parts, start, steps.total) as batches:
        begun = time.perf_counter()
        for step in range(start, steps.total + 1):
            if step > start:
                saving = step == steps.total or due(step, steps.checkpoint_every)
                with rates.pause():
                    measured = evaluations.due(step)
                    if pending and (saving or measured):
                        pending.take()  # nothing that diverged is measured or saved
                    for name in measured:
                        known = known | evaluations.run(name, state)
                        writer.write_scalars(step, of(name, known))
                    if saving:
                        writer.flush()
                        new = ranks(config, measured)
                        checkpoints.save(step, state, known, measured=new)
            if step == steps.total:
                break
            waiting = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - waiting
            state, values = parts.train_step(state, parts.frozen, batch, parts.step_key)
            pending.add(step + 1, values)
            rates.step(waited)
            progress.advance(step + 1)
            if step == start:
                jax.block_until_ready(values)
                compiled = time.perf_counter() - begun
                progress.say(f"first step done after {compiled:.1f} s of compilation")
                rates.reset()
            if step + 1 == steps.total or due(step + 1, steps.log_every):
                row = pending.take() | {"learning_rate": float(parts.schedule(step))}
                row |= rates.scalars()
                writer.write_scalars(
                    step + 1, {f"train/{name}": value for name, value in row.items()}
                )
    return known, rates.average()


@contextlib.contextmanager
def batches_from(
    config: ConfigDict, parts: setup.Parts, start: int, stop: int
) -> Iterator[Iterator[dict[str, jax.Array]]]:
    """Training batches from ``start``; nothing is opened when none is left."""
    if start >= stop:
        yield iter(())
        return
    loader = setup.build_loader(config, parts.mesh)
    batches = train_batches(
        loader,
        start=start,
        stop=stop,
        shuffle=config.data.shuffle,
        depth=config.data.prefetch,
    )
    try:
        yield batches
    finally:
        batches.close()
        loader.close()


def of(name: str, scalars: Scalars) -> Scalars:
    """The results of one evaluator, those of the averaged parameters included."""
    prefixes = (f"{name}/", f"{name}_ema/")
    return {key: value for key, value in scalars.items() if key.startswith(prefixes)}


def peak_flops(mesh: jax.sharding.Mesh) -> float | None:
    """Peak bf16 FLOP/s of a mesh's devices, None where the chip is not in the table."""
    chip = chips.find(mesh.devices.flat[0].device_kind)
    return chip.bf16_tflops * 1e12 * mesh.size if chip else None
