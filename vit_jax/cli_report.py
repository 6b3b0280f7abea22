"""The `report` verb: one HTML file about one or more runs, or those of a sweep."""

import argparse
import os


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vit-jax report`."""
    parser.add_argument(
        "workdirs",
        nargs="+",
        metavar="WORKDIR",
        help="of a run or a sweep; may be gs://...",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="default: WORKDIR/report.html; of several runs, report.html here",
    )


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Writes the file and says where it is."""
    from vit_jax.report.page import write
    from vit_jax.report.record import read
    from vit_jax.sweep.begun import runs

    places = list(dict.fromkeys(place.rstrip("/") or "/" for place in options.workdirs))
    output = options.output or "report.html"
    if options.output is None and len(places) == 1:
        output = os.path.join(places[0], output)
    named = [item for place in places for item in runs(place).items()]
    write([read(place, name) for place, name in dict(named).items()], output)
    print(output)
    return 0
