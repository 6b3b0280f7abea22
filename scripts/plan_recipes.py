"""Plans the recipes of the ledger by shapes, and writes their rows of planned.json.

    python scripts/plan_recipes.py                 rows that are missing; drops old ones
    python scripts/plan_recipes.py --all           every row, minutes
    python scripts/plan_recipes.py mae_i1k digits  those of these recipes

No accelerator is needed, nothing is compiled. Run it after a change of a recipe's
model, batch or length, or of the planner.
"""

import argparse
import os
import sys
import time

os.environ["JAX_PLATFORMS"] = "cpu"

from vit_jax.ledger import planned
from vit_jax.ledger.entries import ENTRIES


def main() -> int:
    """Writes the file after each row, so that a run that is stopped keeps its rows."""
    parser = argparse.ArgumentParser(description="Plans the recipes of the ledger.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of recipes")
    parser.add_argument("--all", action="store_true", help="every row again")
    options = parser.parse_args()
    known = {entry.name for entry in ENTRIES} | {entry.spec for entry in ENTRIES}
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no recipe {unknown[0]!r}; known: {', '.join(sorted(known))}")
    before = planned.stored() if planned.FILE.exists() else {}
    rows = {entry.spec: before[entry.spec] for entry in ENTRIES if entry.spec in before}
    for entry in ENTRIES:
        asked = options.all or {entry.name, entry.spec} & set(options.names)
        if entry.spec in rows and not asked:
            continue
        started = time.perf_counter()
        rows[entry.spec] = planned.estimate(entry)
        planned.write(_in_order(rows))
        print(f"{entry.spec}: {time.perf_counter() - started:.1f} s", flush=True)
    planned.write(_in_order(rows))
    return 0


def _in_order(rows: dict[str, planned.Planned]) -> dict[str, planned.Planned]:
    """As the entries are."""
    return {entry.spec: rows[entry.spec] for entry in ENTRIES if entry.spec in rows}


if __name__ == "__main__":
    sys.exit(main())
