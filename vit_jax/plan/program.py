"""A config as the program that would train it, on devices that need not be there.

Built by the functions of `setup`, as training is. They come in when they are called, so
that the package's tables can be read without ml_collections.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from vit_jax import sharding
from vit_jax.models.attention_choice import Hardware
from vit_jax.plan.chips import Chip
from vit_jax.plan.topology import Topology, axis_sizes, lays_out

# Examples and classes of data sets that people plan for before they have them, so that
# a plan tells days. As commonly published; a data set that is there is asked.
_KNOWN: dict[str, tuple[int, dict[str, int]]] = {
    "digits": (10, {"train": 1_437, "test": 360}),
    "imagenet2012": (1000, {"train": 1_281_167, "validation": 50_000}),
    "imagenet21k": (21_843, {"full": 14_197_122}),
    "jft_300m": (18_291, {"train": 303_000_000}),
    "places365_small": (
        365,
        {"train": 1_803_460, "validation": 36_500, "test": 328_500},
    ),
    "food101": (101, {"train": 75_750, "validation": 25_250}),
    "cifar10": (10, {"train": 50_000, "test": 10_000}),
    "cifar100": (100, {"train": 50_000, "test": 10_000}),
    "mnist": (10, {"train": 60_000, "test": 10_000}),
    "fashion_mnist": (10, {"train": 60_000, "test": 10_000}),
    "oxford_iiit_pet": (37, {"train": 3_680, "test": 3_669}),
    "oxford_flowers102": (
        102,
        {"train": 1_020, "validation": 1_020, "test": 6_149},
    ),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """A config that is complete, what it runs on, and how long it trains.

    Args:
      config: resolved.
      steps: its durations.
      total: steps of training; None where the number of examples is not known.
      topology: decides on kernels.
    """

    config: Any
    steps: Any
    total: int | None
    topology: Topology


def prepare(config: Any, topology: Topology) -> Job:
    """Completes and checks a config for so many devices, without its data.

    Raises:
      ConfigError: it cannot train there, or lacks what the data set would have told.
    """
    from vit_jax import setup, setup_data
    from vit_jax.config import ConfigError, check
    from vit_jax.config_check_model import check_attention
    from vit_jax.objectives import mask_of

    facts = describe(config)
    problems = check(config, facts=facts, num_devices=topology.devices)
    chip = topology.chip
    problems += check_attention(
        config.model,
        Hardware(platform(chip), chip.name),
        mask=mask_of(config.objective.get("name")),
    )
    slices = config.mesh.slices
    if topology.slices > 1 and topology.chip.is_tpu and slices != topology.slices:
        problems.append(
            f"mesh.slices is {slices}, but {topology} has {topology.slices}: set "
            f"--config.mesh.slices={topology.slices}"
        )
    if not problems:
        problems += _check_layout(config, topology)
    if facts is None and config.model.num_classes is None:
        problems.append(
            f"data set {config.data.name!r} is not here to tell its number of classes: "
            "set --config.model.num_classes=N"
        )
    if config.model.variant == "source":
        problems.append(
            "model.variant 'source' has the sizes of the weights in model.init_from: "
            "to plan, name the variant, such as --config.model.variant=B/16"
        )
    if problems:
        raise ConfigError([f"{topology}: {problem}" for problem in problems])
    resolved = setup.resolve(config, facts) if facts else config
    if facts is not None:
        steps = setup.resolve_steps(
            resolved, setup_data.num_train_examples(config, facts)
        )
        return Job(resolved, steps, steps.total, topology)
    # Epochs of whatever length: the program is the same.
    steps = setup.resolve_steps(resolved, 1_000_000)
    known = resolved.train.duration.epochs is None
    return Job(resolved, steps, steps.total if known else None, topology)


def _check_layout(config: Any, topology: Topology) -> list[str]:
    sizes = mesh_sizes(config, topology.devices)
    if topology.chip.kind == "v5e" and topology.slices == 1:
        return []  # where JAX takes parts of sides as well
    if lays_out(topology, [sizes[axis] for axis in sizes if axis != "slices"]):
        return []
    text = ", ".join(f"{axis}={size}" for axis, size in sizes.items() if size > 1)
    sides = " x ".join(map(str, topology.shape))
    return [
        f"mesh {text} cannot be laid out on {sides} chips: each axis takes whole "
        f"sides; its size is one of {', '.join(map(str, axis_sizes(topology)))}"
    ]


def describe(config: Any) -> Any:
    """`DatasetFacts`: of a well-known set by name, else as it says; None if unknown."""
    from vit_jax import setup_data
    from vit_jax.data import sources
    from vit_jax.data.errors import DataError
    from vit_jax.data.facts import DatasetFacts

    spec = setup_data.data_spec(config)
    kind, rest = spec.kind, spec.rest
    name = rest.partition(":")[0].partition("/")[0]
    if kind in ("", "tfrecord") and name in _KNOWN:
        classes, splits = _KNOWN[name]
        return DatasetFacts(
            name=config.data.name,
            path="",
            version="",
            file_format="",
            splits=splits,
            shards={},
            num_classes=classes,
            class_names=None,
            features=(config.data.image_key, config.data.label_key),
        )
    try:
        return sources.describe(spec)
    except DataError:
        return None


def make_mesh(axes: Mapping[str, int], chip: Chip) -> AbstractMesh:
    """A mesh of no devices in particular, but of a kind: attention asks for it."""
    device = AbstractDevice(
        device_kind=chip.name, num_cores=None, platform=platform(chip)
    )
    return AbstractMesh(
        tuple(axes.values()),
        tuple(axes),
        axis_types=(AxisType.Auto,) * len(axes),
        abstract_device=device,
    )


def platform(chip: Chip) -> str:
    """As JAX names it."""
    return "tpu" if chip.is_tpu else "gpu"


def mesh_sizes(config: Any, devices: int) -> dict[str, int]:
    """Devices along each axis, with -1 filled in; the config has been checked."""
    sizes = {axis: config.mesh[axis] for axis in sharding.AXES}
    known = 1
    for size in sizes.values():
        known *= size if size != -1 else 1
    return {
        axis: devices // known if size == -1 else size for axis, size in sizes.items()
    }


def build(
    job: Job, *, devices: Any = None, mesh: Any = None
) -> tuple[Any, dict[str, Any]]:
    """`setup.Parts` and a batch, in shapes that carry their shardings."""
    from vit_jax import setup

    parts = setup.build_parts(
        job.config, job.steps, devices=devices, mesh=mesh, place=False
    )
    return parts, batch_shapes(job.config, job.config.train.batch_size, parts.mesh)


def batch_shapes(config: Any, rows: int, mesh: Any = None) -> dict[str, Any]:
    """What the loader hands to the step, on a mesh or nowhere."""
    from vit_jax import setup_data, teachers

    place = None if mesh is None else sharding.batch_sharding(mesh)
    views = config.data.augment.views
    shape = (*((views,) if views > 1 else ()), *setup_data.image_size(config))
    return {
        "image": jax.ShapeDtypeStruct(
            (rows, *shape, config.model.channels), jnp.uint8, sharding=place
        ),
        "label": jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=place),
        **teachers.batch_shapes(config, rows, place),
    }
