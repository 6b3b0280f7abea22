"""Which processes are one run, by arguments and by the variables of schedulers.

Pure: from an environment to numbers, or to one line that says what is missing. JAX has
a detection of its own, which waits in vain where a batch script runs without `srun`,
gives a lone task of a host one of its GPUs, and aborts where variables are half set.
"""

from vit_jax.cluster.metadata import variables
from vit_jax.cluster.place import Cluster, StartError
from vit_jax.cluster.resolve import resolve

__all__ = ["Cluster", "StartError", "resolve", "variables"]
