"""A model of a size that none has is refused, and every real one is not."""

import math

import pytest

from tests.models import tiny
from vit_jax.weights.base import Preprocessing, complete
from vit_jax.weights.files import WeightsError
from vit_jax.weights.limits import check_model

SIZE = tiny.SETTINGS["image_size"]


def check(preparation=None, **changes):
    settings = complete(tiny.settings(**changes))
    check_model("file", settings, preparation or Preprocessing(SIZE))


def test_tiny_model():
    check()


@pytest.mark.parametrize(
    ("patch", "side"),
    [(32, 224), (16, 384), (14, 518), (8, 448), (16, 1024), (16, 2048)],
)
def test_models_that_there_are(patch, side):
    check(image_size=(side, side), patch_size=(patch, patch))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(image_size=(0, 20)), r"image_size is \(0, 20\)"),
        (dict(image_size=(-12, 20)), "image_size is"),
        (dict(image_size=(12, 10**9)), "image_size is"),
        (dict(image_size=(16000, 16000)), r"image_size is \(16000, 16000\)"),
        (dict(patch_size=(0, 5)), "image_size is|patch_size is"),
        (dict(patch_size=(5, 5)), r"patch_size is \(5, 5\)"),
        (dict(patch_size=(24, 5)), "image_size is"),
        (dict(image_size=(1024, 1280)), "number of patches is 65536"),
        (dict(norm_epsilon=0.0), "norm_epsilon is 0.0"),
        (dict(norm_epsilon=-1e-6), "norm_epsilon is"),
        (dict(norm_epsilon=math.nan), "norm_epsilon is nan"),
        (dict(rope_base=0.0), "rope_base is"),
        (dict(rope_base=1e300), "rope_base is"),
        (dict(layer_scale=math.inf), "layer_scale is inf"),
        (dict(preparation=Preprocessing(SIZE, mean=(math.nan,))), "mean is"),
        (dict(preparation=Preprocessing(SIZE, mean=())), "mean is"),
        (dict(preparation=Preprocessing(SIZE, std=(0.5, 0.0, 0.5))), "std is"),
        (dict(preparation=Preprocessing(SIZE, std=(math.inf,))), "std is"),
        (
            dict(preparation=Preprocessing(SIZE, resize=-1)),
            "resize before the crop is -1",
        ),
        (dict(preparation=Preprocessing(SIZE, resize=10**9)), "resize before"),
    ],
)
def test_what_no_model_has(changes, message):
    with pytest.raises(
        WeightsError, match=f"^file: ({message}).*, which no model has$"
    ):
        check(**changes)
