"""Evaluation of a finished or running work directory."""

import json
from collections.abc import Callable

import jax
from etils import epath

from vit_jax import setup, storage
from vit_jax.checkpoint import CheckpointError, Checkpoints
from vit_jax.config import from_json
from vit_jax.evaluations import Evaluations, Scalars


def evaluate(
    workdir: str, *, step: str = "latest", say: Callable[[str], object] = print
) -> tuple[int, Scalars]:
    """Runs every evaluator of the run in ``workdir`` on one of its checkpoints.

    Args:
      workdir: of a run.
      step: a number, ``"latest"`` or ``"best"``.
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
    config = from_json(json.loads((folder / "config.json").read_text())["config"])
    facts = setup.describe_data(config)
    steps = setup.resolve_steps(config, setup.num_train_examples(config, facts))
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
            evaluations = Evaluations(config, parts, steps)
            try:
                results: Scalars = {}
                for name in config.evals:
                    results |= evaluations.run(name, state)
                    if bad := evaluations.take_bad(name):
                        say(f"{name}: {len(bad)} damaged left out, such as {bad[0]}")
            finally:
                evaluations.close()
    finally:
        checkpoints.close()
    return number, results
