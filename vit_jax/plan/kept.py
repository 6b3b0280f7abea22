"""What a device keeps for the backward pass, and works with while it runs: estimates.

The arrays are those that `jax.vjp` says, with the rows of a traced batch replaced by a
device's, in the tiles of its chip. The rest is as programs compiled for TPUs have it.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax

from vit_jax.models import variants
from vit_jax.plan.chips import Chip
from vit_jax.plan.tiles import activation_bytes

# Rows of a traced batch: a prime that no size of a model is a multiple of, so that an
# array that grows with the batch is known by its shape.
ROWS = 1_000_003


# What the backward pass of a layer works with, by everything that the layer computes,
# found from programs compiled for TPUs: what is beyond what vector memory holds, more
# where remat computes it again, within limits. MiB in SMALL: what is held in any case.
WORKING, WORKING_ELEMENTWISE, WORKING_AGAIN = 0.77, 1.05, 2.0
LEAST, MOST = 0.45, 1.15
SMALL, SMALL_ARRAY = 112.0, 37.0

# Where all devices share the parameters, and are not more than these, the TPU compiler
# overlaps gathers of matrices from this size, MiB, with products, and lays tokens out
# for that. Seen for 8, 16 and 32 chips, not for 64.
OVERLAPPED, OVERLAPPED_MIB = 32, 4.0


def ends(params: Any, config: Any) -> int:
    """Bytes of what is split and no layer: gathered, and its gradient before the sum.

    Of 21,843 classes that is much. Small arrays are in vector memory.
    """
    sizes = [
        item * math.prod(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if "blocks" not in jax.tree_util.keystr(path) and any(leaf.sharding.spec)
        for item in (4, 2 if config.model.dtype == "bfloat16" else 4)
    ]
    return sum(size for size in sizes if size > SMALL_ARRAY * 2**20)


def overlapped(program: Any, config: Any, axes: Mapping[str, int]) -> bool:
    """Whether the compiler gathers parameters in parts, behind products."""
    model = variants.resolve(**config.model.to_dict())
    return (
        program.chip.is_tpu
        and 1 < axes["fsdp"] == math.prod(axes.values()) <= OVERLAPPED
        and 2 * model["width"] * model["mlp_dim"] >= OVERLAPPED_MIB * 2**20
    )


class Kept:
    """Bytes a device of what is kept for the backward pass.

    Attributes:
      stacked: of the layers.
      embedding: of what comes before them.
      rest: of what comes before and behind them.
    """

    def __init__(self, program: Any, config: Any, axes: Mapping[str, int], rows: int):
        self._model = variants.resolve(**config.model.to_dict())
        self._axes, self._rows, self._chip = axes, rows, program.chip
        self._remat = config.model.remat
        self._overlapped = self._remat == "none" and overlapped(program, config, axes)
        saved = program.saved(self._remat)
        pixels = math.prod(self._model["patch_size"]) * config.model.channels
        stacked = filter(self._is_stacked, saved)
        # That of "offload" is in the host's memory.
        on_device = self._remat != "offload"
        self.stacked = on_device * sum(map(self._bytes, stacked))
        rest = [leaf for leaf in saved if not self._is_stacked(leaf)]
        self.rest = sum(map(self._bytes, rest))
        self.embedding = sum(
            self._bytes(leaf)
            for leaf in rest
            if leaf.ndim == 3
            and leaf.shape[-1] == pixels
            and leaf.dtype == config.model.dtype
        )
        everything = filter(self._is_stacked, program.saved("none"))
        self._everything = sum(map(self._bytes, everything)) / self._model["depth"]

    def layer(self, chip: Chip) -> float:
        """What the backward pass of one layer works with."""
        everything = self._everything
        beyond = max(0.0, everything - chip.held_mib * 2**20)
        if self._remat == "none":
            return WORKING * beyond
        again = WORKING_ELEMENTWISE if self._remat == "elementwise" else WORKING_AGAIN
        least = LEAST * max(0.0, everything - SMALL * 2**20)
        return min(max(again * beyond, least), MOST * everything)

    def _is_stacked(self, leaf: Any) -> bool:
        return leaf.shape[0] == self._model["depth"] > 1 and ROWS not in leaf.shape[:1]

    def _bytes(self, leaf: Any) -> float:
        """On a device: its rows, its heads, its hidden units."""
        stacked = self._is_stacked(leaf)
        shape = tuple(
            size // ROWS * self._rows if size and size % ROWS == 0 else size
            for size in leaf.shape[stacked:]
        )
        split = self._axes["sequence"]
        if {self._model["mlp_dim"], self._model["num_heads"]} & set(leaf.shape[1:]):
            split *= self._axes["tensor"]
        layers = leaf.shape[0] if stacked else 1
        # Heads before tokens are as a kernel of Pallas takes them, in that order.
        heads = len(shape) == 4 and shape[1] == self._model["num_heads"]
        head_dim = self._model["width"] // self._model["num_heads"]
        size = activation_bytes(
            shape,
            leaf.dtype.itemsize,
            self._chip,
            ordered=heads and shape[-1] == head_dim,
        )
        if self._overlapped and shape[-1] == self._model["width"] and len(shape) == 3:
            rows, tokens, width = shape
            size = activation_bytes(
                (rows, width, tokens), leaf.dtype.itemsize, self._chip, ordered=True
            )
        return layers * size / split
