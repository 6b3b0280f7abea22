"""What devices send each other in a step, and how long a step may take: predictions.

Neither is measured. Traffic follows from the shardings; a compiler may do otherwise.
Times are a bracket of about 3 times, good for ranking choices.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from vit_jax.plan.hlo import sent_bytes
from vit_jax.plan.kept import overlapped
from vit_jax.plan.program import mesh_sizes
from vit_jax.plan.shapes import Program, device_bytes, rows_a_device
from vit_jax.plan.topology import Topology

# Share of a chip's peak that a ViT step reaches: published ones are between 16 % (a
# plain JAX ViT-B/16 on H100) and about 60 %.
BEST, WORST = 0.6, 0.2

# Products of a block that remat does again, of queries with keys, of weights with
# values, and of all else but the MLP's last, whose result nothing asks for.
_AGAIN = {
    "none": (0, 0, 0),
    "elementwise": (0, 0, 0),
    "attention": (1, 0, 0),
    "dots": (1, 1, 0),
}
_ALL_AGAIN = (1, 1, 1)
_ONLY_INPUTS = ("full", "offload")  # policies that keep nothing else of a block


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes that a device sends a step.

    Args:
      gather: of parameters that are split.
      reduce: of gradients, inside a slice.
      tensor: of activations, between the parts of a layer.
      sequence: of keys and values, between parts of the tokens.
      across: of gradients, between slices.
      mixing: of images, a row to the next device, which mixup and cutmix want.
    """

    gather: float
    reduce: float
    tensor: float
    sequence: float
    across: float
    mixing: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(dataclasses.astuple(self))


def traffic(program: Program, config: Any, devices: int) -> Traffic:
    """What follows from the shardings, each micro-batch on its own."""
    axes = mesh_sizes(config, devices)
    params = program.sharded(axes).params
    width = 2 if config.model.dtype == "bfloat16" else 4
    summed = 4 if config.model.gradient_dtype == "float32" else width
    parts = axes["data"] * axes["fsdp"]
    in_parts = overlapped(program, config, axes)
    gather = reduce = across = 0.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        # The head and its gradient are in float32.
        is_head = "'head" in jax.tree_util.keystr(path)
        is_split = any("fsdp" in (axis, *_names(axis)) for axis in leaf.sharding.spec)
        over_fsdp = axes["fsdp"] if is_split else 1
        size = over_fsdp * math.prod(leaf.sharding.shard_shape(leaf.shape))
        given, sums = (4, 4) if is_head else (width, summed)
        if is_split and in_parts and "blocks" in jax.tree_util.keystr(path):
            # Rings that send two parts more than they need, for the sum as well.
            gather += 2 * given * size * (parts + 1) / parts
            reduce += sums * size * (parts + 1) / parts
        else:
            if is_split:  # forward, and again backward
                gather += 2 * sent_bytes("all-gather", given * size, axes["fsdp"])
            reduce += sent_bytes("all-reduce", sums * size, parts * axes["sequence"])
        size *= sums
        across += sent_bytes("all-reduce", size / over_fsdp, axes["slices"])
    times = config.train.accumulate
    return Traffic(
        gather=times * gather,
        reduce=times * reduce,
        tensor=_tensor(config, axes),
        sequence=_sequence(config, axes),
        across=times * across,
        mixing=_mixing(config, parts * axes["slices"]),
    )


def _mixing(config: Any, parts: int) -> float:
    """A row of images and labels, in float32, on the way to the next part."""
    from vit_jax import setup_data

    section = config.data.augment
    if parts == 1 or not (section.mixup or section.cutmix):
        return 0.0
    pixels = (
        section.views * math.prod(setup_data.image_size(config)) * config.model.channels
    )
    return 4.0 * (pixels + config.model.num_classes)


def _names(axis: Any) -> tuple[str, ...]:
    return axis if isinstance(axis, tuple) else ()


def _tensor(config: Any, axes: Mapping[str, int]) -> float:
    """After attention and MLP, forward and backward, and again with full remat."""
    if axes["tensor"] == 1:
        return 0.0
    passes = 6 if config.model.remat in _ONLY_INPUTS else 4
    size = _tokens(config, axes) / axes["sequence"]
    return _depth(config) * passes * sent_bytes("all-reduce", size, axes["tensor"])


def _sequence(config: Any, axes: Mapping[str, int]) -> float:
    """Keys and values, gathered forward and backward; their gradients are summed."""
    size, group = _tokens(config, axes) / axes["tensor"], axes["sequence"]
    once = 2 * sent_bytes("all-gather", size, group)
    once += sent_bytes("all-reduce", size, group)
    return _depth(config) * 2 * once


def _tokens(config: Any, axes: Mapping[str, int]) -> float:
    """Bytes of all patches' tokens of a device's rows."""
    from vit_jax.models import variants

    model = variants.resolve(**config.model.to_dict())
    patches = math.prod(
        side // patch
        for side, patch in zip(model["image_size"], model["patch_size"], strict=True)
    )
    item = 2 if model["dtype"] == "bfloat16" else 4
    return item * rows_a_device(config, axes) * patches * model["width"]


def _depth(config: Any) -> int:
    from vit_jax.models import variants

    return variants.resolve(**config.model.to_dict())["depth"]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Seconds a step, a wide bracket.

    Args:
      low: compute at `BEST`, all traffic hidden behind it.
      high: compute at `WORST`, no traffic hidden.
      compute: the operations at the chip's peak.
      fast: traffic over the links inside a slice or host.
      slow: traffic between slices or hosts.
      state: reading and writing the state once.
    """

    low: float
    high: float
    compute: float
    fast: float
    slow: float
    state: float


def operations(program: Program, config: Any, devices: int) -> float:
    """FLOPs of a device in a step, with what remat does again."""
    once = program.flops_per_image * config.train.batch_size / devices
    return once * (1 + _again(config))


def _again(config: Any) -> float:
    """FLOPs that remat does again, as a share of the blocks' forward and backward."""
    from vit_jax.models import variants

    model = variants.resolve(**config.model.to_dict())
    width, mlp_dim = model["width"], model["mlp_dim"]
    patches = math.prod(
        side // patch
        for side, patch in zip(model["image_size"], model["patch_size"], strict=True)
    )
    product = patches * width  # multiply-adds a token of queries with keys
    last = width * mlp_dim
    rest = 4 * width**2 + (2 if model["mlp"] == "swiglu" else 1) * last
    done = _AGAIN.get(model["remat"], _ALL_AGAIN)
    again = done[0] * product + done[1] * product + done[2] * rest
    return again / (3 * (2 * product + rest + last))


def predict(program: Program, config: Any, topology: Topology) -> Prediction:
    """The bracket of a step's time."""
    chip, devices = topology.chip, topology.devices
    sent = traffic(program, config, devices)
    axes = mesh_sizes(config, devices)
    compute = (
        operations(program, config, devices) * chip.devices / (chip.bf16_tflops * 1e12)
    )
    if config.model.dtype != "bfloat16":
        compute *= 4  # TPUs take several passes, GPUs have slower units
    link = chip.link_gbps * 1e9 / chip.devices
    network = chip.network_gbps * 1e9 / chip.devices
    inner = axes["tensor"] * axes["sequence"]
    fast = (sent.tensor + sent.sequence) / link
    slow = sent.across / network
    fast += sent.mixing / link
    for amount, group in (
        (sent.gather, axes["fsdp"] * inner),
        (sent.reduce, axes["fsdp"] * axes["data"] * inner),
    ):
        if group <= topology.fast:
            fast += amount / link
        else:  # rings through every host: its devices share what crosses
            slow += amount / min(link, network * topology.fast)
    state = program.sharded(axes)
    held = 2 * device_bytes(state, chip) * chip.devices / (chip.hbm_gbps * 1e9)
    return Prediction(
        low=max(compute / BEST, fast, slow) + held,
        high=compute / WORST + fast + slow + held,
        compute=compute,
        fast=fast,
        slow=slow,
        state=held,
    )
