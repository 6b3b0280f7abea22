"""Runs steps of which some are poisoned, and prints what each did to the state.

One JSON object a poisoned step: whether anything but the counter changed. The last
line says how many of the other steps changed the parameters, which all must.
"""

import argparse
import json
import sys
from typing import Any

import jax
import numpy as np

from . import compare
from .driver import Plan, poisoning, with_poison
from .runs import CONFIG


def build(total: int) -> Any:
    """The parts of the chaos config, with a step that takes poison."""
    from vit_jax import config as configs
    from vit_jax import setup

    from .driver import patch

    patch(setup, "build_prepare", poisoning)
    steps = setup.Steps(
        total=total,
        warmup=10,
        cooldown=0,
        checkpoint_every=total,
        log_every=1,
        eval_every={},
    )
    return setup.build_parts(configs.load(str(CONFIG), []), steps)


def random_batch(parts: Any, step: int) -> dict[str, jax.Array]:
    """Images and labels of one step."""
    from vit_jax import sharding

    rng = np.random.default_rng(step)
    arrays = {
        "image": rng.integers(0, 256, (16, 8, 8, 1), dtype=np.uint8),
        "label": rng.integers(0, 10, 16, dtype=np.int32),
    }
    return jax.device_put(arrays, sharding.batch_sharding(parts.mesh))


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> list[str]:
    """Arrays that differ, the counter of steps left out."""
    different = compare.array_differences(after, before)
    return [name for name in different if name != ".step"]


def main() -> None:
    """Runs all steps; ``--poison=STEP:VALUE`` any number of times."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--poison", action="append", default=[])
    options = parser.parse_args()
    plan = Plan()
    for text in options.poison:
        step, value = text.split(":")
        plan.poison[int(step)] = float(value)
    parts = build(options.steps)
    still = 0
    with jax.set_mesh(parts.mesh):
        state = parts.init()
        for step in range(1, options.steps + 1):
            before = compare.flat(jax.device_get(state))
            batch = with_poison(random_batch(parts, step), plan.poison.get(step, 0.0))
            state, metrics = parts.train_step(
                state, parts.frozen, batch, parts.step_key
            )
            after = compare.flat(jax.device_get(state))
            moved = changed(before, after)
            if step not in plan.poison:
                # Warm-up begins at a rate of 0: the first update moves nothing.
                still += step > 1 and not any("params" in name for name in moved)
                continue
            answer = {
                "step": step,
                "changed": moved,
                "counter": int(after[".step"]) - int(before[".step"]),
                "loss": str(metrics["loss"]),
            }
            print(json.dumps(answer), flush=True)
    print(json.dumps({"still": still}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
