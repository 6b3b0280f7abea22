"""The size table, its parser, and parameter counts against the published ones."""

import re

import jax
import pytest

from tests.models import tiny
from vit_jax.models.variants import VARIANTS, parse, resolve
from vit_jax.models.vit import build

# width, depth, mlp_dim, num_heads: Table 2 of arXiv 2106.04560 and big_vision.
SIZES = {
    "mu": (32, 1, 128, 2),
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "So400m": (1152, 27, 4304, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
    "g-opt": (1536, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
    "G-opt": (1536, 48, 8192, 16),
    "e": (1792, 56, 15360, 16),
    # aim_600M to aim_7B of apple/ml-aim's aim-v1/aim/v1/torch/models.py.
    "AIM-600M": (1536, 24, 6144, 12),
    "AIM-1B": (2048, 24, 8192, 16),
    "AIM-3B": (3072, 24, 12288, 24),
    "AIM-7B": (4096, 32, 16384, 32),
}

# Millions, without head, as published: the digits given are the precision.
MILLIONS = {
    "mu/16": "0.04",
    "Ti/16": "5.5",
    "S/16": "21.7",
    "M/16": "38.3",
    "B/16": "85.8",
    "L/16": "303",
    "So400m/14": "412",
    "H/14": "631",
    "g/14": "1011",
    "g-opt/14": "1134.6",
    "G/14": "1843",
    "G-opt/14": "1663.3",
    "e/14": "3805",
}

# With CLS, positions and head; timm's models of these names.
HYBRID_COUNTS = {"R+Ti/16": 6_337_704, "R26+S/32": 36_431_912, "R50+L/32": 328_994_856}

# Headless parameter counts of other libraries' models, positions for CLS included.
EXACT = {
    "Ti/16": 5_524_416,
    "S/16": 21_665_664,
    "B/16": 85_798_656,
    "L/16": 303_301_632,
    "H/14": 630_764_800,
}


def closed_form(name, *, cls_position):
    """Parameters of a 224-pixel model with CLS and learned positions, no head."""
    size, patch = name.split("/")
    width, depth, mlp_dim, _ = SIZES[size]
    tokens = (224 // int(patch)) ** 2 + cls_position
    embedding = int(patch) ** 2 * 3 * width + width
    attention = 4 * (width * width + width)
    mlp = 2 * width * mlp_dim + mlp_dim + width
    norms = 2 * 2 * width
    blocks = depth * (attention + mlp + norms)
    return embedding + width + tokens * width + blocks + 2 * width


def count(name, position):
    """Parameters of the built model without its head, by shapes alone."""
    _, params = tiny.shapes(
        lambda key: build(
            variant=name,
            image_size=(224, 224),
            channels=3,
            num_classes=10,
            pool="cls",
            position=position,
            pre_logits=0,
            key=key,
        )
    )
    return sum(
        leaf.size
        for key in params
        if key != "head"
        for leaf in jax.tree.leaves(params[key])
    )


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size):
    variant = parse(f"{size}/16")
    found = (variant.width, variant.depth, variant.mlp_dim, variant.num_heads)
    assert found == SIZES[size]
    assert variant.patch_size == (16, 16)
    assert variant.stem is None
    assert size in VARIANTS


@pytest.mark.parametrize("size", VARIANTS)
def test_every_size_has_whole_heads(size):
    variant = parse(f"{size}/14")
    assert variant.width % variant.num_heads == 0


@pytest.mark.parametrize(
    ("text", "patch_size"),
    [("S/8", (8, 8)), ("S/16x8", (16, 8)), ("g-opt/14", (14, 14)), ("B/4x32", (4, 32))],
)
def test_patch_sizes(text, patch_size):
    assert parse(text).patch_size == patch_size


# The published hybrids (vision_transformer's configs/models.py). R+Ti/16 has 8 x 8
# patches at the stride 4 of its root: pixels from patch to patch are 32.
HYBRIDS = {
    "R+Ti/16": ((), 32),
    "R26+S/32": ((2, 2, 2, 2), 32),
    "R26+B/32": ((2, 2, 2, 2), 32),
    "R50+B/16": ((3, 4, 9), 16),
    "R50+L/32": ((3, 4, 6, 3), 32),
}


@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrids(name):
    stem, stride = HYBRIDS[name]
    variant = parse(name)
    assert (variant.stem, variant.patch_size) == (stem, (stride, stride))
    size = parse(name.partition("+")[2])
    assert (variant.width, variant.depth) == (size.width, size.depth)


@pytest.mark.parametrize("name", ["R26+B/16", "R50+B/8", "R50+B/16x16", "R101+B/32"])
def test_unknown_hybrids(name):
    with pytest.raises(ValueError) as raised:
        parse(name)
    assert name in str(raised.value)
    assert "R+SIZE/16, R26+SIZE/32, R50+SIZE/16, R50+SIZE/32" in str(raised.value)


def test_resolve_takes_the_variants_stem_unless_told():
    settings = dict(image_size=(224,), num_classes=1)
    assert resolve(variant="R50+B/16", **settings)["stem"] == (3, 4, 9)
    assert resolve(variant="R50+B/16", stem=(1,), **settings)["stem"] == (1,)
    assert resolve(variant="B/16", stem=(), **settings)["stem"] == ()
    assert resolve(variant="B/16", **settings)["stem"] is None


def test_resolve_gives_a_cls_token_to_pooling_that_reads_it():
    for pool, wanted in {"cls": True, "cls_gap": True, "gap": False}.items():
        found = resolve(variant="B/16", image_size=(32,), pool=pool)
        assert found["cls_token"] is wanted


@pytest.mark.parametrize(
    "text",
    [
        "Z/16",
        "b/16",
        "g-/14",
        "B16",
        "B/",
        "/16",
        "",
        "B/x16",
        "B/16x",
        "B/16x16x16",
        "B/0",
        "B/16x0",
        "B/-16",
        "B/1.5",
        "B/16/2",
        "B/sixteen",
        "R50B/16",
        "+B/16",
        "R50+/16",
        " B/16",
    ],
)
def test_unknown_variants_are_shown_with_the_known(text):
    with pytest.raises(ValueError) as raised:
        parse(text)
    message = str(raised.value)
    assert text in message
    words = set(re.findall(r"[\w-]+", message.replace(text, "", 1)))
    assert words >= set(SIZES), message


@pytest.mark.parametrize("name", MILLIONS)
def test_parameter_count(name):
    digits = MILLIONS[name]
    decimals = len(digits.partition(".")[2])
    found = count(name, "learned")
    assert found == closed_form(name, cls_position=0)
    assert f"{found / 1e6:.{decimals}f}" == digits


@pytest.mark.parametrize("name", EXACT)
def test_parameter_count_with_a_position_for_cls(name):
    assert closed_form(name, cls_position=1) == EXACT[name]
    assert count(name, "learned_cls") == EXACT[name]


@pytest.mark.parametrize("name", HYBRID_COUNTS)
def test_parameter_count_of_a_hybrid(name):
    _, params = tiny.shapes(
        lambda key: build(
            variant=name,
            image_size=(224, 224),
            num_classes=1000,
            pool="cls",
            position="learned_cls",
            key=key,
        )
    )
    found = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found == HYBRID_COUNTS[name]
