"""The options that renderers read."""

import argparse

from vit_jax import cli_sweep
from vit_jax.sweep.rendered import Batch


def options(*words):
    parser = argparse.ArgumentParser()
    cli_sweep.add_arguments(parser)
    return parser.parse_args(list(words))


def batch(workdir="gs://bucket/my sweep", **changes):
    fields = dict(
        name="sweep-mine-abc123",
        workdir=workdir,
        numbers="0-2,5",
        count=4,
        parallel=2,
        retries=3,
    )
    return Batch(**fields | changes)
