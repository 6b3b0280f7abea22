r"""Whether a plan's counts by shapes are those of the compiler, around what just fits.

    python scripts/check_plan.py --config=configs/vit_s16_i1k.py:L/16 \
        --topology=v5e:4x4 --choices=12 --out=check_plan.json \
        --config.train.batch_size=2048

Takes the choices of `vit-jax plan --search` whose memory by shapes is nearest to what
the plan allows, as many below as above, compiles each (libtpu, one to two minutes of a
core) and prints both memories, and whether each fits. What is in the JSON is not
compiled again.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

from vit_jax import config as configs
from vit_jax.plan import compile as compiling
from vit_jax.plan import plan as planning
from vit_jax.plan.topology import Topology, parse


def nearest(plans: list[planning.Plan], number: int) -> list[planning.Plan]:
    """The choices on either side of what a plan allows, the nearest first.

    Of each sharding and remat one, so that they differ in more than micro-batches.
    """
    limit = planning.SHARE * plans[0].limit_gib
    ordered = sorted(plans, key=lambda one: abs(one.memory_gib / limit - 1))
    sides: tuple[list, list] = ([], [])
    seen = set()
    for one in ordered:
        key = (
            one.fits,
            tuple(flag for flag in one.overrides if "accumulate" not in flag),
        )
        if key not in seen:
            seen.add(key)
            sides[one.fits].append(one)
    half = number // 2
    return sides[True][:half] + sides[False][: number - half]


def measure(
    path: str, overrides: list[str], place: Topology, found: planning.Plan
) -> dict[str, Any]:
    """One choice, compiled."""
    config = configs.load(path, [*overrides, *found.overrides])
    compiled = planning.plan(config, place)
    if compiled.mode != "compiled":
        raise SystemExit(compiled.notes[-1])
    return {
        "topology": str(place),
        "config": path,
        "overrides": [*overrides, *found.overrides],
        "by_shapes_gib": found.memory_gib,
        "compiled_gib": compiled.memory_gib,
        "limit_gib": found.limit_gib,
        "fits_by_shapes": found.has_room,
        "fits_compiled": compiled.has_room,
        "notes": compiled.notes,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, the least memory first."""
    lines = [
        "| choice | by shapes | by the compiler | error | fits by shapes | compiled |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["by_shapes_gib"]):
        flags = " ".join(row["overrides"]).replace("--config.", "")
        error = row["by_shapes_gib"] / row["compiled_gib"] - 1
        lines.append(
            f"| {flags} | {row['by_shapes_gib']:.2f} | {row['compiled_gib']:.2f} "
            f"| {error:+.1%} | {'yes' if row['fits_by_shapes'] else 'no'} "
            f"| {'yes' if row['fits_compiled'] else 'no'} |"
        )
    right = sum(row["fits_by_shapes"] == row["fits_compiled"] for row in rows)
    return "\n".join([*lines, f"right in {right} of {len(rows)}"])


def main() -> int:
    """Compiles what is not in the JSON, then prints all of it."""
    parser = argparse.ArgumentParser(description="Memory by shapes and compiled.")
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]")
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--choices", type=int, default=12)
    parser.add_argument("--out", type=pathlib.Path, default="check_plan.json")
    options, overrides = parser.parse_known_args()
    place = parse(options.topology)
    if reason := compiling.available(place):
        print(f"{place}: {reason}", file=sys.stderr)
        return 2
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    done = [row["overrides"] for row in rows]
    config = configs.load(options.config, overrides)
    plans = planning.search(config, place, compile=False).tried
    for found in nearest(list(plans), options.choices):
        if [*overrides, *found.overrides] in done:
            continue
        print(f"compiling {' '.join(found.overrides)}", file=sys.stderr, flush=True)
        rows.append(measure(options.config, overrides, place, found))
        options.out.write_text(json.dumps(rows, indent=2))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
