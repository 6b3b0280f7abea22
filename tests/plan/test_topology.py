"""Both spellings of a slice mean the same chips; what does not exist is refused."""

import pytest

from vit_jax.plan.chips import BY_KIND
from vit_jax.plan.topology import (
    TopologyError,
    axis_sizes,
    lays_out,
    parse,
    parse_list,
    shapes,
)


@pytest.mark.parametrize(
    ("text", "name", "chips", "hosts", "cores", "devices"),
    [
        ("v5e:16x16", "v5e:16x16", 256, 64, 256, 256),
        ("v5e-256", "v5e:16x16", 256, 64, 256, 256),
        ("v5litepod-16", "v5e:4x4", 16, 4, 16, 16),
        ("v5e-8", "v5e:2x4", 8, 1, 8, 8),
        ("V6e-8", "v6e:2x4", 8, 1, 8, 8),
        ("v5p-128", "v5p:4x4x4", 64, 16, 128, 64),  # cores, two a chip
        ("v5p:4x4x4", "v5p:4x4x4", 64, 16, 128, 64),
        ("v5p-12288", "v5p:16x16x24", 6144, 1536, 12288, 6144),
        ("v4-8", "v4:2x2x1", 4, 1, 8, 4),
        ("tpu7x-8", "tpu7x:2x2x1", 4, 1, 8, 8),  # JAX has a device for each core
        ("2*v5e:16x16", "2*v5e:16x16", 512, 128, 512, 512),
        ("2*v5p-128", "2*v5p:4x4x4", 128, 32, 256, 128),
        ("h100:8x8", "h100:8x8", 64, 8, 64, 64),
        ("h100-64", "h100:8x8", 64, 8, 64, 64),
        ("h100-4", "h100:1x4", 4, 1, 4, 4),
    ],
)
def test_spellings(text, name, chips, hosts, cores, devices):
    place = parse(text)
    assert str(place) == name
    assert (place.chips, place.hosts, place.cores, place.devices) == (
        chips,
        hosts,
        cores,
        devices,
    )


def test_every_shape_comes_back_from_both_of_its_names():
    for kind, chip in BY_KIND.items():
        if chip.is_tpu:
            for shape in shapes(chip)[:12]:
                place = parse(f"{kind}:{'x'.join(map(str, shape))}")
                assert parse(str(place)) == place
                # A count names one shape of that many chips, the roundest.
                assert parse(place.count_name).chips == place.chips


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("v5e:3x3", "v5e:16x16 (v5e-256)"),
        ("v5e-100", "counts chips"),
        ("v5p-64x", "KIND:SHAPE"),
        ("v5p-100", "counts cores, two a chip"),
        ("v5p:4x4x5", "in fours, up to 6,144 chips"),
        ("v9:2x2", "kinds: v4, v5e, v5p, v6e, tpu7x, a100, h100, h200, b200"),
        ("v5e", "such as v5e:16x16, v5e-256 or h100:8x8"),
        ("", "KIND:SHAPE"),
        ("0*v5e-4", "at least 1"),
        ("h100:8x9", "1 to 8 GPUs a host"),
        ("h100:8", "hosts x GPUs"),
        ("h100-12", "whole hosts of 8"),
    ],
)
def test_wrong_ones_are_refused_with_what_is_valid(text, says):
    with pytest.raises(TopologyError) as error:
        parse(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_slices_of_the_flag():
    assert [str(place) for place in parse_list("v5e-4,3*v6e-4", slices=3)] == [
        "3*v5e:2x2",
        "3*v6e:2x2",
    ]
    with pytest.raises(TopologyError, match="has 2 slices and --slices is 3"):
        parse("2*v5e-4", slices=3)
    with pytest.raises(TopologyError, match="at least 1"):
        parse("v5e-4", slices=0)


@pytest.mark.parametrize(
    ("name", "sizes", "possible"),
    [
        ("v6e:16x16", (16, 16), True),
        ("v6e:16x16", (1, 256), True),
        ("v6e:16x16", (2, 128), False),
        ("v5p:4x4x4", (4, 16), True),
        ("v5p:4x4x4", (8, 8), False),
        ("v5e:4x8", (4, 8), True),
        ("h100:8x8", (2, 32), True),
        ("tpu7x:2x2x1", (1, 8), True),
    ],
)
def test_axes_take_whole_sides(name, sizes, possible):
    place = parse(name)
    assert lays_out(place, sizes) is possible
    for size in axis_sizes(place):
        assert place.devices % size == 0


def test_sizes_of_axes():
    assert axis_sizes(parse("v6e:16x16")) == [1, 16, 256]
    assert axis_sizes(parse("2*v5p:4x4x4")) == [1, 4, 16, 64]
    assert axis_sizes(parse("h100:2x4")) == [1, 2, 4, 8]
