"""What a format tells about a checkpoint, and what goes with one that is written."""

import dataclasses
import pathlib
from collections.abc import Container, Mapping, Sequence
from typing import Any, Protocol

from vit_jax.models.settings import Settings
from vit_jax.weights.arrays import Arrays
from vit_jax.weights.files import WeightsError
from vit_jax.weights.table import Leaf, Row

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How images are made into a model's input.

    Args:
      image_size: height and width of the input, in pixels.
      mean, std: of pixels in 0..1, per channel; the input is ``(pixels - mean) / std``.
      resize: length of the smaller side before the central crop; 0 = no crop, both
        sides are resized to ``image_size``.
      interpolation: ``"bilinear"``, ``"bicubic"`` or ``"area"``.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    resize: int = 0
    interpolation: str = "bilinear"


@dataclasses.dataclass(frozen=True)
class Inferred:
    """What a format's reader finds out without reading any numbers.

    Args:
      settings: keyword arguments of `ViT` that differ from its defaults or have none.
      rows: where each parameter is.
      preprocessing: as recorded beside the arrays, or as the format's models have it.
      class_names: of the head, or empty.
      implied: parameters of ours that the format leaves out, at the value it means
        (e.g. a key bias of zero).
      decoder: keyword arguments of `MaeDecoder` where the file has one, else None.
      decoder_rows: where its parameters are; paths within the decoder.
    """

    settings: Mapping[str, Any]
    rows: Sequence[Row]
    preprocessing: Preprocessing
    class_names: tuple[str, ...] = ()
    implied: Mapping[str, Leaf] = dataclasses.field(default_factory=dict)
    decoder: Mapping[str, Any] | None = None
    decoder_rows: Sequence[Row] = ()


@dataclasses.dataclass(frozen=True)
class Card:
    """What goes beside written arrays, for people and for other libraries.

    Args:
      name: of the model, a few words.
      preprocessing: as in training.
      class_names: of the head, or empty.
      config: of the run, nested, or {} where there was none.
      dataset: what it was trained on, or "".
      metrics: results by name, such as ``val/accuracy``.
      licence: an SPDX name, or "" (then the card says that it is to be chosen).
      source: the file that was converted, or "".
    """

    name: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...] = ()
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dataset: str = ""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    licence: str = ""
    source: str = ""


Params = Mapping[str, Any]  # path within the ViT -> array


class Reader(Protocol):
    """A file of this package that reads a format."""

    def recognise(self, arrays: Arrays, /) -> bool:
        """Whether the arrays' names are this format's; marks nothing as used."""
        ...

    def infer(
        self,
        arrays: Arrays,
        /,
        *,
        num_heads: int | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> Inferred:
        """What the file holds; ``image_size`` only tells a grid that is not square."""
        ...


class Writer(Protocol):
    """A file of this package that writes a format."""

    def write(
        self,
        path: pathlib.Path,
        settings: Mapping[str, Any],
        params: Params,
        card: Card,
        /,
    ) -> None:
        """Writes a model of complete settings; nothing where it raises WeightsError."""
        ...


# Settings that change training or speed, not what a deterministic model computes.
TRAINING_ONLY = frozenset(
    {
        *("dropout", "attention_dropout", "drop_path", "patch_dropout", "patch_sizes"),
        *("dtype", "gradient_dtype", "attention", "remat", "unroll", "head_bias"),
        "dynamic_size",
    }
)


def complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with ViT's defaults filled in."""
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(Settings)
        if field.default is not dataclasses.MISSING
    }
    return defaults | dict(settings)


def refuse_what_does_not_fit(
    format: str, settings: Mapping[str, Any], able: Mapping[str, Container[Any]]
) -> None:
    """Raises unless a format can express a model.

    Args:
      format: its name, for the message.
      settings: complete.
      able: for each option that the format knows, the values it can hold; any option
        not in here must have ViT's default. Sizes (width, depth, ...) are free.

    Raises:
      WeightsError: names each setting that does not fit.
    """
    free = {
        *("image_size", "patch_size", "channels", "width", "depth", "mlp_dim"),
        *("num_heads", "num_classes"),
        *TRAINING_ONLY,
    }
    defaults = complete({})
    wrong = []
    for name, value in settings.items():
        if name in free:
            continue
        if name in able:
            if value not in able[name]:
                wrong.append(f"{name}={value!r}")
        elif value != defaults[name]:
            wrong.append(f"{name}={value!r}")
    if wrong:
        raise WeightsError(
            f"a model with {', '.join(wrong)} cannot be written as {format!r}: the "
            "format has no place for it; choose another --to"
        )


class Anything:
    """Contains every value."""

    def __contains__(self, value: object) -> bool:
        return True
