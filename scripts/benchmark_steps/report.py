"""What was measured: as tables for people, as JSON, as a picture."""

import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from vit_jax.plan import chips

Row = dict[str, Any]


def environment(devices: Sequence[Any]) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    versions = {}
    for name in ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "timm"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    kind = devices[0].device_kind
    chip = chips.find(kind)
    return {
        "platform": devices[0].platform,
        "device_kind": kind,
        "num_devices": len(devices),
        "bf16_peak_tflops": chip.bf16_tflops if chip else None,
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "load_average": list(os.getloadavg()),
        "python": platform.python_version(),
        "versions": versions,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "command": sys.argv,
    }


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest entry, the first one left-aligned."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if not column else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def cell_text(row: Row) -> str:
    """A cell's table, its ratios and its profile."""
    title = f"{row['label']}, {row['image_size']} px, {row['num_classes']:,} classes"
    if row["status"] != "ok":
        return f"{title}: {row['status'].upper()}: {row['message']}"
    lines = [title, _contenders(row["contenders"])]
    lines += [
        f"ours / {name}: {ratio['median']:.2f} times as fast "
        f"({ratio['low']:.2f} to {ratio['high']:.2f})"
        + _cpu_time(row["cpu_ratios"][name], row["peak_of"])
        for name, ratio in row["ratios"].items()
    ]
    lines += [f"{name}: not measured: {why}" for name, why in row["missing"].items()]
    of = "the device" if row["peak_of"] == "device" else "the whole process"
    earlier = "" if row["peak_is_of_this_cell"] else ", reached before this cell"
    lines.append(
        f"matmul peak of this run {row['matmul_tflops']:.3g} TFLOP/s; "
        f"{row['flops_per_image'] / 1e9:.4g} GFLOP an image; memory high-water mark of "
        f"{of} {row['peak_gib']:.2f} GiB{earlier}"
    )
    for each in row["contenders"]:
        if "data_wait_share" in each:
            share = _share(each["data_wait_share"])
            lines.append(f"{each['name']}: {share} of the step waits for data")
    if "profile" in row:
        lines += ["", profile_text(row["profile"])]
    return "\n".join(lines)


def _cpu_time(ratio: Row, peak_of: str) -> str:
    """The ratio of CPU time, where the step is computed by the CPU."""
    if peak_of == "device":
        return ""
    low, high = ratio["low"], ratio["high"]
    return f"; by CPU time {ratio['median']:.2f} ({low:.2f} to {high:.2f})"


def _contenders(contenders: Sequence[Row]) -> str:
    header = (
        "",
        "ms/step",
        "(from",
        "to)",
        "img/s",
        "TFLOP/s",
        "MFU",
        "of matmul",
        "dispatch",
        "compile",
        "to first step",
        "program",
    )

    def cells(each: Row) -> Iterable[str]:
        step, dispatch = each["step_seconds"], each["dispatch_seconds"]
        program = each.get("program_gib")
        yield each["name"]
        yield from (f"{1e3 * step[key]:.4g}" for key in ("median", "low", "high"))
        yield f"{each['images_per_second']:.4g}"
        yield f"{each['tflops']:.3g}"
        yield _share(each["mfu"])
        yield _share(each["mfu_matmul"])
        yield "-" if dispatch is None else f"{1e3 * dispatch:.2f} ms"
        yield _seconds(each.get("compile_seconds"))
        yield _seconds(each.get("first_step_seconds"))
        yield "-" if program is None else f"{program:.2f} GiB"

    return _table(header, (list(cells(each)) for each in contenders))


def profile_text(profile: Row) -> str:
    """Where the time above the matmul floor goes."""
    whole = profile["whole"]
    above = whole["seconds"] - whole["floor"]

    def line(part: Row) -> list[str]:
        over = part["seconds"] - part["floor"]
        return [
            part["name"],
            str(part["count"]),
            f"{1e3 * part['seconds']:.4g}",
            f"{1e3 * part['floor']:.4g}",
            f"{1e3 * over:.4g}",
            _share(part["seconds"] / whole["seconds"]),
            _share(over / above) if above > 0 else "-",
        ]

    header = ["", "times", "ms", "floor", "above", "of step", "of all above"]
    rows = [*profile["parts"], profile["rest"], whole]
    return (
        "parts timed alone, forward and backward; floor: their products at the peak\n"
        + _table(header, map(line, rows))
        + "\n\nthe step in phases\n"
        + _table(header, map(line, profile["phases"]))
    )


def summary_text(rows: Sequence[Row]) -> str:
    """All cells in one table, where there are several."""
    header = ("cell", "ms/step", "img/s", "MFU", "of matmul", "program")

    def cells(row: Row) -> list[str]:
        if row["status"] != "ok":
            return [row["label"], row["status"], "-", "-", "-", "-"]
        ours = row["contenders"][0]
        program = ours["program_gib"]
        return [
            row["label"],
            f"{1e3 * ours['step_seconds']['median']:.4g}",
            f"{ours['images_per_second']:.4g}",
            _share(ours["mfu"]),
            _share(ours["mfu_matmul"]),
            "-" if program is None else f"{program:.2f} GiB",
        ]

    return _table(header, map(cells, rows))


def save_json(path: Path, environment: Row, rows: Sequence[Row]) -> None:
    """Everything measured so far."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment, "cells": list(rows)}
    path.write_text(json.dumps(content, indent=1) + "\n")


def save_figure(path: Path, environment: Row, rows: Sequence[Row]) -> bool:
    """Bars of images a second and of MFU, a bar a contender; False if none ran."""
    from matplotlib.figure import Figure

    ran = [row for row in rows if row["status"] == "ok"]
    bars = [(row["label"], each) for row in ran for each in row["contenders"]]
    if not bars:
        return False
    names = list(dict.fromkeys(each["name"] for _, each in bars))
    known = all(each["mfu"] is not None for _, each in bars)
    key = "mfu" if known else "mfu_matmul"
    of = "the chip's bf16 peak" if known else "the matmul rate of the same run"
    height = 1.6 + 0.34 * len(bars) + 0.2 * len(ran)
    figure = Figure(figsize=(11, height), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    places, ticks, at = [], [], 0.0
    for row in ran:
        first = at
        for _ in row["contenders"]:
            places.append(at)
            at += 1
        ticks.append((first + at - 1) / 2)
        at += 0.6
    colours = {name: f"C{index}" for index, name in enumerate(names)}
    panels = (
        (left, [each["images_per_second"] for _, each in bars], "images/s", "{:.4g}"),
        (right, [100 * each[key] for _, each in bars], f"% of {of}", "{:.1f}"),
    )
    for axis, values, label, form in panels:
        drawn = axis.barh(
            places, values, color=[colours[each["name"]] for _, each in bars]
        )
        axis.bar_label(drawn, labels=[form.format(v) for v in values], padding=3)
        axis.set_xlabel(label)
        axis.margins(x=0.14)
        axis.spines[["top", "right"]].set_visible(False)
    left.set_yticks(ticks, [row["label"] for row in ran])
    left.invert_yaxis()
    handles = [legend_entry(colours[name], name) for name in names]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(names))
    device = f"{environment['num_devices']} x {environment['device_kind']}"
    figure.suptitle(f"Training step, {device}", x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return True


def legend_entry(colour: str, name: str) -> Any:
    """An entry of the legend."""
    from matplotlib.patches import Patch

    return Patch(color=colour, label=name)
