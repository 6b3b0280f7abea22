"""The training step's speed: step time, images/s, MFU, memory; beside timm and Linen.

    python scripts/benchmark.py --model=S/16,B/16 --batch=best --dtype=bfloat16
    python scripts/benchmark.py --model=B/16 --batch=256 --attention=xla,cudnn
    python scripts/benchmark.py --peer=timm,linen,unrolled --json=s.json --figure=s.png
    python scripts/benchmark.py --batch=16 --profile
    python scripts/benchmark.py --batch=64 --data=folder:~/flowers --split=train

Each comma-separated flag is an axis of the grid. In every cell, ours, its peers and a
chain of large matrix products take turns, and ratios are taken round by round. The
model's operations are counted from its sizes. TensorFlow, TFDS, clu, ml_collections and
a network are not needed; torch and timm are for --peer=timm alone. The exit status is 1
where no cell could be measured.
"""

import argparse
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmark_steps import loading, measure, report
from benchmark_steps.cells import POOLS, Cell, grid
from vit_jax import host_memory
from vit_jax.data.errors import DataError


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(word) for word in _words(text)]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as 0,1")
    return numbers


def _batches(text: str) -> list[int] | str:
    if text == "best":
        return text
    numbers = _numbers(text)
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a batch has an image at least")
    return numbers


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("--model", type=_words, default=["S/16"], help="SIZE/PATCH,...")
    add("--batch", type=_batches, default=[16], help="images a step,..., or best")
    add("--dtype", type=_words, help="float32, bfloat16 (default: a CPU's, others')")
    add("--attention", type=_words, default=["xla"], help="kernels, as model.attention")
    add(
        "--remat", type=_words, default=["elementwise"], help="policies, as model.remat"
    )
    add("--unroll", type=_numbers, default=[1], help="blocks a loop; 0 = all")
    add("--image_size", type=_positive, default=224)
    add("--classes", type=_positive, default=1000)
    add("--pool", choices=sorted(POOLS), default="gap")
    add("--devices", type=_positive, help="use so many; all by default")
    add(
        "--peer",
        type=_words,
        default=[],
        help="timm, linen, unrolled (ours with the blocks written out)",
    )
    add(
        "--torch_compile",
        choices=("auto", "on", "off"),
        default="auto",
        help="timm compiled as well; auto: on a GPU",
    )
    add("--data", default="synthetic", help="synthetic, folder:PATH, arrays:PATH.npz")
    add("--split", default="train", help="of the data")
    add("--threads", type=int, default=0, help="that load; 0 = one a core")
    add("--repeats", type=_positive, default=7, help="rounds; medians are of these")
    add("--seconds", type=float, help="of a sample (default: a step on a CPU, else 1)")
    add("--profile", action="store_true", help="time the parts of the step as well")
    add("--json", type=Path, help="write everything here, after each cell")
    add("--figure", type=Path, help="draw img/s and MFU here, as .png or .pdf")
    return parser


def build_plan(options: argparse.Namespace, devices: Sequence[Any]) -> measure.Plan:
    """How to measure.

    Raises:
      ValueError: flags exclude each other.
    """
    if unknown := set(options.peer) - set(measure.PEERS):
        raise ValueError(
            f"--peer: {', '.join(sorted(unknown))} is unknown; "
            f"known: {', '.join(measure.PEERS)}"
        )
    if options.devices and options.devices > len(devices):
        raise ValueError(f"--devices={options.devices}: there are {len(devices)}")
    devices = devices[: options.devices]
    if len(devices) > 1 and set(options.peer) - {"unrolled"}:
        raise ValueError("--peer: timm and linen run on one device; add --devices=1")
    on_cpu = devices[0].platform == "cpu"
    open_batches = None
    if options.data != "synthetic":
        if not options.data.startswith(loading.KINDS):
            raise ValueError(
                f"--data={options.data}: give synthetic, or one of "
                f"{', '.join(loading.KINDS)} with its path"
            )
        options.classes = loading.describe(options.data).num_classes
        open_batches = functools.partial(
            loading.open_batches, options.data, options.split, options.threads
        )
    default = 0.0 if on_cpu else 1.0
    return measure.Plan(
        devices=devices,
        peers=options.peer,
        compile_timm={"on": True, "off": False, "auto": not on_cpu}[
            options.torch_compile
        ],
        repeats=options.repeats,
        seconds=default if options.seconds is None else options.seconds,
        profile=options.profile,
        open_batches=open_batches,
    )


def build_grid(options: argparse.Namespace, platform: str) -> list[Cell]:
    """The cells; with --batch=best each has a batch of 1 that is to be replaced.

    Raises:
      ValueError: the model does not know a value.
    """
    return list(
        grid(
            models=options.model,
            batches=[1] if options.batch == "best" else options.batch,
            dtypes=options.dtype or ["float32" if platform == "cpu" else "bfloat16"],
            attentions=options.attention,
            remats=options.remat,
            unrolls=options.unroll,
            image_size=options.image_size,
            num_classes=options.classes,
            pool=options.pool,
        )
    )


def find_batch(
    cell: Cell, plan: measure.Plan, say: Callable[[str], None]
) -> dict[str, Any] | Cell:
    """The cell at its fastest batch; or its row, where no batch fits."""

    def rate(batch: int) -> float | None:
        found = measure.quick_rate(dataclasses.replace(cell, batch=batch), plan)
        shown = "does not fit" if found is None else f"{found:.4g} img/s"
        say(f"  batch {batch}: {shown}")
        return found

    say(f"{cell.model} {cell.dtype} {cell.attention}: looking for the best batch")
    row = {"label": cell.label, **dataclasses.asdict(cell)}
    smallest = len(plan.devices)
    try:
        best, _ = measure.best_batch(rate, start=max(8, smallest))
    except (NotImplementedError, RuntimeError, ValueError) as error:
        status, message = measure.reason(error)
        return row | {"status": status, "message": message}
    if best is None:
        message = "not even a batch of 1 fits"
        return row | {"status": "out of memory", "message": message}
    return dataclasses.replace(cell, batch=best)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the grid; exits 0, 1 where no cell ran, 2 for a mistake in the flags."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if "timm" in options.peer:
        # Both frameworks live in one process: neither may take all of the memory.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    devices = jax.devices()
    try:
        plan = build_plan(options, devices)
        cells = build_grid(options, devices[0].platform)
    except (DataError, ValueError) as error:
        parser.error(str(error))
    environment = report.environment(plan.devices)
    print(
        f"{len(plan.devices)} x {environment['device_kind']} "
        f"({environment['platform']}), jax {jax.__version__}, medians of "
        f"{plan.repeats}, load average {environment['load_average'][0]:.1f}",
        flush=True,
    )
    rows = []
    for cell in cells:
        found: Any = cell
        if options.batch == "best":
            found = find_batch(cell, plan, functools.partial(print, flush=True))
        rows.append(found if isinstance(found, dict) else measure.measure(found, plan))
        print(f"\n{report.cell_text(rows[-1])}", flush=True)
        environment["load_average_after"] = list(os.getloadavg())
        if options.json:
            report.save_json(options.json, environment, rows)
    if len(rows) > 1:
        print(f"\n{report.summary_text(rows)}")
    if options.figure:
        report.save_figure(options.figure, environment, rows)
    return 0 if any(row["status"] == "ok" for row in rows) else 1


if __name__ == "__main__":
    host_memory.keep_freed()  # as `vit-jax train` does; the peers share the process
    sys.exit(main())
