"""Tiny runs on digits for the tests of training; the data are prepared once."""

import atexit
import dataclasses
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import jax
import numpy as np

from tests import flags as xla_flags
from tests.models import tiny
from vit_jax import setup, sharding
from vit_jax.config import load

ROOT = pathlib.Path(__file__).resolve().parents[1]
DIGITS = str(ROOT / "configs" / "digits.py")
TINY = (
    "model.width=16",
    "model.depth=2",
    "model.num_heads=2",
    "train.batch_size=16",
    "train.duration.steps=8",
    "schedule.warmup.steps=2",
    "log.every.steps=1",
    "checkpoint.every.steps=4",
    "evals.val.every.steps=4",
    "log.tensorboard=False",
    "log.figures=False",
)


def environment(devices=1):
    """What a subprocess runs with: as the tests, with fewer devices."""
    flags = xla_flags.on_devices(devices)
    return os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}


def command(*arguments):
    """The command line of vit-jax in this interpreter."""
    return [sys.executable, "-m", "vit_jax.cli", *map(str, arguments)]


@functools.cache
def digits_dir():
    """A data directory that holds digits; TensorFlow stays out of this process."""
    folder = tempfile.mkdtemp(prefix="digits-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run(
        command("prepare", "digits", f"--data_dir={folder}"),
        env=environment(),
        check=True,
        capture_output=True,
    )
    return folder


def flags(*changes):
    """TINY and changes such as "train.ema=0.9" as command-line arguments."""
    merged = dict(text.split("=", 1) for text in (*TINY, *changes))
    merged.setdefault("data.dir", digits_dir())
    return [f"--config.{key}={value}" for key, value in merged.items()]


def train_arguments(workdir, *changes):
    """Arguments of `vit-jax` that train the tiny model."""
    return ["train", f"--config={DIGITS}", f"--workdir={workdir}", *flags(*changes)]


def tiny_config(*changes):
    """The digits config with the tiny model, the number of classes resolved."""
    return load(DIGITS, flags(*changes))


AVERAGED = "train.ema=0.9"  # tests whose runs have the same step compile it once


@functools.cache
def finished():
    """A finished run of AVERAGED: its folder, result and what it said.

    It is there for every test of this process, so nobody may change it.
    """
    from vit_jax.train import train

    place = tempfile.mkdtemp(prefix="finished-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    folder, said = pathlib.Path(place) / "run", []
    result = train(tiny_config(AVERAGED), str(folder), say=said.append)
    return folder, result, "\n".join(map(str, said))


def build(config, devices=None, total=8):
    """Parts of a tiny run, on some devices."""
    steps = setup.Steps(
        total=total,
        warmup=0,
        cooldown=0,
        checkpoint_every=4,
        log_every=1,
        eval_every={},
    )
    parts = setup.build_parts(config, steps, devices=devices)
    return dataclasses.replace(parts, train_step=quickly(parts.train_step))


def quickly(step):
    """A jitted function, compiled without LLVM's optimisations: it runs a few times."""
    compiled = []

    def run(*arguments):
        if not compiled:
            lowered = step.lower(*arguments)
            compiled.append(lowered.compile(compiler_options=tiny.FAST))
        return compiled[0](*arguments)

    return run


def batch(parts, rows=16, seed=0, shape=(8, 8, 1)):
    """A batch of random images, laid out over the mesh."""
    rng = np.random.default_rng(seed)
    arrays = {
        "image": rng.integers(0, 256, (rows, *shape), dtype=np.uint8),
        "label": rng.integers(0, 10, (rows,), dtype=np.int32),
    }
    return jax.device_put(arrays, sharding.batch_sharding(parts.mesh))


def host(tree):
    """A copy in numpy that outlives donation."""
    return jax.tree.map(np.array, jax.device_get(tree))


def run_steps(parts, count, *, state=None, fixed=False):
    """Runs steps; returns the last state, losses and all metrics."""
    rows = []
    with jax.set_mesh(parts.mesh):
        state = parts.init() if state is None else state
        for step in range(count):
            given = batch(parts, seed=0 if fixed else step)
            state, metrics = parts.train_step(
                state, parts.frozen, given, parts.step_key
            )
            rows.append(host(metrics))
    return state, [float(row["loss"]) for row in rows], rows


def same_bits(left, right):
    """Whether two trees hold the same arrays, bit for bit."""
    left, right = jax.tree.leaves(host(left)), jax.tree.leaves(host(right))
    return len(left) == len(right) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(left, right, strict=True)
    )
