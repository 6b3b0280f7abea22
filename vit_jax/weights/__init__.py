"""Weights of the ViT family in and out: `load` opens any readable checkpoint."""

from vit_jax.weights.files import WeightsError
from vit_jax.weights.load import Loaded, Record, load

__all__ = ["Loaded", "Record", "WeightsError", "load"]
