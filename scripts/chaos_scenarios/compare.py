"""Whether two runs are the same: arrays bit for bit, logged numbers, example ids."""

import json
import pathlib
import re
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

# Of the hour and the machine, not of the run.
TIMINGS = re.compile(
    r"(img_per_sec|data_wait|tflops|mfu|_peak_gib|goodput|badput|seconds|_time$)"
)


def committed(workdir: pathlib.Path) -> list[int]:
    """Steps whose checkpoints are complete."""
    folder = workdir / "checkpoints"
    if not folder.exists():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def read_state(step_folder: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by name, read by orbax alone.

    Neither the digests nor the code under test take part.
    """
    with ocp.PyTreeCheckpointer() as reader:
        metadata = reader.metadata(step_folder / "state").item_metadata
        tree = metadata.tree if hasattr(metadata, "tree") else metadata
        args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = reader.restore(step_folder / "state", restore_args=args)
    return flat(state)


def flat(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree by path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def array_differences(
    actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> list[str]:
    """Names of the arrays that differ in presence, type, shape or any bit."""
    different = sorted(actual.keys() ^ expected.keys())
    for name in sorted(actual.keys() & expected.keys()):
        a, b = actual[name], expected[name]
        same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        if not same:
            different.append(name)
    return different


def read_rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The logged rows without what depends on the clock."""
    rows = []
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        row = {
            name: value
            for name, value in json.loads(line).items()
            if not TIMINGS.search(name)
        }
        if len(row) > 1:
            rows.append(row)
    return rows


def row_differences(
    actual: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> list[str]:
    """The first differences between logged rows, in words."""
    if actual == expected:
        return []
    if len(actual) != len(expected):
        steps = [row["step"] for row in actual]
        twice = sorted({step for step in steps if steps.count(step) > 2})
        return [f"{len(actual)} rows, not {len(expected)}; often: {twice[:5]}"]
    return [
        f"step {right['step']}, {name}: {left.get(name)} not {right.get(name)}"
        for left, right in zip(actual, expected, strict=True)
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]


def run_differences(actual: pathlib.Path, expected: pathlib.Path) -> list[str]:
    """How a finished run differs from another: nothing, or the first few things."""
    newest = [committed(workdir)[-1:] for workdir in (actual, expected)]
    if newest[0] != newest[1] or not newest[0]:
        return [f"newest checkpoint {newest[0]}, not {newest[1]}"]
    step = str(newest[0][0])
    arrays = array_differences(
        *(read_state(workdir / "checkpoints" / step) for workdir in (actual, expected))
    )
    rows = row_differences(read_rows(actual), read_rows(expected))
    return [f"array {name} of step {step} differs" for name in arrays[:5]] + rows[:5]


def example_checksums(workdir: pathlib.Path) -> dict[int, Any]:
    """Checksum of the example ids by step."""
    return {
        row["step"]: row["data/example_ids"]
        for row in read_rows(workdir)
        if "data/example_ids" in row
    }


def losses(workdir: pathlib.Path) -> dict[int, float]:
    """Training loss by step."""
    return {
        row["step"]: row["train/loss"]
        for row in read_rows(workdir)
        if "train/loss" in row
    }


def not_finite(arrays: dict[str, np.ndarray]) -> list[str]:
    """Names of the arrays that hold a NaN or an infinity."""
    return [
        name
        for name, array in arrays.items()
        if np.issubdtype(array.dtype, np.inexact)
        and not np.isfinite(array.astype(np.float32)).all()
    ]
