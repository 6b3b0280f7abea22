"""The digits job beside a plain torch loop over a timm ViT of the same sizes.

    python scripts/benchmark_digits.py               # training steps, interleaved
    python scripts/benchmark_digits.py --whole       # and both jobs from end to end

Ours is the real loop of configs/digits.py: batches drawn and shifted by the loader, the
step, metrics and logging. The other is what one writes by hand: shifts, mixup, label
smoothing, AdamW and the cosine schedule, in torch. The two take turns; ratios are taken
turn by turn. Needs torch and timm.
"""

import argparse
import contextlib
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
from overhead import build_runs, open_loop
from plain_timm import Plain, load

from vit_jax import host_memory, setup, train

CONFIG = "configs/digits.py"


def time_steps(
    config: Any, steps: setup.Steps, *, num_steps: int, repeats: int
) -> list[tuple[float, float, float]]:
    """Seconds a step of ours, of ours without data and logging, and of the other."""
    parts = setup.build_parts(config, steps)
    endless = dataclasses.replace(steps, total=10**9)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(parts.mesh))
        run, state = open_loop(config, parts, endless, stack)
        batches = stack.enter_context(train.batches_from(run))
        full, bare = build_runs(run, state, batches)
        plain = Plain(config, steps.total, steps.warmup)
        turns: list[Callable[[int], float]] = [full, bare, plain.train]
        for turn in turns:
            turn(num_steps)  # compiles, and fills caches
        return [
            (turns[0](num_steps), turns[1](num_steps), turns[2](num_steps))
            for _ in range(repeats)
        ]


def time_whole(config: Any, steps: setup.Steps) -> None:
    """Both jobs from a new process to the last evaluation, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = (sys.executable, "-m", "vit_jax.cli", "train")
        subprocess.run(
            [*command, f"--config={CONFIG}", f"--workdir={folder}"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        ours = time.perf_counter() - started
    program = "import plain_timm as it; it.run('configs/digits.py', [])"
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=sys.path[0],
    )
    plain = time.perf_counter() - started
    print(f"whole job, ours            {ours:8.1f} s, {steps.total} steps")
    print(f"whole job, timm and torch  {plain:8.1f} s, {done.stdout.strip()}")
    print(f"ours / timm                {ours / plain:8.2f} times as long")


def main() -> int:
    """Prints the table; exits 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="steps a turn")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--whole", action="store_true", help="both jobs as well")
    options = parser.parse_args()
    host_memory.keep_freed()  # as `vit-jax train` does; for both of them
    config, steps = load(CONFIG, [])
    rounds = time_steps(config, steps, num_steps=options.steps, repeats=options.repeats)
    full, bare, plain = (
        1e3 * statistics.median(times) for times in zip(*rounds, strict=True)
    )
    ratios = sorted(ours / theirs for ours, _, theirs in rounds)
    print(f"ours, the whole loop       {full:8.2f} ms a step")
    print(f"ours, the jitted step      {bare:8.2f} ms")
    print(f"timm in a plain torch loop {plain:8.2f} ms")
    print(
        f"ours / timm                {statistics.median(ratios):8.2f} times as long "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    if options.whole:
        time_whole(config, steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
