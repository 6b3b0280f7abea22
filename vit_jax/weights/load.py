"""Opening any readable checkpoint as a ViT, straight into its shards."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from vit_jax.models.mae_decoder import MaeDecoder
from vit_jax.models.vit import ViT
from vit_jax.weights import (
    big_vision_npz,
    huggingface,
    mae,
    original_npz,
    timm,
    workdir,
)
from vit_jax.weights.arrays import Arrays, open_arrays
from vit_jax.weights.base import Card, Inferred, Preprocessing, Reader, complete
from vit_jax.weights.build import build
from vit_jax.weights.files import WeightsError
from vit_jax.weights.limits import check_model
from vit_jax.weights.surgery import fit
from vit_jax.weights.table import Leaf, decode

# In the order in which they are tried.
FORMATS: dict[str, Reader] = {
    "npz": original_npz,
    "big_vision": big_vision_npz,
    "mae": mae,
    "huggingface": huggingface,
    "timm": timm,
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was opened: what it is, and its parameters, not read yet.

    Args:
      format: a name of ``FORMATS``, or ``"workdir"``.
      settings: complete keyword arguments of `ViT`.
      leaves: parameters by path within the ViT.
      extras: parameters of a run beside its encoder, by path.
      decoder_leaves: parameters of the MAE decoder, by path within it.
      arrays: what they are read from; counts bytes.
      inferred: everything that was found out.
      card: what to say when it is written again.
    """

    format: str
    settings: dict[str, Any]
    leaves: dict[str, Leaf]
    extras: dict[str, Leaf]
    decoder_leaves: dict[str, Leaf]
    arrays: Arrays
    inferred: Inferred
    card: Card


@dataclasses.dataclass(frozen=True)
class Record:
    """What was loaded, and how its images are prepared.

    Args:
      format: of the file.
      settings: every keyword argument the model was built with; ``activation`` is the
        GELU kind, ``norm_epsilon`` and ``pool`` are what their names say.
      preprocessing: mean, std, size, crop and interpolation.
      class_names: of the head, or empty.
      unused: arrays and parameters of the file that the model has no place for.
      missing: parameters of the model that the file does not have; they are at their
        initial values.
      changed: parameters that surgery changed, with what it did.
      decoder: MAE's decoder where the file has one.
      bytes_read: of the file's arrays, by this process.
    """

    format: str
    settings: Mapping[str, Any]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[str, ...]
    changed: Mapping[str, str]
    decoder: MaeDecoder | None
    bytes_read: int


class Loaded(NamedTuple):
    """A model and its record."""

    model: ViT
    record: Record


def open_checkpoint(
    path: str,
    *,
    num_heads: int | None = None,
    image_size: tuple[int, int] | None = None,
    step: int | str = "latest",
    ema: bool = False,
) -> Checkpoint:
    """Recognises a checkpoint and infers its model; no parameter is read.

    Args:
      path: a file, a folder or a work directory.
      num_heads: where the file does not say.
      image_size: tells the grid where it is not square and the file does not say.
      step, ema: which parameters of a work directory.

    Raises:
      WeightsError: the file is unknown, damaged, hostile or lacks something; one line.
    """
    if num_heads is not None and num_heads < 1:
        raise WeightsError(f"num_heads must be at least 1, got {num_heads}")
    if (run := workdir.locate(path)) is not None:
        folder, number = run
        return _open_workdir(folder, step if number is None else number, ema)
    arrays = open_arrays(path)
    name = next((name for name in FORMATS if FORMATS[name].recognise(arrays)), None)
    if name is None:
        some = ", ".join(list(arrays)[:4])
        raise WeightsError(
            f"{path}: not a format that is read here ({', '.join(FORMATS)}); it has "
            f"{len(arrays)} arrays such as {some}"
        )
    inferred = FORMATS[name].infer(arrays, num_heads=num_heads, image_size=image_size)
    settings = complete(inferred.settings)
    inferred = _per_channel(inferred, settings["channels"])
    check_model(path, settings, inferred.preprocessing)
    leaves = decode(arrays, inferred.rows, settings["depth"]) | dict(inferred.implied)
    decoder_leaves = {}
    if inferred.decoder is not None:
        depth = inferred.decoder["depth"]
        decoder_leaves = decode(arrays, inferred.decoder_rows, depth)
    card = Card(
        name=pathlib.PurePath(path).stem,
        preprocessing=inferred.preprocessing,
        class_names=inferred.class_names,
        source=pathlib.PurePath(path).name,
    )
    return Checkpoint(
        name, settings, leaves, {}, decoder_leaves, arrays, inferred, card
    )


def _per_channel(inferred: Inferred, channels: int) -> Inferred:
    """One mean and deviation a channel, where a format has the same for all three."""
    old = inferred.preprocessing
    if len(old.mean) == channels or len({*old.mean}) > 1 or len({*old.std}) > 1:
        return inferred
    new = dataclasses.replace(
        old, mean=old.mean[:1] * channels, std=old.std[:1] * channels
    )
    return dataclasses.replace(inferred, preprocessing=new)


def _open_workdir(path: str, step: int | str, ema: bool) -> Checkpoint:
    config = workdir.read_config(path)
    number = workdir.find_step(path, step)
    inferred = workdir.infer(config, workdir.read_class_names(path))
    found, arrays = workdir.open_leaves(path, number, ema=ema)
    prefix = "encoder/"
    leaves = {
        name.removeprefix(prefix): leaf
        for name, leaf in found.items()
        if name.startswith(prefix)
    }
    extras = {name: leaf for name, leaf in found.items() if not name.startswith(prefix)}
    card = workdir.read_card(path, number, inferred)
    settings = complete(inferred.settings)
    return Checkpoint("workdir", settings, leaves, extras, {}, arrays, inferred, card)


def load(
    path: str,
    *,
    image_size: tuple[int, int] | int | None = None,
    num_classes: int | None = None,
    num_heads: int | None = None,
    patch_size: tuple[int, int] | int | None = None,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    step: int | str = "latest",
    ema: bool = False,
) -> Loaded:
    """Loads any readable checkpoint as a model on normalised NHWC images.

    The model computes what the source's computes; nothing of the preprocessing is
    folded into it (``record.preprocessing`` says how images are prepared).

    Args:
      path: an npz, safetensors or torch file, a timm or Hugging Face folder, or a work
        directory.
      image_size: height and width to resample the positions to; one number is a square.
      num_classes: another number gives a head of zeros; 0 removes it.
      num_heads: where the file does not say.
      patch_size: to resize the patch kernel to.
      dtype: of the computation; parameters are float32.
      mesh: lays the parameters out by the rules of sharding.py; each process reads
        what its devices hold. None is the first device.
      step, ema: which parameters of a work directory.

    Raises:
      WeightsError: the file cannot be used; one line says why and what to do.
    """
    size, patch = _pair("image_size", image_size), _pair("patch_size", patch_size)
    if num_classes is not None and num_classes < 0:
        raise WeightsError(
            f"num_classes must be 0 (no head) or more, got {num_classes}"
        )
    opened = open_checkpoint(
        path, num_heads=num_heads, image_size=size, step=step, ema=ema
    )
    target: dict[str, Any] = opened.settings | {"dtype": dtype, "attention": "xla"}
    if size is not None:
        target["image_size"] = size
    if patch is not None:
        target["patch_size"] = patch
    if num_classes is not None:
        target["num_classes"] = num_classes
    preprocessing = opened.inferred.preprocessing
    if size is not None and size != preprocessing.image_size:
        preprocessing = _resized(preprocessing, size)
    leaves, changed = fit(opened.settings, opened.leaves, target)
    model, missing, unplaced = build(
        lambda key: ViT(key=key, **target), leaves, mesh=mesh, release=opened.arrays
    )
    decoder = None
    if opened.inferred.decoder is not None:
        settings = opened.inferred.decoder
        decoder, *_ = build(
            lambda key: MaeDecoder(**settings, key=key),
            opened.decoder_leaves,
            mesh=mesh,
            release=opened.arrays,
        )
    same_head = target["num_classes"] == opened.settings["num_classes"]
    record = Record(
        format=opened.format,
        settings=target,
        preprocessing=preprocessing,
        class_names=opened.inferred.class_names if same_head else (),
        unused=(
            *opened.arrays.unused,
            *opened.extras,
            *(path for path in opened.leaves if path not in leaves),
            *unplaced,
        ),
        missing=missing,
        changed=changed,
        decoder=decoder,
        bytes_read=opened.arrays.bytes_read,
    )
    return Loaded(model, record)


def _pair(name: str, value: tuple[int, int] | int | None) -> tuple[int, int] | None:
    """Height and width; one number is a square."""
    pair = (value, value) if isinstance(value, int) else value
    if pair is not None and min(pair) < 1:
        raise WeightsError(f"{name} must be positive, got {value}")
    return pair


def _resized(old: Preprocessing, size: tuple[int, int]) -> Preprocessing:
    """The same share of the image is cropped at another size."""
    resize = round(old.resize * min(size) / min(old.image_size))
    return dataclasses.replace(old, image_size=size, resize=resize)
