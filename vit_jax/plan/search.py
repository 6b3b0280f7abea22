"""Choices of sharding, remat and accumulation that a config may be run with."""

import dataclasses
import itertools
import math
from typing import Any

from vit_jax.models.stack import REMAT
from vit_jax.plan.topology import Topology, axis_sizes, lays_out

_ACCUMULATE = (1, 2, 4, 8)
_TENSOR = (1, 2, 4)
_SIZES = 6


@dataclasses.dataclass(frozen=True)
class Choice:
    """A config, and the flags that make it from the one that was given."""

    config: Any
    overrides: tuple[str, ...]


def choices(config: Any, topology: Topology) -> list[Choice]:
    """Every choice that the batch and the model divide into, and the config as it is.

    Raises:
      ConfigError: there is none: the batch does not divide among the devices.
    """
    from vit_jax.config import ConfigError
    from vit_jax.models import variants

    slices = topology.slices if topology.chip.is_tpu else 1
    inside = topology.devices // slices
    try:
        model = variants.resolve(**config.model.to_dict())
    except ValueError as error:
        raise ConfigError(f"model.variant: {error}") from error
    found = []
    for (fsdp, tensor), remat, accumulate in itertools.product(
        _shardings(topology, inside, model["width"]), REMAT, _ACCUMULATE
    ):
        rows = config.train.batch_size
        parts = slices * inside // tensor
        if rows % (parts * accumulate):
            continue
        if model["num_heads"] % tensor or model["mlp_dim"] % tensor:
            continue
        data = inside // (fsdp * tensor)
        found.append(
            _change(
                config,
                {
                    "mesh.slices": slices,
                    "mesh.data": data,
                    "mesh.fsdp": fsdp,
                    "mesh.tensor": tensor,
                    "mesh.sequence": 1,
                    "model.remat": remat,
                    "train.accumulate": accumulate,
                },
            )
        )
    if not found:
        raise ConfigError(
            f"{topology}: train.batch_size {config.train.batch_size} does not divide "
            f"among {topology.devices} devices with any sharding; make it a multiple "
            "of that"
        )
    return found


def _shardings(topology: Topology, inside: int, width: int) -> list[tuple[int, int]]:
    """fsdp and tensor: no, some or all of the devices; tensor within the fast links.

    Where fsdp does not divide the model's width, parameters stay whole, for nothing.
    """
    sizes = axis_sizes(topology)
    if len(sizes) > _SIZES:  # no sides to go by: the ends, a host, and some between
        hosts = math.gcd(topology.fast, inside)
        widest = max(size for size in sizes if width % size == 0)
        sizes = sorted({1, 8, 32, hosts, widest} & set(sizes))
    return [
        (fsdp, tensor)
        for fsdp, tensor in itertools.product(sizes, _TENSOR)
        if inside % (fsdp * tensor) == 0
        and tensor <= topology.fast
        and width % fsdp == 0
        and lays_out(topology, (inside // (fsdp * tensor), fsdp, tensor))
    ]


def _change(config: Any, values: dict[str, Any]) -> Choice:
    """The config with these values, and flags for those that it did not have."""
    copy = config.copy_and_resolve_references()
    overrides = []
    with copy.unlocked():
        for key, value in values.items():
            section, _, name = key.rpartition(".")
            if copy[section][name] != value:
                overrides.append(f"--config.{key}={value}")
                copy[section][name] = value
    return Choice(copy.lock(), tuple(overrides))
