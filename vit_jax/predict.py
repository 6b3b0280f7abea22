"""Inference: images to classes, features and attention maps, on every local device."""

import io
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vit_jax import sharding
from vit_jax.data.antialias import antialiased_transform
from vit_jax.data.augment import eval_transform
from vit_jax.data.mixing import normalize
from vit_jax.models.attention_maps import content_map
from vit_jax.models.vit import ViT
from vit_jax.weights.load import Record, load

MAX_DRAWN = 100  # images in one picture

Outputs = dict[str, np.ndarray]


class PredictError(ValueError):
    """A call that cannot be answered; the message says what to do."""


class Guess(NamedTuple):
    """A class and its probability."""

    name: str
    probability: float


class Prediction(NamedTuple):
    """An image file and its most probable classes, best first; none without a head."""

    file: str
    guesses: tuple[Guess, ...]


def predict(
    source: str,
    images: Sequence[str],
    *,
    top: int = 5,
    batch_size: int = 64,
    features: str | None = None,
    attention: str | None = None,
    step: int | str = "latest",
    ema: bool = False,
    num_heads: int | None = None,
    num_classes: int | None = None,
    image_size: tuple[int, int] | int | None = None,
    say: Callable[[str], Any] = print,
) -> list[Prediction]:
    """Classifies image files with any readable checkpoint.

    Images are prepared as the checkpoint records it (EXIF's orientation is ignored, as
    in training), all of them before the first is computed: 150 KB each at 224 pixels.
    Every device of this process has a copy of the parameters and its part of a batch.

    Args:
      source: a work directory, or weights that `weights.load.load` reads.
      images: files in any format that OpenCV or PIL decodes.
      top: classes told for each.
      batch_size: images computed together, rounded up to a multiple of the devices.
      features: an npz to write: ``features`` [N, F] as they are pooled, ``logits``
        [N, K] (K = 0 without a head) and ``files`` [N].
      attention: a PNG to draw: each image beside where the pooled features have their
        content from. That is the rollout (arXiv 2005.00928) from CLS, or from the mean
        of the patches where there is none; for a MAP head, what its probe attends to.
      step, ema: which parameters of a work directory.
      num_heads, num_classes, image_size: as of `load`.
      say: prints a line.

    Raises:
      PredictError: the call, or one of the images; nothing was computed.
      WeightsError: the checkpoint.
    """
    _check(images, top, batch_size, features, attention)
    mesh = sharding.build_mesh(
        slices=1, data=-1, fsdp=1, tensor=1, sequence=1, devices=jax.local_devices()
    )
    model, record = load(
        source,
        image_size=image_size,
        num_classes=num_classes,
        num_heads=num_heads,
        mesh=mesh,
        step=step,
        ema=ema,
    )
    if model.head is None and features is None and attention is None:
        raise PredictError(
            f"{source}: the model has no head, so it knows no classes; write its "
            "features with --features=FILE.npz"
        )
    if record.missing:
        say(f"not in {source}, so at their initial values: {', '.join(record.missing)}")
    prepared = _prepare(images, record)
    outputs = _compute(
        model, record, prepared, mesh, batch_size, attend=attention is not None
    )
    predictions = [
        Prediction(file, guesses)
        for file, guesses in zip(
            images, _rank(outputs["logits"], record.class_names, top), strict=True
        )
    ]
    for prediction in predictions:
        if prediction.guesses:
            say(prediction.file)
        for name, probability in prediction.guesses:
            say(f"  {probability:6.1%}  {name}")
    if features is not None:
        _write_features(features, images, outputs)
        say(f"features: {features}")
    if attention is not None:
        _draw_attention(attention, prepared, outputs["attention"], predictions)
        say(f"attention: {attention}")
    return predictions


def _check(
    images: Sequence[str],
    top: int,
    batch_size: int,
    features: str | None,
    attention: str | None,
) -> None:
    """Raises for whatever is wrong without knowing the model."""
    for name, value in (("top", top), ("batch_size", batch_size)):
        if value < 1:
            raise PredictError(f"--{name} must be at least 1, got {value}")
    for name, output, ending in (
        ("features", features, ".npz"),
        ("attention", attention, ".png"),
    ):
        if output is not None:
            _check_output(name, pathlib.Path(output), ending)
    if not images:
        raise PredictError("no images; name at least one file")
    if attention is not None and len(images) > MAX_DRAWN:
        raise PredictError(
            f"--attention draws at most {MAX_DRAWN} images, got {len(images):,}; name "
            "fewer"
        )
    for image in images:
        if os.path.isdir(image):
            raise PredictError(
                f"{image}: is a folder; name the files in it, e.g. {image}/*.jpg"
            )
        if not os.path.exists(image):
            raise PredictError(f"{image}: no such image")


def _check_output(name: str, path: pathlib.Path, ending: str) -> None:
    # Another ending is more likely an image that took the place of the file's name.
    if path.suffix != ending:
        raise PredictError(f"--{name} must end with {ending}, got {str(path)!r}")
    if path.is_dir():
        raise PredictError(f"--{name} {str(path)!r} is a folder; name a file")
    if not path.parent.is_dir():
        raise PredictError(
            f"--{name} {str(path)!r}: there is no folder {str(path.parent)!r}; create "
            "it, or write elsewhere"
        )
    if not os.access(path.parent, os.W_OK):
        raise PredictError(f"--{name} {str(path)!r}: the folder cannot be written to")


def _prepare(files: Sequence[str], record: Record) -> list[np.ndarray]:
    """Every image as uint8 [H, W, C], as the model was trained to see it."""
    chosen, channels = record.preprocessing, record.settings["channels"]
    if channels not in (1, 3):
        raise PredictError(
            f"the model takes images of {channels} channels; files have 1 or 3"
        )
    settings = {
        "image_size": chosen.image_size,
        "channels": channels,
        "resize": chosen.resize,
    }
    if record.format == "workdir":  # as the run's evaluations do
        transform = eval_transform(**settings)
    else:
        transform = antialiased_transform(
            **settings, interpolation=chosen.interpolation
        )

    def prepare(file: str) -> np.ndarray:
        try:
            return transform(pathlib.Path(file).read_bytes())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise PredictError(f"{file}: {reason}") from None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(prepare, files))


def _compute(
    model: ViT,
    record: Record,
    images: Sequence[np.ndarray],
    mesh: jax.sharding.Mesh,
    batch_size: int,
    *,
    attend: bool,
) -> Outputs:
    """``features``, ``logits`` and, if asked for, ``attention`` of every image."""
    graphdef, state = nnx.split(model)
    mean = _per_channel(record.preprocessing.mean, model.channels)
    std = _per_channel(record.preprocessing.std, model.channels)

    @jax.jit
    def run(state: Any, pixels: jax.Array) -> dict[str, jax.Array]:
        model = nnx.merge(graphdef, state)
        inputs = normalize(pixels, mean, std)
        tokens = model.tokens(inputs)
        outputs = {"features": model.pool(tokens).astype(jnp.float32)}
        if model.head is not None:
            outputs["logits"] = model.logits(tokens)
        if attend:
            outputs["attention"] = content_map(model, inputs)
        return outputs

    place = sharding.batch_sharding(mesh)
    rows = -(-min(batch_size, len(images)) // mesh.size) * mesh.size
    parts = [
        jax.tree.map(
            lambda array: array[:count],  # noqa: B023  called at once
            jax.device_get(run(state, jax.device_put(batch, place))),
        )
        for batch, count in _batches(images, rows)
    ]
    outputs = {
        name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }
    return {"logits": np.zeros((len(images), 0), np.float32)} | outputs


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """A number a channel: gray models may record the same one three times.

    Raises:
      PredictError: they are of other channels than the model's.
    """
    if len(values) == channels:
        return values
    if len(set(values)) == 1:
        return values[:1] * channels
    raise PredictError(
        f"the model takes images of {channels} channels, but its record normalises "
        f"by {values}"
    )


def _batches(
    images: Sequence[np.ndarray], rows: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Batches of one shape, and how many rows of each are images, not padding."""
    for start in range(0, len(images), rows):
        batch = np.zeros((rows, *images[0].shape), np.uint8)
        part = images[start : start + rows]
        batch[: len(part)] = part
        yield batch, len(part)


def _rank(
    logits: np.ndarray, class_names: Sequence[str], top: int
) -> Iterator[tuple[Guess, ...]]:
    """The ``top`` classes of every row, best first; equal ones by their number."""
    names = list(class_names)
    if len(names) != logits.shape[1]:
        names = [f"class {number}" for number in range(logits.shape[1])]
    for row in logits.astype(np.float64):
        exponential = np.exp(row - row.max(initial=-np.inf))
        probabilities = exponential / exponential.sum()
        best = np.argsort(-probabilities, kind="stable")[:top]
        yield tuple(Guess(names[i], float(probabilities[i])) for i in best)


def _write_features(path: str, files: Sequence[str], outputs: Outputs) -> None:
    features, logits = outputs["features"], outputs["logits"]

    def write(stream: io.BufferedIOBase) -> None:
        np.savez(stream, features=features, logits=logits, files=np.array(files))

    _replace(path, write)


def _draw_attention(
    path: str,
    images: Sequence[np.ndarray],
    maps: np.ndarray,
    predictions: Sequence[Prediction],
) -> None:
    # Matplotlib takes a second to import.
    from vit_jax.report.attention import draw

    captions = [
        f"{guesses[0].name.partition(',')[0]}  {guesses[0].probability:.1%}"
        if guesses
        else ""
        for _, guesses in predictions
    ]
    names = [prediction.file for prediction in predictions]
    _replace(
        path,
        lambda stream: draw(stream, images, list(maps), names=names, captions=captions),
    )


def _replace(path: str, write: Callable[[io.BufferedIOBase], Any]) -> None:
    """Writes a whole file or, where that fails, leaves what was there."""
    place = pathlib.Path(path)
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            write(stream)
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)
