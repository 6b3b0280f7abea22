"""Device kinds as JAX spells them find their chip, and nothing else does."""

import pytest

from vit_jax.plan.chips import CHIPS, find


@pytest.mark.parametrize(
    ("device_kind", "name"),
    [
        ("TPU v4", "TPU v4"),
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5e", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
        ("TPU v5p", "TPU v5p"),
        ("TPU v6 lite", "TPU v6e"),
        ("TPU v6e", "TPU v6e"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
    ],
)
def test_find_knows_the_spelling(device_kind, name):
    assert find(device_kind) is CHIPS[name]


@pytest.mark.parametrize(
    "device_kind",
    [
        "cpu",
        "",
        "TPU v3",
        "NVIDIA H100 PCIe",
        "NVIDIA H200 NVL",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM4-40GB",
    ],
)
def test_find_does_not_guess(device_kind):
    assert find(device_kind) is None


def test_every_chip_is_complete_and_found_by_its_own_name():
    for name, chip in CHIPS.items():
        assert chip.name == name
        assert chip.source
        rates = (chip.hbm_gbps, chip.link_gbps, chip.network_gbps)
        assert min(chip.bf16_tflops, chip.hbm_gib, chip.usable_gib, *rates) > 0
        if name not in ("A100", "TPU7x"):  # of two sizes; two devices
            assert find(name) is chip
        # What a program can have is about what is sold.
        assert 0.9 < chip.usable_gib / chip.hbm_gib < 1.01


def test_a_device_of_a_chip_with_two_is_half_of_it():
    whole, half = CHIPS["TPU7x"], find("TPU7x")
    assert half.bf16_tflops * 2 == whole.bf16_tflops
    assert half.usable_gib * 2 == whole.usable_gib
