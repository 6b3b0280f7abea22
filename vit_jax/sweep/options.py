"""Options of `vit-jax sweep` that contradict each other: told before anything runs."""

import argparse
from collections.abc import Iterator

from vit_jax.sweep.ranges import SweepError

# Options that only some backends have; elsewhere they would go unheard.
_BACKENDS = {
    "submit": ("slurm", "gke", "skypilot"),
    "sbatch": ("slurm",),
    "image": ("gke", "skypilot"),
    "limits": ("gke",),
    "node_selector": ("gke",),
    "service_account": ("gke",),
    "accelerators": ("skypilot",),
    "spot": ("skypilot",),
    "cores": ("local",),
}


def check(options: argparse.Namespace) -> None:
    """Refuses what would be without effect, or could not be meant.

    Raises:
      SweepError: the first such option.
    """
    for problem in _problems(options):
        raise SweepError(problem)


def _problems(options: argparse.Namespace) -> Iterator[str]:
    if options.retries < 0:
        yield f"--retries={options.retries} must not be negative"
    if options.samples is not None and not options.set:
        yield (
            f"--samples={options.samples} draws from the ranges of --set; elsewhere "
            "random(..., samples=N) says it"
        )
    if options.combine != "product" and not options.set:
        yield f"--combine={options.combine} is about the keys of --set; give them"
    if options.prune != "none" and not options.search:
        yield f"--prune={options.prune} is of adaptive search: --search=tpe"
    for name, backends in _BACKENDS.items():
        if getattr(options, name) and options.backend not in backends:
            yield (
                f"--{name} is of --backend={' or '.join(backends)}; "
                f"{options.backend} has no such option"
            )
