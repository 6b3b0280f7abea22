"""What a training step costs beside its computation, as a share of the step.

    python scripts/overhead.py --config=configs/digits.py

Runs the real loop's step (draw a prepared batch, step, note metrics, log as often as
the config says) and the bare jitted step on one resident batch, in turn, and prints
the medians and the share of the full step that is Python, data and logging.
"""

import argparse
import contextlib
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath

from vit_jax import config as configs
from vit_jax import goodput, host_memory, setup, setup_data, train
from vit_jax.evaluations import due
from vit_jax.life import Life
from vit_jax.run import Run, exclusive, open_run
from vit_jax.stopping import Stop
from vit_jax.watchdog import Watchdog


def open_loop(
    config: Any, parts: setup.Parts, steps: setup.Steps, stack: contextlib.ExitStack
) -> tuple[Run, Any]:
    """What the real loop runs with, in a temporary work directory."""
    folder = epath.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    lock = stack.enter_context(exclusive(folder, None, print))
    watchdog = stack.enter_context(Watchdog(**config.train.watchdog, folder=folder))
    life = Life(goodput.Goodput(), watchdog, stack.enter_context(Stop()))
    return open_run(
        config,
        parts,
        steps,
        folder,
        life=life,
        lock=lock,
        source=None,
        say=print,
        stack=stack,
    )


def build_runs(
    run: Run, state: Any, batches: Iterator[Any]
) -> tuple[Callable[[int], float], Callable[[int], float]]:
    """Two timed runs of N steps, full and bare, in seconds a step."""
    parts = run.parts
    held = next(batches)
    now = {"state": state, "step": 0}

    def full(num_steps: int) -> float:
        start = time.perf_counter()
        for step in range(now["step"], now["step"] + num_steps):
            run.life.tick()
            with run.life.during("data"), run.life.stop.interruptible():
                batch = next(batches)
            now["state"] = train.advance(run, step, now["state"], batch)
            if due(step + 1, run.steps.log_every):
                now["state"] = train.log(run, step, now["state"])
        now["step"] += num_steps
        jax.block_until_ready(now["state"])
        return (time.perf_counter() - start) / num_steps

    def bare(num_steps: int) -> float:
        start = time.perf_counter()
        for _ in range(num_steps):
            now["state"], values = parts.train_step(
                now["state"], parts.frozen, held, parts.step_key
            )
            values["loss"].block_until_ready()
        jax.block_until_ready(now["state"])
        return (time.perf_counter() - start) / num_steps

    return full, bare


def main() -> int:
    """Prints the table; exits 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="configs/digits.py")
    parser.add_argument("--steps", type=int, default=60, help="steps a repeat")
    parser.add_argument("--repeats", type=int, default=7)
    options, overrides = parser.parse_known_args()
    host_memory.keep_freed()  # as `vit-jax train` does
    config = configs.load(options.config, overrides)
    facts = setup.describe_data(config)
    config = setup.resolve(config, facts)
    steps = setup.resolve_steps(config, setup_data.num_train_examples(config, facts))
    parts = setup.build_parts(config, steps)
    endless = dataclasses.replace(steps, total=10**9)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(parts.mesh))
        run, state = open_loop(config, parts, endless, stack)
        batches = stack.enter_context(train.batches_from(run))
        full, bare = build_runs(run, state, batches)
        full(25)  # compiles, and fills the cache of examples
        bare(5)
        pairs = [
            (full(options.steps), bare(options.steps)) for _ in range(options.repeats)
        ]
    full_ms = 1e3 * statistics.median(pair[0] for pair in pairs)
    bare_ms = 1e3 * statistics.median(pair[1] for pair in pairs)
    share = statistics.median((whole - part) / whole for whole, part in pairs)
    print(f"device                     {jax.devices()[0].device_kind}")
    print(f"full step                  {full_ms:8.2f} ms")
    print(f"bare jitted step           {bare_ms:8.2f} ms")
    print(f"Python, data and logging   {100 * share:8.1f} % of the full step")
    return 0


if __name__ == "__main__":
    sys.exit(main())
