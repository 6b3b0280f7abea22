"""What a run says of itself in words: a line at its start, a summary at its end."""

import dataclasses
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from vit_jax import setup, setup_data
from vit_jax.metrics import location


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended."""

    steps: int
    trained_steps: int  # by this call
    seconds: float  # of this call, compilation and evaluation included
    img_per_sec: float  # while stepping, in this call
    evaluations: dict[str, float]
    workdir: epath.Path


def headline(
    config: ConfigDict, facts: Any, parts: setup.Parts, steps: setup.Steps
) -> str:
    """One line that says what is about to run."""
    size = "x".join(map(str, setup_data.image_size(config)))
    shape = {axis: n for axis, n in parts.mesh.shape.items() if n > 1}
    layout = " x ".join(f"{axis} {n}" for axis, n in shape.items()) or "one device"
    return (
        f"{config.objective.name} ViT {config.model.variant} at {size} on "
        f"{facts.name} {config.data.split}: {steps.total:,} steps of "
        f"{config.train.batch_size:,} images, "
        f"{parts.flops_per_image / 1e9:.3g} GFLOP an image, "
        f"{parts.mesh.devices.flat[0].device_kind}, {layout}"
    )


def summary(result: Result) -> str:
    """What a user wants to know at the end."""
    folder = result.workdir
    lines = [
        f"{name:16} {100 * value:.2f} %"
        for name, value in result.evaluations.items()
        if name.endswith("/accuracy")
    ]
    if result.trained_steps:
        minutes, seconds = divmod(round(result.seconds), 60)
        done = f"{result.trained_steps:,} steps"
        lines += [
            f"time             {minutes}:{seconds:02d} for {done}",
            f"speed            {result.img_per_sec:,.0f} img/s while training",
        ]
    else:
        lines += ["already complete; another --workdir trains anew"]
    lines += [
        f"checkpoints      {folder / 'checkpoints'}",
        f"metrics          {location(folder)}",
        f"pictures         {folder / 'figures'}",
    ]
    if (folder / "tensorboard").exists():
        lines.insert(-1, f"TensorBoard      tensorboard --logdir {folder}")
    return "\n".join(["", *lines])
