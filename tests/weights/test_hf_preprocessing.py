"""Image processors' files against what the library's own processors do."""

import json

import numpy as np
import pytest

from tests.foreign import transformers
from vit_jax.weights import WeightsError
from vit_jax.weights.arrays import Arrays
from vit_jax.weights.base import HALF, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from vit_jax.weights.hf_preprocessing import read, to_config

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

DEFAULT = Preprocessing((20, 20), IMAGENET_MEAN, IMAGENET_STD)
ONES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}

# Files as they have been in the library's history, for a model of 20 x 20 pixels.
RECORDED = {
    "one_number": ({"size": 20, **ONES}, Preprocessing((20, 20))),
    "both_sides": (
        {"size": {"height": 20, "width": 20}, "resample": 3, **ONES},
        Preprocessing((20, 20), interpolation="bicubic"),
    ),
    "cropped": (
        {
            "size": {"shortest_edge": 26},
            "do_center_crop": True,
            "crop_size": {"height": 20, "width": 20},
            "resample": 3,
        },
        Preprocessing((20, 20), IMAGENET_MEAN, IMAGENET_STD, 26, "bicubic"),
    ),
    # DINOv2's is for 224 pixels and its positions are for 518: the share is kept.
    "other_size": (
        {"size": 32, "do_center_crop": True, "crop_size": 28},
        Preprocessing((20, 20), IMAGENET_MEAN, IMAGENET_STD, 23),
    ),
    "squashed_and_cropped": (
        {
            "size": {"height": 26, "width": 26},
            "do_center_crop": True,
            "crop_size": 20,
        },
        Preprocessing((20, 20), IMAGENET_MEAN, IMAGENET_STD, 26),
    ),
    "keeps_aspect": (
        {"size": {"shortest_edge": 20}, "resample": 4},
        Preprocessing((20, 20), IMAGENET_MEAN, IMAGENET_STD, 20, "area"),
    ),
    "not_normalised": (
        {"size": 20, "do_normalize": False},
        Preprocessing((20, 20), (0.0,) * 3, (1.0,) * 3),
    ),
    "in_bytes": (
        {
            "size": 20,
            "do_rescale": False,
            "image_mean": [51] * 3,
            "image_std": [255] * 3,
        },
        Preprocessing((20, 20), (0.2,) * 3, (1.0,) * 3),
    ),
}


def write_config(folder, config, name="preprocessor_config.json"):
    (folder / name).write_text(json.dumps(config))
    return Arrays(str(folder), {})


@pytest.mark.parametrize("name", RECORDED)
def test_recorded(name, tmp_path):
    config, expected = RECORDED[name]
    assert read(write_config(tmp_path, config), DEFAULT) == expected
    # Next to the arrays, too, and as a part of a processor of images and text.
    beside = Arrays(str(tmp_path / "model.safetensors"), {})
    assert read(beside, DEFAULT) == expected
    (tmp_path / "preprocessor_config.json").unlink()
    part = {"image_processor": config, "processor_class": "SiglipProcessor"}
    arrays = write_config(tmp_path, part, "processor_config.json")
    assert read(arrays, DEFAULT) == expected


def test_nothing_recorded(tmp_path):
    assert read(Arrays(str(tmp_path), {}), DEFAULT) == DEFAULT
    text_only = {"processor_class": "SiglipProcessor"}
    arrays = write_config(tmp_path, text_only, "processor_config.json")
    assert read(arrays, DEFAULT) == DEFAULT


PREPROCESSINGS = {
    "squashed": Preprocessing((12, 20), HALF, (0.25, 0.5, 0.75)),
    "cropped": Preprocessing((12, 20), IMAGENET_MEAN, IMAGENET_STD, 22, "bicubic"),
    "area": Preprocessing((20, 20), HALF, HALF, interpolation="area"),
}


def prepare(image, preprocessing):
    """What `Preprocessing` says, with Pillow."""
    (height, width), resize = preprocessing.image_size, preprocessing.resize
    size = width, height
    if resize:
        scale = resize / min(image.size)
        size = tuple(round(side * scale) for side in image.size)
    pixels = np.asarray(image.resize(size, FILTERS[preprocessing.interpolation]))
    top, left = ((pixels.shape[i] - (height, width)[i]) // 2 for i in (0, 1))
    pixels = pixels[top : top + height, left : left + width] / 255.0
    return (pixels - preprocessing.mean) / preprocessing.std


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_written_for_the_librarys_processor(name, tmp_path):
    preprocessing = PREPROCESSINGS[name]
    arrays = write_config(tmp_path, to_config(preprocessing))
    assert read(arrays, Preprocessing(preprocessing.image_size)) == preprocessing
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 44, 3), np.uint8)
    image = Image.fromarray(pixels)
    given = processor(image, return_tensors="np")["pixel_values"][0]
    expected = prepare(image, preprocessing)
    np.testing.assert_allclose(given.transpose(1, 2, 0), expected, rtol=0, atol=1e-5)


BAD = {
    "resample is 1; known: 2 .bilinear., 3": {"size": 20, "resample": 1},
    "is not an image processor's": {"size": "large", "do_center_crop": True},
    "not an image processor's": {"size": 20, "do_center_crop": True, "crop_size": 0},
    "an image processor's": {"size": 20, "image_mean": 0.5},
    "image processor's": {"size": {"longest_edge": 20}, "do_center_crop": True},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_files_are_refused(message, tmp_path):
    with pytest.raises(WeightsError, match=message):
        read(write_config(tmp_path, BAD[message]), DEFAULT)


def test_damaged_files_are_refused(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(WeightsError, match="not a whole JSON file"):
        read(Arrays(str(tmp_path), {}), DEFAULT)
