"""What checkpoints cost: the stall of a save, the digests, the work in the background.

    python scripts/checkpoint_cost.py --config=configs/vit_s16_i1k.py

Makes the state of the config's model and optimizer, saves it several times as training
does, and prints medians. The stall is compared with a bare copy of the state off the
devices. An epoch of training, the default interval, is timed by --step_seconds, or by
steps of --batch_size random images; the share holds for that speed, and the last line
says how fast training would have to be for the share to reach one percent.
"""

import argparse
import statistics
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import config as configs
from vit_jax import digest, setup, setup_data
from vit_jax.checkpoint import Checkpoints

IMAGENET = 1_281_167


def copy_off(state: Any) -> float:
    """Seconds of a copy of every array into the host's memory."""
    start = time.perf_counter()
    copies = [np.array(leaf) for leaf in jax.tree.leaves(state)]
    del copies
    return time.perf_counter() - start


def digest_all(state: Any) -> float:
    """Seconds of the digests on the devices."""
    start = time.perf_counter()
    digest.as_texts(digest.start(state))
    return time.perf_counter() - start


def update_once(state: Any, update: Any) -> tuple[Any, float]:
    """The next state, which takes the place of this one, and seconds."""
    start = time.perf_counter()
    state = jax.block_until_ready(update(state))
    return state, time.perf_counter() - start


def save_once(checkpoints: Checkpoints, step: int, state: Any, update: Any) -> Any:
    """The next state; seconds and CPU seconds of the stall, the write, the check.

    The stall is what the loop loses: until `save` returns, and what the next update
    takes longer than others. A CPU's arrays need no copy off the device; there it is
    the update after the save that copies, as it may not write where a save still reads.
    """
    clock, cpu = [time.perf_counter()], [time.process_time()]

    def lap() -> None:
        clock.append(time.perf_counter())
        cpu.append(time.process_time())

    checkpoints.save(step, state, {})
    state, _ = update_once(state, update)
    lap()
    checkpoints.wait(verified=False)
    lap()
    checkpoints.wait()
    lap()
    seconds, cpu_seconds = np.diff(clock), np.diff(cpu)
    usual = []
    for _ in range(3):
        state, took = update_once(state, update)
        usual.append(took)
    seconds[0] -= statistics.median(usual)
    return state, seconds, cpu_seconds


def seconds_per_image(parts: setup.Parts, config: Any, batch_size: int) -> float:
    """Training time of an image, by a few steps on random images."""
    height, width = setup_data.image_size(config)
    images = np.zeros((batch_size, height, width, config.model.channels), np.uint8)
    labels = np.zeros(batch_size, np.int32)
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
    state, times = parts.init(), []
    for _ in range(4):
        start = time.perf_counter()
        state, values = parts.train_step(state, parts.frozen, batch, parts.step_key)
        jax.block_until_ready((state, values))
        times.append(time.perf_counter() - start)
    return min(times[1:]) / batch_size


def main() -> int:
    """Prints the table; exits 0 if the share of an epoch is under one percent."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="configs/vit_s16_i1k.py")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=8, help="to time training")
    parser.add_argument("--step_seconds", type=float, help="of a step of the config")
    parser.add_argument("--examples", type=int, default=IMAGENET, help="in an epoch")
    parser.add_argument("--dir", help="where to save; a temporary folder by default")
    options, overrides = parser.parse_known_args()
    config = configs.load(options.config, overrides)
    steps = setup.resolve_steps(config, options.examples)
    parts = setup.build_parts(config, steps)
    rows, laps, cpu = [], [], []
    with (
        tempfile.TemporaryDirectory(dir=options.dir) as folder,
        jax.set_mesh(parts.mesh),
    ):
        state = parts.init()
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        update = jax.jit(
            lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0
        )
        checkpoints = Checkpoints(folder)
        # Compiles, imports and starts threads.
        state, _, _ = save_once(checkpoints, 1, update(state), update)
        digest_all(state)
        for step in range(2, 2 + options.repeats):
            rows.append((copy_off(state), digest_all(state)))
            state, clock_laps, cpu_laps = save_once(checkpoints, step, state, update)
            laps.append(clock_laps)
            cpu.append(cpu_laps)
        checkpoints.close()
        del state
        epoch = options.examples / config.train.batch_size
        image = (options.step_seconds or 0) / config.train.batch_size
        if not options.step_seconds:
            image = seconds_per_image(parts, config, options.batch_size)
    copy, digests = (statistics.median(column) for column in zip(*rows, strict=True))
    stall, write, verify = np.median(laps, axis=0)
    more = statistics.median(
        lap[0] - row[0] for lap, row in zip(laps, rows, strict=True)
    )
    _, write_cpu, verify_cpu = np.median(cpu, axis=0)
    wall = image * options.examples
    share = 100 * stall / wall
    print(f"device                       {jax.devices()[0].device_kind}")
    print(f"state                        {size / 2**20:10.1f} MiB")
    print(f"copy off the devices, bare   {copy:10.3f} s")
    print(f"digests on the devices       {digests:10.3f} s")
    print(f"stall of a save, digests in  {stall:10.3f} s")
    print(f"  more than the copy         {more:10.3f} s")
    print(f"until committed, background  {write:10.3f} s, {write_cpu:.3f} CPU-s")
    print(f"read back and verified       {verify:10.3f} s, {verify_cpu:.3f} CPU-s")
    print(
        f"an epoch: {epoch:,.0f} steps of {config.train.batch_size} images at "
        f"{1 / image:,.1f} images/s, {wall:,.0f} s"
    )
    print(f"stall, one save an epoch     {share:10.5f} % of wall time")
    limit = options.examples / (100 * stall)
    print(f"one percent is reached at    {limit:10,.0f} images/s")
    return 0 if share < 1 else 1


if __name__ == "__main__":
    sys.exit(main())
