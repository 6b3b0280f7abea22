r"""How a program grows with the machine: a constant batch a chip on ever more chips.

    python scripts/weak_scaling.py --config=configs/vit_s16_i1k.py:B/16 \\
        --topologies=v5e-8,v5e-16,v5e-32,v5e-64,v5e-128,v5e-256 --rows=16 \\
        --out=weak_scaling.json --config.mesh.data=1 --config.mesh.fsdp=-1

Compiles the train step for every topology (libtpu, about a minute of a core each) and
compares what the compiled program does on a device with what a plan predicts: FLOPs of
its matrix products, and bytes that it sends. Nothing runs, so that this says nothing of
time. Writes JSON and, beside it, a picture; what is in the JSON is not compiled again.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from vit_jax import config as configs
from vit_jax.plan import compile as compiling
from vit_jax.plan import predict, shapes
from vit_jax.plan.program import prepare
from vit_jax.plan.topology import Topology, parse_list


def measure(path: str, overrides: list[str], place: Topology, rows: int) -> dict:
    """One topology's row: of the compiled program, and as predicted."""
    batch = f"--config.train.batch_size={rows * place.devices}"
    job = prepare(configs.load(path, [*overrides, batch]), place)
    program = shapes.Program(job)
    sent = predict.traffic(program, job.config, place.devices)
    compiled = compiling.compile_step(job.config, place)
    by_kind: dict[str, float] = {}
    for one in compiled.collectives:
        by_kind[one["kind"]] = by_kind.get(one["kind"], 0.0) + one["sent"]
    return {
        "topology": str(place),
        "config": path,
        "overrides": overrides,
        "devices": place.devices,
        "batch": job.config.train.batch_size,
        "flops": compiled.flops,
        "flops_predicted": predict.operations(program, job.config, place.devices),
        "sent": sum(by_kind.values()),
        "sent_by_kind": by_kind,
        "sent_predicted": sent.total,
        "memory_gib": compiled.memory_gib,
        "fits": compiled.fits,
        "compile_seconds": compiled.compile_seconds,
    }


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """FLOPs and bytes a device over the number of devices, with their predictions."""
    rows = sorted(rows, key=lambda row: row["devices"])
    devices = [row["devices"] for row in rows]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, name, unit, scale in (
        (axes[0], "flops", "TFLOP a device and step", 1e12),
        (axes[1], "sent", "MB sent a device and step", 1e6),
    ):
        for key, style, label in (
            (name, "o", "compiled"),
            (f"{name}_predicted", "-", "predicted"),
        ):
            axis.plot(devices, [row[key] / scale for row in rows], style, label=label)
        axis.set(xlabel="chips", ylabel=unit, xscale="log")
        axis.set_xticks(devices, map(str, devices))
        axis.minorticks_off()
        axis.set_ylim(0, 1.3 * max(row[name] / scale for row in rows))
        axis.grid(alpha=0.3)
        axis.legend()
    first = rows[0]
    kind = first["topology"].split(":")[0]
    what = f"{first['config'].rpartition('configs/')[2]}, {kind}"
    figure.suptitle(f"{what}: {first['batch'] // first['devices']} images a chip")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| chips | TFLOP a device | predicted | MB sent a device | predicted |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["devices"]):
        lines.append(
            f"| {row['devices']} | {row['flops'] / 1e12:.3f} "
            f"| {row['flops_predicted'] / 1e12:.3f} | {row['sent'] / 1e6:.1f} "
            f"| {row['sent_predicted'] / 1e6:.1f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Compiles what is not in the JSON, then prints and draws all of it."""
    parser = argparse.ArgumentParser(description="Weak scaling of the program.")
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]")
    parser.add_argument(
        "--topologies", default="v5e-8,v5e-16,v5e-32,v5e-64,v5e-128,v5e-256"
    )
    parser.add_argument("--rows", type=int, default=16, help="images a chip")
    parser.add_argument("--out", type=pathlib.Path, default="weak_scaling.json")
    options, overrides = parser.parse_known_args()
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    for place in parse_list(options.topologies):
        if any(row["topology"] == str(place) for row in rows):
            continue
        if reason := compiling.available(place):
            print(f"{place}: {reason}", file=sys.stderr)
            return 2
        print(f"{place}: compiling", file=sys.stderr, flush=True)
        rows.append(measure(options.config, overrides, place, options.rows))
        options.out.write_text(json.dumps(rows, indent=2))
    draw(rows, options.out.with_suffix(".png"))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
