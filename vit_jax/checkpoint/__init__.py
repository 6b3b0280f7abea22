"""Checkpoints that can be trusted: written by orbax, verified when they are read."""

from vit_jax.checkpoint.errors import CheckpointError
from vit_jax.checkpoint.manager import Checkpoints

__all__ = ["CheckpointError", "Checkpoints"]
