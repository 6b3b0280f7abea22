"""The `status` verb: what runs are doing, and how far they are."""

import argparse
import json
import math
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vit-jax status`."""
    parser.add_argument(
        "workdirs",
        nargs="+",
        metavar="WORKDIR",
        help="of a run or a sweep; may be gs://...",
    )
    parser.add_argument("--json", action="store_true", help="print a list of objects")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Prints a block about one run, or a table of several."""
    from vit_jax.report.record import read
    from vit_jax.report.status import aligned, block, status, table
    from vit_jax.sweep.begun import runs

    named = [item for place in options.workdirs for item in runs(place).items()]
    found = [status(read(place, name)) for place, name in named]
    if options.json:
        print(json.dumps([_finite(one) for one in found], indent=2, allow_nan=False))
    else:
        print(block(found[0]) if len(found) == 1 else aligned(table(found)))
    return 0


def _finite(value: Any) -> Any:
    """A value as JSON has it, which knows no NaN."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
