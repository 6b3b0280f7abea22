"""What a training step costs beside its computation, as a share of the step.

    python scripts/overhead.py --config=configs/digits.py

Runs the real loop's step (draw a prepared batch, step, note metrics, log as often as
the config says) and the bare jitted step on one resident batch, in turn, and prints
the medians and the share of the full step that is Python, data and logging.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax

from vit_jax import config as configs
from vit_jax import metrics, setup
from vit_jax.train import Pending, batches_from, due


def build_runs(
    config: Any, parts: setup.Parts, steps: setup.Steps, folder: pathlib.Path
) -> tuple[Callable[[int], float], Callable[[int], float], Callable[[], None]]:
    """Two timed runs of N steps, full and bare (seconds a step), and a clean-up."""
    progress = metrics.Progress(steps.total, config.train.batch_size, quiet=True)
    writer = metrics.create_writer(
        folder, tensorboard=config.log.tensorboard, progress=progress
    )
    feed = batches_from(config, parts, 0, 10**9)
    batches = feed.__enter__()
    held = next(batches)
    state = {"now": parts.init(), "step": 0}
    pending = Pending()
    rates = metrics.Rates(config.train.batch_size)

    def full(num_steps: int) -> float:
        start = time.perf_counter()
        for _ in range(num_steps):
            waiting = time.perf_counter()
            batch = next(batches)
            rates.step(time.perf_counter() - waiting)
            state["now"], values = parts.train_step(
                state["now"], parts.frozen, batch, parts.step_key
            )
            state["step"] += 1
            pending.add(state["step"], values)
            progress.advance(state["step"])
            if due(state["step"], steps.log_every):
                row = pending.take() | rates.scalars()
                writer.write_scalars(state["step"], row)
        jax.block_until_ready(state["now"])
        return (time.perf_counter() - start) / num_steps

    def bare(num_steps: int) -> float:
        start = time.perf_counter()
        for _ in range(num_steps):
            state["now"], values = parts.train_step(
                state["now"], parts.frozen, held, parts.step_key
            )
            values["loss"].block_until_ready()
        jax.block_until_ready(state["now"])
        return (time.perf_counter() - start) / num_steps

    def close() -> None:
        feed.__exit__(None, None, None)
        writer.close()

    return full, bare, close


def main() -> int:
    """Prints the table; exits 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="configs/digits.py")
    parser.add_argument("--steps", type=int, default=60, help="steps a repeat")
    parser.add_argument("--repeats", type=int, default=7)
    options, overrides = parser.parse_known_args()
    config = configs.load(options.config, overrides)
    facts = setup.describe_data(config)
    config = setup.resolve(config, facts)
    steps = setup.resolve_steps(config, setup.num_train_examples(config, facts))
    parts = setup.build_parts(config, steps)
    with tempfile.TemporaryDirectory() as folder, jax.set_mesh(parts.mesh):
        full, bare, close = build_runs(config, parts, steps, pathlib.Path(folder))
        full(25)  # compiles, and fills the cache of examples
        bare(5)
        pairs = [
            (full(options.steps), bare(options.steps)) for _ in range(options.repeats)
        ]
        close()
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
