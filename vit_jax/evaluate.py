"""Evaluation of a finished or running work directory."""

import json
from collections.abc import Callable, Sequence

import jax
from etils import epath

from vit_jax import setup, setup_data, storage
from vit_jax.checkpoint import CheckpointError, Checkpoints
from vit_jax.config import from_json
from vit_jax.config_evals import with_evaluators
from vit_jax.evaluations import Evaluations, Scalars
from vit_jax.report import pictures


def evaluate(
    workdir: str,
    *,
    step: str = "latest",
    names: Sequence[str] = (),
    overrides: Sequence[str] = (),
    say: Callable[[str], object] = print,
) -> tuple[int, Scalars]:
    """Runs evaluations on a checkpoint of the run in ``workdir``.

    Args:
      workdir: of a run.
      step: a number, ``"latest"`` or ``"best"``.
      names: of its evaluations, or of others (`config_evals.with_evaluators`); none are
        all of its own.
      overrides: ``"--config.evals.knn.k=10"``.
      say: prints a line.

    Returns:
      The step, and results by name such as ``val/accuracy``.

    Raises:
      CheckpointError: there is no run or no such step.
      ConfigError: its data set is not there any more.
    """
    storage.prepare(workdir)
    folder = epath.Path(workdir).expanduser()
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{workdir}: no config.json; name a run's work directory")
    config = with_evaluators(
        from_json(json.loads((folder / "config.json").read_text())["config"]),
        names,
        overrides,
    )
    names = names or list(config.evals)
    facts = setup.describe_data(config)
    steps = setup.resolve_steps(config, setup_data.num_train_examples(config, facts))
    checkpoints = Checkpoints(
        folder / "checkpoints",
        keep=config.checkpoint.keep,
        best=config.checkpoint.best,
        read_only=True,
    )
    try:
        number = checkpoints.find(step)
        parts = setup.build_parts(config, steps, trains=False)
        with jax.set_mesh(parts.mesh):
            state, _ = checkpoints.restore(number, parts.state_shapes)
            evaluations = Evaluations(config, parts, steps, names=names)
            try:
                results: Scalars = {}
                for name in names:
                    results |= evaluations.run(name, state)
                    if bad := evaluations.take_bad(name):
                        say(f"{name}: {len(bad)} damaged left out, such as {bad[0]}")
                    for path in pictures.show(
                        folder, number, evaluations.take_images()
                    ):
                        say(f"{name}: {path}")
            finally:
                evaluations.close()
    finally:
        checkpoints.close()
    return number, results
