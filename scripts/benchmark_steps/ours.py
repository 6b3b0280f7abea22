"""The package's own train step for a cell, built as training builds it.

Model, objective, optimizer, shardings and step are the package's; only the config is
left out, which would need ml_collections.
"""

import dataclasses
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmark_steps.cells import Cell
from benchmark_steps.clock import Contender
from vit_jax import objectives, optim, sharding, train_state
from vit_jax.data import mixing
from vit_jax.models import vit
from vit_jax.objectives.base import split
from vit_jax.train_step import build_train_step

MEAN = STD = (0.5, 0.5, 0.5)
# Every parameter decays, which is what the peers' optimizers do by default.
OPTIM = {
    "name": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "decay_mask": "all",
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "mu_dtype": "float32",
    "nu_dtype": "float32",
    "clip_norm": 0.0,
    "layer_decay": 1.0,
}
SCHEDULE = {
    "name": "constant",
    "warmup_steps": 0,
    "cooldown_steps": 0,
    "final": 0.0,
    "timescale": 10_000,
}


def random_batch(cell: Cell, seed: int = 0) -> dict[str, np.ndarray]:
    """Pixels and labels, the same for every contender."""
    generator = np.random.default_rng(seed)
    shape = (cell.batch, cell.image_size, cell.image_size, 3)
    return {
        "image": generator.integers(0, 256, shape, np.uint8),
        "label": generator.integers(0, cell.num_classes, cell.batch, np.int32),
    }


def normalised(batch: dict[str, np.ndarray]) -> np.ndarray:
    """The images as the model takes them, for peers that do not normalise them."""
    pixels = batch["image"].astype(np.float32) / 255
    return (pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)


def build_optimizer() -> optax.GradientTransformation:
    """AdamW at a constant rate."""
    return optim.build(OPTIM, schedule_section=SCHEDULE, total_steps=1_000_000)[0]


def build_objective(cell: Cell, key: jax.Array) -> Any:
    """Classification with softmax."""
    encoder = vit.ViT(**cell.settings, key=key)
    section = {"name": "supervised", "loss": "softmax", "label_smoothing": 0.0}
    return objectives.build(section, encoder=encoder)


def init_objective(cell: Cell, key: jax.Array) -> tuple[Any, dict[str, Any]]:
    """Structure and fresh parameters, on one device."""
    graphdef, _, _ = split(nnx.eval_shape(lambda: build_objective(cell, key)))
    return graphdef, jax.jit(lambda key: split(build_objective(cell, key))[1])(key)


def build_prepare(cell: Cell, *, flip: bool) -> mixing.PrepareBatch:
    """Normalised images and one-hot labels; flipped where data are real."""
    return mixing.build_prepare(
        num_classes=cell.num_classes,
        mean=MEAN,
        std=STD,
        flip_images=flip,
        mixup_alpha=0.0,
        cutmix_alpha=0.0,
        mix_prob=1.0,
        mix_switch=0.5,
        mix_per="batch",
        erase_rate=0.0,
        erase_fill="noise",
    )


class OutOfMemoryError(Exception):
    """A program needs more memory than there is."""


@dataclasses.dataclass(frozen=True)
class Program:
    """The step of a cell, compiled, and what it needs.

    ``held["state"]`` is the state, which every step replaces.
    """

    batch_sharding: jax.sharding.Sharding
    held: dict[str, Any]
    step: Callable[..., Any]
    key: jax.Array
    flops_per_image: int
    num_params: int
    begun: float
    compile_seconds: float
    program_bytes: int | None


def build_program(
    cell: Cell, devices: Sequence[Any], *, flip: bool = False, seed: int = 0
) -> Program:
    """Shapes, shardings, compiled step, and the initial state if that has room.

    Raises:
      OutOfMemoryError: it has none, by what the compiler says.
    """
    begun = time.perf_counter()
    mesh = sharding.build_mesh(
        slices=1, data=-1, fsdp=1, tensor=1, sequence=1, devices=devices
    )
    rows, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    tx = build_optimizer()
    init_key, step_key = jax.random.split(jax.random.key(seed))

    def init(key: jax.Array) -> train_state.TrainState:
        _, params, _ = split(build_objective(cell, key))
        return train_state.create(params, tx, with_ema=False)

    with jax.set_mesh(mesh):
        objective = nnx.eval_shape(lambda: build_objective(cell, init_key))
        graphdef, _, _ = split(objective)
        shapes = jax.eval_shape(init, init_key)
        places = _shardings(shapes, mesh)
        step = build_train_step(
            graphdef,
            tx,
            prepare_batch=build_prepare(cell, flip=flip),
            accumulate=1,
            ema=0.0,
        )
        key = jax.device_put(step_key, everywhere)
        batch = jax.tree.map(lambda leaf: _placed(leaf, rows), batch_shapes(cell))
        compiling = time.perf_counter()
        compiled = (
            jax.jit(step, donate_argnums=0, out_shardings=(places, everywhere))
            .lower(jax.tree.map(_placed, shapes, places), {}, batch, key)
            .compile()
        )
        compile_seconds = time.perf_counter() - compiling
        needed, limit = program_bytes(compiled), memory_limit(devices[0])
        if needed and limit and needed > limit:
            raise OutOfMemoryError(
                f"out of memory: the program needs {needed / 2**30:.2f} GiB a device, "
                f"{limit / 2**30:.2f} are there"
            )
        state = jax.block_until_ready(train_state.init_sharded(init, init_key, places))
    return Program(
        batch_sharding=rows,
        held={"state": state},
        step=compiled,
        key=key,
        flops_per_image=objective.train_flops(),
        num_params=sum(leaf.size for leaf in jax.tree.leaves(shapes.params)),
        begun=begun,
        compile_seconds=compile_seconds,
        program_bytes=needed,
    )


def _placed(leaf: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def batch_shapes(cell: Cell) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of `random_batch`."""
    shape = (cell.batch, cell.image_size, cell.image_size, 3)
    return {
        "image": jax.ShapeDtypeStruct(shape, jnp.uint8),
        "label": jax.ShapeDtypeStruct((cell.batch,), jnp.int32),
    }


def _shardings(shapes: train_state.TrainState, mesh: Any) -> train_state.TrainState:
    params = sharding.param_shardings(shapes.params, mesh)
    opt_state = sharding.opt_state_shardings(
        shapes.opt_state, shapes.params, params, mesh
    )
    return train_state.TrainState(sharding.replicated(mesh), params, opt_state, {})


def program_bytes(compiled: Any) -> int | None:
    """What the compiler says that a program holds at most on a device."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
        + analysis.generated_code_size_in_bytes
    )


def build_ours(
    program: Program,
    batches: Iterator[dict[str, jax.Array]] | dict[str, np.ndarray],
    *,
    name: str = "ours",
) -> Contender:
    """A contender from a program; its first step is run here.

    Args:
      program: whose state it steps on with.
      batches: one batch for all steps, put on the devices, or a fresh one for each.
      name: in tables.
    """
    held, facts = program.held, {}
    if isinstance(batches, dict):
        resident = {
            key: jax.device_put(array, program.batch_sharding)
            for key, array in batches.items()
        }
        jax.block_until_ready(resident)

        def draw() -> dict[str, jax.Array]:
            return resident
    else:
        source = batches
        facts["data_wait_seconds"] = []

        def draw() -> dict[str, jax.Array]:
            asked = time.perf_counter()
            batch = next(source)
            facts["data_wait_seconds"].append(time.perf_counter() - asked)
            return {"image": batch["image"], "label": batch["label"]}

    def start() -> None:
        batch = draw()
        held["state"], metrics = program.step(held["state"], {}, batch, program.key)
        held["loss"] = metrics["loss"]

    def wait() -> None:
        jax.block_until_ready(held)

    start()
    wait()
    facts |= {
        "compile_seconds": program.compile_seconds,
        "first_step_seconds": time.perf_counter() - program.begun,
        "program_gib": _gib(program.program_bytes),
    }
    # More than are prefetched, where batches are fresh.
    least = 1 if isinstance(batches, dict) else 6
    return Contender(name, start, wait, facts, lambda: float(held["loss"]), least)


def _gib(size: int | None) -> float | None:
    return None if size is None else size / 2**30


def memory_peak(device: Any) -> tuple[int, str]:
    """The high-water mark in bytes, and of what: the device, or the whole process."""
    stats = device.memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "device"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "process"


def memory_limit(device: Any) -> int | None:
    """Bytes that a program may take: of the device, or what the host has left."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    info = Path("/proc/meminfo")
    if device.platform != "cpu" or not info.exists():
        return None
    for line in info.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
