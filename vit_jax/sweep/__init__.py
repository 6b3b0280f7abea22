"""Sweeps: which trials there are, running them, and what came of them.

For a config file's ``get_sweep()``: ``product``, ``zip``, ``chain`` and ``random`` make
trials from values of config keys.
"""

from vit_jax.sweep.expand import chain, product, random
from vit_jax.sweep.expand import zipped as zip
from vit_jax.sweep.ranges import choice, integers, loguniform, uniform

__all__ = [
    "chain",
    "choice",
    "integers",
    "loguniform",
    "product",
    "random",
    "uniform",
    "zip",
]
