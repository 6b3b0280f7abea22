"""Work directories of vit_jax: config.json is the model, tensorstore has the arrays."""

import contextlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax import storage
from vit_jax.models import variants
from vit_jax.weights.arrays import Arrays
from vit_jax.weights.base import Card, Inferred, Preprocessing
from vit_jax.weights.files import WeightsError
from vit_jax.weights.table import Leaf

# Of the config's model section, what is no keyword of the ViT.
_NOT_MODEL = ("init_from",)


def locate(path: str) -> tuple[str, int | None] | None:
    """The work directory and step that ``path`` names; None if it names neither.

    A work directory, its ``checkpoints`` folder (no step), or one step in there.
    """
    folder = _folder(path)
    places: list[tuple[Any, int | None]] = [(folder, None), (folder.parent, None)]
    if folder.name.isdigit():
        places.append((folder.parent.parent, int(folder.name)))
    for run, step in places:
        if (run / "checkpoints").is_dir() and (run / "config.json").is_file():
            inside = folder in (run, run / "checkpoints") or step is not None
            return (str(run), step) if inside else None
    return None


def read_config(path: str) -> dict[str, Any]:
    """The config of a run as it ran, with tuples where JSON has lists.

    Raises:
      WeightsError: there is none, or it is not one of ours.
    """
    file = _folder(path) / "config.json"
    try:
        config = json.loads(file.read_text())["config"]
        return _tuples(config)
    except OSError:
        raise WeightsError(
            f"{path}: no config.json; name a run's work directory"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise WeightsError(f"{file}: not the config of a run") from None


def _folder(path: str) -> Any:
    """A path that may be in a bucket."""
    if storage.is_bucket(path):
        storage.prepare(path)
    return storage.absolute(path)


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def steps(path: str) -> list[int]:
    """Saved steps of a run, in order; none where there is no run."""
    folder = _folder(path) / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(int(child.name) for child in folder.iterdir() if child.name.isdigit())


def find_step(path: str, step: int | str = "latest") -> int:
    """A saved step by number, ``"latest"`` or ``"best"``.

    Raises:
      WeightsError: it is not there; those that are, are listed.
    """
    saved = steps(path)
    number = step
    if saved and step in ("latest", "best"):
        best = _best(path, saved) if step == "best" else None
        number = saved[-1] if best is None else best
    if not str(number).isdigit() or int(number) not in saved:
        have = ", ".join(map(str, saved)) or "none"
        raise WeightsError(f"{path}: no checkpoint {step!r}; there: {have}")
    return int(number)


def _best(path: str, saved: list[int]) -> int | None:
    """The step with the best result of ``checkpoint.best``, as training ranks them."""
    name = read_config(path)["checkpoint"]["best"]
    ranks = {}
    for step in saved:
        with contextlib.suppress(WeightsError):  # damaged: not the best
            meta = _meta(path, step)
            value = meta["evaluations"].get(name, math.nan)
            if meta["measured"] and not math.isnan(value):
                ranks[step] = -value if name.endswith(("loss", "ece", "mse")) else value
    return max(ranks, key=lambda step: (ranks[step], step)) if ranks else None


def _meta(path: str, step: int) -> dict[str, Any]:
    """What a run noted beside the arrays of a step: evaluations, digests."""
    from vit_jax import digest

    file = _folder(path) / "checkpoints" / str(step) / "meta" / "metadata"
    try:
        return digest.signed(file.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: checkpoint {step} is damaged: {file.name} of it: "
            f"{str(error).splitlines()[0][:200]}"
        ) from None


def infer(config: Mapping[str, Any], class_names: tuple[str, ...]) -> Inferred:
    """The model's settings and how its images are prepared, from a run's config."""
    model = {
        name: value for name, value in config["model"].items() if name not in _NOT_MODEL
    }
    settings = variants.resolve(**model)
    data, evals = config["data"], config["evals"]
    channels = settings["channels"]
    resize = next((entry.get("resize", 0) for entry in evals.values()), 0)
    preprocessing = Preprocessing(
        image_size=settings["image_size"],
        mean=_channels(data["mean"], channels),
        std=_channels(data["std"], channels),
        resize=resize,
        interpolation="bilinear",
    )
    return Inferred(settings, (), preprocessing, class_names)


def _channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return tuple(values) * channels if len(values) == 1 else tuple(values)


def read_class_names(path: str) -> tuple[str, ...]:
    """The names that training wrote beside the config, or none."""
    file = _folder(path) / "classes.txt"
    return tuple(file.read_text().splitlines()) if file.exists() else ()


def open_leaves(
    path: str, step: int, *, ema: bool = False
) -> tuple[dict[str, Leaf], Arrays]:
    """Parameters of a checkpoint by path (``encoder/...``), not read yet.

    Each is compared with its digest before its first slice is given out.

    Raises:
      WeightsError: the checkpoint has no such parameters, or is damaged.
    """
    from vit_jax.checkpoint.arrays import LeafMeta, StepArrays
    from vit_jax.checkpoint.errors import CheckpointError, DamageError

    part = "ema." if ema else "params."
    metas = {
        name: LeafMeta(dtype, tuple(shape), found)
        for name, (dtype, shape, found) in _meta(path, step)["leaves"].items()
        if name.startswith(part)
    }
    if not metas:
        what = "moving average of the parameters" if ema else "parameters"
        raise WeightsError(f"{path}: checkpoint {step} has no {what}")
    state = _folder(path) / "checkpoints" / str(step) / "state"
    stored = StepArrays(state, metas)
    counter = Arrays(path, {})
    checked = set()

    def leaf(name: str) -> Leaf:
        def read(index: tuple[slice, ...]) -> np.ndarray:
            try:
                if name not in checked:  # once, chunk by chunk
                    stored.check_leaf(name)
                    checked.add(name)
                numbers = np.asarray(stored.read(name, index), np.float32)
            except (CheckpointError, DamageError) as error:
                raise WeightsError(
                    f"{path}: checkpoint {step} cannot be read: {error}"
                ) from None
            counter.bytes_read += numbers.nbytes
            return numbers

        return Leaf(metas[name].shape, read)

    leaves = {
        name.removeprefix(part).replace(".", "/"): leaf(name) for name in sorted(metas)
    }
    return leaves, counter


def read_card(path: str, step: int, inferred: Inferred) -> Card:
    """What to say beside weights of this run."""
    config = read_config(path)
    dataset = config["data"]["name"]
    del config["data"]["dir"]  # of this machine, and nobody else's business
    return Card(
        name=pathlib.PurePath(str(path)).name,
        preprocessing=inferred.preprocessing,
        class_names=inferred.class_names,
        config=config,
        dataset=dataset,
        metrics=_meta(path, step)["evaluations"],
    )
