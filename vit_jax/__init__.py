"""Pre-train Vision Transformers in JAX: one config, from a laptop to a TPU pod."""

__version__ = "0.1.0"
