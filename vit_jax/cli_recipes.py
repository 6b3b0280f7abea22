"""The `recipes` verb: what can be trained, and what should come of it."""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vit-jax recipes`."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME[:ARG]",
        help="explain this one, such as mae_i1k or mae_i1k:B/16; default: list all",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Lists the recipes, or explains one."""
    from vit_jax.ledger import explain, listing
    from vit_jax.ledger.entries import ENTRIES
    from vit_jax.ledger.measured import MEASURED
    from vit_jax.ledger.planned import stored

    planned = stored()
    if options.name:
        entry = explain.find(options.name, ENTRIES)
        if options.json:
            said = explain.as_json(entry, MEASURED, planned)
        else:
            said = explain.explain(entry, ENTRIES, MEASURED, planned)
    elif options.json:
        said = [
            listing.row(entry, MEASURED, planned.get(entry.spec)) for entry in ENTRIES
        ]
    else:
        said = listing.render(ENTRIES, MEASURED, planned)
    print(json.dumps(said, indent=2) if options.json else said)
    return 0
