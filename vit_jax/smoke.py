"""The small form of a recipe: a config in, a config out that runs in a minute on a CPU.

Objective, optimizer, shape of the schedule, augmentation and loss stay the recipe's.
What shrinks is below; a rule applies to any config that has the field, and no recipe is
known by name.

- The model: two blocks, 64 wide, 4 x 4 patches of at most 8 x 8 pixels. Lengths in
  pixels (crops, margins, masked squares) shrink as the image does. A hybrid's ResNet is
  left out.
- The data: ten classes of `data/patterns.py`. Evaluations on other data sets are left
  out, and a linear probe is fitted by L-BFGS, as its LARS needs a large set.
- The length: 64 steps of 64 images. Warmup, cooldown and the time scale keep their
  share of the run, and so does the horizon of the parameters' moving average.
- The peak rate, by `RATES`: times a power of the batch's ratio (its root, for SGD the
  ratio itself), and for optimizers whose updates have a size of their own divided by
  the ratio of the widths.
- A teacher is a one-block ViT with random parameters of a fixed seed. It knows nothing,
  and shows only that the student comes to answer as it does.
- Weights to begin from are not asked for: fine-tuning begins with a new model.
- Figures are left out; `--config.log.figures=True` draws them.
"""

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from vit_jax.config import diff, resolve_duration, to_json
from vit_jax.data.errors import DataError
from vit_jax.data.facts import split_size
from vit_jax.models import variants
from vit_jax.plan.program import describe

STEPS = 64
BATCH = 64
SIDE = 4  # patches high and wide, at most
PATCH = 8  # pixels, at most
WIDTH = 64
DEPTH = 2
HEADS = 2
CLASSES = 10
DATA = "patterns:2048"
SEED = 0  # of a teacher

# Powers of the ratios of batch and width in the ratio of the rates, by optimizer.
RATES = {
    "adamw": (0.5, -1.0),
    "adafactor": (0.5, -1.0),
    "lion": (0.5, -1.0),
    "muon": (0.5, 0.0),
    "lamb": (0.5, 0.0),
    "lars": (0.5, 0.0),
    "sgd": (1.0, 0.0),
}

# The most that a field may be, wherever a config has it.
MOST = {
    "model.unroll": DEPTH,
    "train.batch_size": BATCH,
    "train.accumulate": 2,
    "objective.decoder_width": WIDTH,
    "objective.decoder_depth": DEPTH,
    "objective.decoder_heads": HEADS,
    "objective.chunk": SIDE,
    "model.pre_logits": WIDTH,
    "model.num_classes": CLASSES,
    "data.workers": 0,
    "evals.*.batch_size": BATCH,
    "evals.*.train_batch_size": BATCH,
    "evals.*.epochs": 10,
    "evals.*.warmup_epochs": 1,
}

# What a field becomes, wherever a config has it.
VALUES = {
    "model.init_from": "",
    "model.attention": "auto",
    "objective.class_weights": (),
    "objective.teacher.path": "",
    "objective.teacher.logits": "",
    "objective.teacher.ema": False,
    "objective.teacher.num_heads": None,
    "objective.teacher.image_size": None,
    "objective.teacher.random_seed": SEED,
    "data.name": DATA,
    "data.mix": (),
    "data.split": "train",
    "evals.*.train_split": "train",
    "evals.*.split": "validation",
    "evals.*.optimizer": "lbfgs",  # a probe's LARS moves too little on a small set,
    "evals.*.augment": False,  # and this takes the features of whole images
    "mesh.slices": 1,
    "mesh.data": -1,
    "mesh.fsdp": 1,
    "mesh.tensor": 1,
    "mesh.sequence": 1,
    "log.profile": (0, 0),
    "log.figures": False,  # their programs take longer than the run
}

# Lengths in pixels of the image, and of a patch.
IMAGE_PIXELS = ("data.augment.resize", "data.augment.pad", "evals.*.resize")
PATCH_PIXELS = ("objective.mask_unit",)


def smoke(config: ConfigDict) -> tuple[ConfigDict, list[str]]:
    """A config's small form, and what it changed, a line each.

    Args:
      config: loaded, not resolved; command-line changes come afterwards.

    Raises:
      ConfigError: a duration is not given in one unit.
    """
    small = copy.deepcopy(config)
    total, examples = _length(config)
    with small.unlocked():
        for name in [name for name in small.evals if small.evals[name].get("data")]:
            del small.evals[name]
        _shrink_model(small)
        for path, most in MOST.items():
            for section, key in _found(small, path):
                if section[key] is not None:
                    section[key] = min(section[key], most)
        for path, value in VALUES.items():
            for section, key in _found(small, path):
                section[key] = value
        _shrink_pixels(config, small)
        _shrink_steps(config, small, total, examples)
        _shrink_rate(config, small)
    return small.lock(), diff(to_json(config), to_json(small))


def _length(config: ConfigDict) -> tuple[int, int]:
    """Steps of the run, and images of its training split, a million if not known."""
    facts = describe(config)
    try:
        examples = split_size(facts, config.data.split) if facts else 1_000_000
    except DataError:
        examples = 1_000_000
    return _steps(config.train.duration, config, examples), examples


def _steps(fields: ConfigDict, config: ConfigDict, examples: int) -> int:
    return resolve_duration(
        fields, batch_size=config.train.batch_size, num_examples=examples
    )


def _found(config: ConfigDict, path: str) -> Iterator[tuple[ConfigDict, str]]:
    """Where a config has a field; ``*`` is any name."""
    *parents, key = path.split(".")
    sections = [config]
    for name in parents:
        sections = [
            section[child]
            for section in sections
            for child in (list(section) if name == "*" else [name])
            if isinstance(section.get(child), ConfigDict)
        ]
    yield from ((section, key) for section in sections if key in section)


def _sizes(config: ConfigDict) -> dict[str, Any] | None:
    """The model's sizes; None where weights decide, or there is no such variant."""
    with contextlib.suppress(ValueError, TypeError):
        return variants.resolve(**config.model.to_dict())
    return None


def _shrink_model(config: ConfigDict) -> None:
    """Two narrow blocks and few small patches."""
    model, sizes = config.model, _sizes(config)
    if sizes is None:  # sizes of weights: those of a plain model
        sizes = {
            **{"patch_size": (16, 16), "width": 768, "mlp_dim": 3072, "stem": None},
            **{"num_heads": 12, "depth": 12, "image_size": _square(model.image_size)},
        }
    patch = tuple(min(side, PATCH) for side in sizes["patch_size"])
    sides = zip(sizes["image_size"], sizes["patch_size"], patch, strict=True)
    model.image_size = tuple(min(size // old, SIDE) * new for size, old, new in sides)
    width = min(sizes["width"], WIDTH)
    model.variant = f"mu/{patch[0]}x{patch[1]}"
    model.patch_size = None
    model.patch_sizes = (min(patch),) if model.patch_sizes else ()
    model.stem = None
    model.width = width
    model.depth = min(sizes["depth"], DEPTH)
    model.mlp_dim = round(width * sizes["mlp_dim"] / sizes["width"])
    model.num_heads = min(sizes["num_heads"], HEADS)
    for section, key in _found(config, "objective.teacher.variant"):
        section[key] = model.variant


def _square(size: tuple[int, ...]) -> tuple[int, int]:
    return (size[0], size[-1])


def _shrink_pixels(old: ConfigDict, new: ConfigDict) -> None:
    """Lengths in pixels, as the image or the patch became smaller."""
    sizes, smaller = _sizes(old), _sizes(new)
    patch = sizes["patch_size"][0] if sizes else 16
    ratios = {
        IMAGE_PIXELS: new.model.image_size[0] / old.model.image_size[0],
        PATCH_PIXELS: smaller["patch_size"][0] / patch if smaller else 1.0,
    }
    for paths, ratio in ratios.items():
        for section, key in (found for path in paths for found in _found(new, path)):
            value = section[key]
            if isinstance(value, tuple):
                section[key] = tuple(math.ceil(side * ratio) for side in value)
            else:
                section[key] = math.ceil(value * ratio)


def _shrink_steps(old: ConfigDict, new: ConfigDict, total: int, examples: int) -> None:
    """All durations in steps of a run that is shorter."""
    steps = min(total, STEPS)
    for name in ("warmup", "cooldown"):
        share = _steps(old.schedule[name], old, examples) / total
        _set(new.schedule[name], round(share * steps) or int(share > 0))
    _set(new.train.duration, steps)
    _set(new.checkpoint.every, max(steps // 2, 1))
    _set(new.log.every, max(steps // 16, 1))
    for section in new.evals.values():
        _set(section.every, max(steps // 2, 1))
    new.schedule.timescale = max(round(old.schedule.timescale * steps / total), 1)
    new.train.ema = old.train.ema ** (total / steps)


def _set(duration: ConfigDict, steps: int) -> None:
    duration.update(epochs=None, steps=steps, examples=None)


def _shrink_rate(old: ConfigDict, new: ConfigDict) -> None:
    """The peak learning rate, by `RATES`."""
    by_batch, by_width = RATES.get(new.optim.name, (0.5, 0.0))
    sizes = _sizes(old)
    width = sizes["width"] if sizes else new.model.width
    rate = new.optim.learning_rate
    rate *= (new.train.batch_size / old.train.batch_size) ** by_batch
    rate *= (new.model.width / width) ** by_width
    new.optim.learning_rate = float(f"{rate:.3g}")
