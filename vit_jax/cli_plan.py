"""The `plan` verb: what a config needs on chips that are not there."""

import argparse
import json
import os
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vit-jax plan`."""
    parser.add_argument(
        "--config", required=True, metavar="FILE[:ARG]", help="as of train"
    )
    parser.add_argument(
        "--topology",
        required=True,
        metavar="NAME[,NAME...]",
        help="v5e:16x16 or v5e-256, v5p:4x4x4, h100:8x8 (hosts x GPUs), 2*v5e:16x16",
    )
    parser.add_argument("--slices", type=int, metavar="N", help="as N*v5e:16x16")
    parser.add_argument(
        "--search",
        action="store_true",
        help="compare shardings, remat and accumulation; print flags of the best",
    )
    parser.add_argument(
        "--no_compile",
        action="store_true",
        help="count by shapes, also where libtpu is installed",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Plans a config for each topology."""
    from vit_jax.plan.topology import parse_list

    places = parse_list(options.topology, slices=options.slices)
    # Before JAX: no accelerator of this machine is needed, or touched.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from vit_jax import config as configs

    config = configs.load(options.config, overrides)
    from vit_jax.plan import plan as planning
    from vit_jax.plan.table import render

    make = planning.search if options.search else planning.plan
    plans = []
    for place in places:
        found = make(config, place, compile=not options.no_compile, say=_say)
        plans.append(found.to_json())
        if not options.json:
            print(render(found), flush=True)
    if options.json:
        print(json.dumps(plans, indent=2))
    return 0


def _say(line: str) -> None:
    print(f"vit-jax: {line}", file=sys.stderr, flush=True)
