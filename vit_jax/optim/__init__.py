"""Optimizers by name; adding one is a function and an entry in `rules`."""

from vit_jax.optim.build import NAMES, RANGES, build
from vit_jax.optim.paths import MASKS, mask
from vit_jax.optim.rules import OPTIMIZERS

__all__ = ["MASKS", "NAMES", "OPTIMIZERS", "RANGES", "build", "mask"]
