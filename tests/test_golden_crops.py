"""Crops, sizes, repeats and averages of every recipe, typed from what is published.

Sources as in test_golden.py; DeiT's repeats, jitter and average from arXiv 2012.12877
table 9 and deit/main.py (RandAugment takes the place of the jitter), DeiT III's crops
and sizes from README_revenge.md, SimMIM's area from its config, AIM's from 2401.08541.
"""

from typing import NamedTuple

import pytest

from tests.test_golden import TABLE
from tests.test_recipes import load


class Row(NamedTuple):
    crop: str = "inception"
    area: float = 0.05  # the least, of the image
    jitter: float = 0.0
    repeats: int = 1
    ema: float = 0.0
    resize: int = 256  # of an image that is evaluated, before the center is cut out
    size: int = 224


TUNED = Row(area=0.08)
DEIT = Row(area=0.08, repeats=4, ema=0.99996)  # published: 3, which do not divide 1,024
DEIT3 = Row(area=0.08, jitter=0.3, repeats=4, resize=224)
DEIT3_I21K = Row(crop="simple", jitter=0.3, resize=224)
TRANSFER = Row(resize=448, size=384)

# The first that a spec begins with.
PUBLISHED = {
    "deit_i1k": DEIT,
    "deit3_i1k:B/16,finetune": TUNED._replace(resize=224),
    "deit3_i1k:L/16,finetune": TUNED._replace(resize=224),
    "deit3_i1k:H/14,finetune": TUNED._replace(resize=224),
    "deit3_i1k:S/16": DEIT3,
    "deit3_i1k:H/14": DEIT3._replace(size=154, resize=154),
    "deit3_i1k": DEIT3._replace(size=192, resize=192),
    "deit3_i21k:H/14,finetune": DEIT3_I21K,
    "deit3_i21k:H/14": DEIT3_I21K._replace(size=126, resize=126),
    "deit3_i21k": DEIT3_I21K,
    "mae_i1k": Row(area=0.2),
    "mae_finetune_i1k": TUNED,
    "simmim_i1k": Row(area=0.67),
    "aim_i1k": Row(area=0.4),
    "transfer:imagenet2012": TRANSFER,
    "transfer:oxford": TRANSFER,
    "transfer": TRANSFER._replace(crop="random"),  # CIFAR
    "": Row(),  # big_vision's and the ViT paper's
}


@pytest.mark.parametrize("spec", TABLE)
def test_as_published(spec):
    config = load(spec)
    augment, size = config.data.augment, config.model.image_size
    row = next(row for start, row in PUBLISHED.items() if spec.startswith(start))
    evaluated = config.evals.get("val", {"resize": row.resize})  # none without labels
    found = Row(
        crop=augment.crop,
        # A simple crop has no area.
        area=row.area if augment.crop in ("simple", "random") else augment.area[0],
        jitter=augment.color_jitter,
        repeats=augment.repeats,
        ema=config.train.ema,
        resize=evaluated["resize"],
        size=size[0],
    )
    assert row == found
    assert size[0] == size[1] and augment.area[1] == 1.0 and augment.flip
    if augment.crop == "random":
        assert augment.resize == (448, 448)
