"""A process that restores damaged copies of a checkpoint, one after another.

Reads ``{"directory": ...}`` a line on its input, answers ``{"kind": ..., ...}`` a line.
A crash or a hang of the reader is then the end of this process, not of the script.
"""

import argparse
import json
import os
import pathlib
import sys
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from . import compare

STEPS = (5, 10, 15)
READERS = ("vit_jax", "orbax")


def evaluations_of(step: int) -> dict[str, float]:
    """What is saved beside the arrays of a step."""
    return {"val/accuracy": step / 64, "val/loss": 1 / step}


def abstract_state() -> Any:
    """Shapes of the whole state of the chaos config, and one such state."""
    from vit_jax import config as configs
    from vit_jax import setup

    from .runs import CONFIG

    config = configs.load(str(CONFIG), [])
    steps = setup.Steps(
        total=60,
        warmup=0,
        cooldown=0,
        checkpoint_every=5,
        log_every=1,
        eval_every={},
    )
    parts = setup.build_parts(config, steps)
    with jax.set_mesh(parts.mesh):
        return parts.state_shapes, parts.init()


def state_at(step: int, state: Any) -> Any:
    """A state for a step: random numbers in all the arrays."""
    rng = np.random.default_rng(step)

    def fill(leaf: jax.Array) -> jax.Array:
        if np.issubdtype(leaf.dtype, np.integer):
            return jax.device_put(np.full(leaf.shape, step, leaf.dtype), leaf.sharding)
        numbers = rng.standard_normal(leaf.shape).astype(leaf.dtype)
        return jax.device_put(numbers, leaf.sharding)

    return jax.tree.map(fill, state)


class Vit:
    """vit_jax's own checkpoints."""

    def __init__(self, directory: pathlib.Path):
        from vit_jax.checkpoint import Checkpoints

        self._checkpoints = Checkpoints(
            directory, keep=len(STEPS), best="", say=lambda *_: None
        )

    def save(self, step: int, state: Any) -> None:
        self._checkpoints.save(step, state, evaluations_of(step))
        self._checkpoints.wait()

    def restore(self, shapes: Any) -> tuple[int, Any, dict[str, float]] | None:
        found = self._checkpoints.restore_latest(shapes)
        return None if found is None else (found[0], found[1], found[2])

    def close(self) -> None:
        self._checkpoints.close()


class Orbax:
    """Plain orbax, used as its documentation says."""

    def __init__(self, directory: pathlib.Path):
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=len(STEPS)),
        )

    def save(self, step: int, state: Any) -> None:
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(state),
                meta=ocp.args.JsonSave({"evaluations": evaluations_of(step)}),
            ),
        )
        self._manager.wait_until_finished()

    def restore(self, shapes: Any) -> tuple[int, Any, dict[str, float]] | None:
        step = self._manager.latest_step()
        if step is None:
            return None
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    shapes,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(shapes),
                ),
                meta=ocp.args.JsonRestore(),
            ),
        )
        return step, restored["state"], restored["meta"]["evaluations"]

    def close(self) -> None:
        self._manager.close()


def judge(found: Any, truth: dict[int, dict[str, np.ndarray]]) -> dict[str, Any]:
    """What a restore came to, against what was saved."""
    if found is None:
        return {"kind": "nothing restored"}
    step, state, evaluations = found
    newest = max(truth)
    if step not in truth:
        return {"kind": "SILENTLY WRONG", "detail": f"step {step} was never saved"}
    different = compare.array_differences(compare.flat(state), truth[step])
    if evaluations != evaluations_of(step):
        different.append("evaluations")
    if different:
        return {"kind": "SILENTLY WRONG", "detail": f"step {step}: {different[:3]}"}
    return {"kind": "right newest" if step == newest else "fell back", "step": step}


def restore(reader: str, directory: pathlib.Path, shapes: Any, truth: Any) -> dict:
    """One restore of a directory that may be damaged."""
    checkpoints: Any = None
    try:
        checkpoints = {"vit_jax": Vit, "orbax": Orbax}[reader](directory)
        found = checkpoints.restore(shapes)
    except Exception as error:
        text = f"{type(error).__name__}: {str(error)[:300]}"
        return {"kind": "restore failed", "detail": text}
    finally:
        if checkpoints is not None:
            checkpoints.close()
    return judge(found, truth)


def main() -> None:
    """Makes the undamaged directory, or answers for damaged ones."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--reader", choices=READERS, required=True)
    parser.add_argument("--make", type=pathlib.Path)
    options = parser.parse_args()
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    shapes, state = abstract_state()
    states = {step: state_at(step, state) for step in STEPS}
    if options.make:
        checkpoints: Any = {"vit_jax": Vit, "orbax": Orbax}[options.reader](
            options.make
        )
        for step, saved in states.items():
            checkpoints.save(step, saved)
        checkpoints.close()
        return
    truth = {step: compare.flat(saved) for step, saved in states.items()}
    answers.write(json.dumps({"kind": "ready"}) + "\n")
    answers.flush()
    for line in sys.stdin:
        directory = pathlib.Path(json.loads(line)["directory"])
        answer = restore(options.reader, directory, shapes, truth)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
