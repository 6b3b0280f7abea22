"""Work directories as a run leaves them, without training."""

import base64
import json
import math

from vit_jax.metrics import JsonlWriter

# One white pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg=="
)


def row(step, seconds, **changes):
    """A training row as the loop logs it."""
    goodput = {"compile": 4.0, "step": seconds, "eval": 1.0}
    train = {
        "loss": 2.3 * math.exp(-step / 300),
        "accuracy": 1 - 0.9 * math.exp(-step / 200),
        "learning_rate": 1e-3 * min(1.0, step / 50),
        "img_per_sec": 800.0,
        "data_wait": 0.02,
        "mfu": 0.41,
        "tflops": 1.5,
        "rss_peak_gib": 0.7,
        **changes,
    }
    total = sum(goodput.values())
    return (
        {f"train/{name}": value for name, value in train.items()}
        | {f"goodput/{phase}_seconds": value for phase, value in goodput.items()}
        | {"goodput/ratio": seconds / total}
    )


def make(
    folder, *, steps=200, until=None, rate=1e-3, slower=1.0, ended="finished", **fields
):
    """Writes a run into a folder, which it returns.

    Args:
      steps: of the whole run.
      until: the last one that was done.
      rate: a config's field that runs differ in.
      slower: factor of the loss's time to fall.
      ended: how, or None where the run was killed; a dict is taken as it is.
      fields: of the newest start.
    """
    until = steps if until is None else until
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model": {"variant": "Ti/2", "image_size": [8]},
        "objective": {"name": "supervised"},
        "data": {"name": "digits", "split": "train"},
        "optim": {"name": "adamw", "learning_rate": rate},
        "train": {
            "batch_size": 128,
            "duration": {"epochs": None, "steps": steps, "examples": None},
        },
        "checkpoint": {"best": "val/accuracy"},
    }
    saved = {"config": config, "versions": {"jax": "0.10.2"}}
    saved["data"] = {"splits": {"train": 1280, "test": 360}}
    (folder / "config.json").write_text(json.dumps(saved))
    writer = JsonlWriter(folder / "metrics.jsonl")
    for step in range(10, until + 1, 10):
        loss = 2.3 * math.exp(-step / 300 / slower)
        writer.write_scalars(step, row(step, step / 10, loss=loss))
        if step % 50 == 0:
            accuracy = 1 - 0.9 * math.exp(-step / 220 / slower)
            result = {"val/accuracy": accuracy, "val/loss": loss + 0.1}
            writer.write_scalars(step, result)
            (folder / "checkpoints" / str(step)).mkdir(parents=True)
    writer.close()
    start = {
        "command": ["train", "--config=configs/digits.py", f"--workdir={folder}"],
        "step": 0,
        "total_steps": steps,
        "batch_size": 128,
        "num_examples": 1280,
        "device": "cpu",
        "num_devices": 8,
        "num_processes": 1,
        "mesh": {"data": 8},
        "platform": "Linux x86_64",
        "git": "f" * 40,
        "versions": {"python": "3.11.7", "vit_jax": "0.1.0", "jax": "0.10.2"},
        "variables": {"JAX_PLATFORMS": "cpu"},
        "at": "2026-05-04T03:02:01Z",
        **fields,
    }
    if ended:
        how = ended if isinstance(ended, dict) else {"how": ended}
        start["ended"] = {"at": "2026-05-04T04:02:01Z", **how}
    (folder / "starts.json").write_text(json.dumps({"starts": [start]}))
    (folder / "figures").mkdir(exist_ok=True)
    for name in ("curves", "filters", "attention-00000100", "attention-00000200"):
        (folder / "figures" / f"{name}.png").write_bytes(PNG)
    return folder
