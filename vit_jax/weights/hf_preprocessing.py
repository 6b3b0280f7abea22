"""Preprocessing as Hugging Face image processors record it beside a model."""

import pathlib
from collections.abc import Mapping
from typing import Any

from vit_jax.weights.arrays import Arrays
from vit_jax.weights.base import Preprocessing
from vit_jax.weights.files import WeightsError, read_json

MAX_BYTES = 1 << 20
FILE = "preprocessor_config.json"
# Numbers of Pillow's filters.
RESAMPLE = {2: "bilinear", 3: "bicubic", 4: "area"}


def read(arrays: Arrays, default: Preprocessing) -> Preprocessing:
    """What the processor beside the arrays does; ``default`` where there is none.

    The input is as large as the model takes it, ``default.image_size``: where the
    processor makes another size (models on a resampled grid, or patches that do not
    divide the image), what is cropped is the same share of the image.

    Raises:
      WeightsError: the file is damaged, or its filter is not one of ours.
    """
    config = _recorded(arrays.name)
    if not config:
        return default
    try:
        return _preprocessing(config, default)
    except WeightsError as error:
        raise WeightsError(f"{arrays.name}: {FILE}: {error}") from None
    except (TypeError, ValueError, KeyError, ArithmeticError):
        raise WeightsError(
            f"{arrays.name}: {FILE} is not an image processor's; leave it out to "
            "prepare images as the family's models do"
        ) from None


def _recorded(name: str) -> dict[str, Any]:
    place = pathlib.Path(name).expanduser()
    folder = place if place.is_dir() else place.parent
    for file in (folder / FILE, folder / "processor_config.json"):
        if not file.is_file():
            continue
        if file.stat().st_size > MAX_BYTES:
            raise WeightsError(f"{file}: larger than {MAX_BYTES >> 20} MiB")
        content = read_json(file.read_bytes(), file)
        found = content.get("image_processor", content)
        if isinstance(found, dict) and found.keys() & {"size", "image_mean"}:
            return found
    return {}


def _preprocessing(config: Mapping[str, Any], default: Preprocessing) -> Preprocessing:
    resample = config.get("resample", 2)
    if resample not in RESAMPLE:
        raise WeightsError(f"resample is {resample!r}; known: {_known()}")
    mean, std = _statistics(config, default)
    return Preprocessing(
        image_size=default.image_size,
        mean=mean,
        std=std,
        resize=_resize(config, default.image_size),
        interpolation=RESAMPLE[resample],
    )


def _known() -> str:
    return ", ".join(f"{number} ({name})" for number, name in RESAMPLE.items())


def _statistics(
    config: Mapping[str, Any], default: Preprocessing
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels in 0..1."""
    mean, std = default.mean, default.std
    if not config.get("do_normalize", True):
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    else:
        mean = tuple(map(float, config.get("image_mean", mean)))
        std = tuple(map(float, config.get("image_std", std)))
    # What a processor calls pixels are ours times this.
    factor = config.get("rescale_factor", 1 / 255)
    scale = 255.0 * (factor if config.get("do_rescale", True) else 1.0)
    if abs(scale - 1.0) < 1e-6:
        return mean, std
    return tuple(each / scale for each in mean), tuple(each / scale for each in std)


def _resize(config: Mapping[str, Any], image_size: tuple[int, int]) -> int:
    """Length of the smaller side before the crop of ``image_size``; 0 = no crop."""
    size = config.get("size", min(image_size))
    keeps_aspect = isinstance(size, Mapping) and "shortest_edge" in size
    if config.get("do_center_crop", False):
        share = _side(size) / _side(config.get("crop_size", size))
    elif keeps_aspect:
        share = 1.0
    else:
        return 0
    return round(min(image_size) * share)


def _side(size: Any) -> int:
    """The smaller side of a size in any of the forms that have been in use."""
    if isinstance(size, Mapping):
        if "shortest_edge" in size:
            return int(size["shortest_edge"])
        return min(int(size["height"]), int(size["width"]))
    return int(size)


def to_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """The content of ``preprocessor_config.json``."""
    height, width = preprocessing.image_size
    names = {name: number for number, name in RESAMPLE.items()}
    config: dict[str, Any] = {
        "do_resize": True,
        "resample": names[preprocessing.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    if not preprocessing.resize:
        return config | {
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": height, "width": width},
        }
    return config | {  # the processor of ViTs does not crop
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": preprocessing.resize},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
    }
