"""Peak rates of the accelerators people train on, found by JAX's device kind.

A chip is one JAX device. That holds for TPU v4 too, whose two cores run as one
(megacore); only its ahead-of-time topology descriptions list two devices per chip.
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator: dense bf16 peak without sparsity, and its memory.

    `hbm_gib` is the nominal size unless `source` says otherwise.
    """

    name: str
    bf16_tflops: float
    hbm_gib: float
    hbm_gbps: float
    source: str


_TPU = "Google Cloud TPU documentation"
_XLA = "XLA target specification and third-party pages"

CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("TPU v4", 275.0, 32.0, 1200.0, _TPU),
        Chip("TPU v5e", 197.0, 15.75, 819.0, f"{_TPU}; 15.75 GiB usable of 16"),
        Chip("TPU v5p", 459.0, 95.0, 2765.0, _TPU),
        Chip("TPU v6e", 918.0, 32.0, 1638.0, _TPU),
        Chip("A100", 312.0, 80.0, 2039.0, f"{_XLA}; 80 GB SXM"),
        Chip("H100", 989.0, 80.0, 3352.0, f"{_XLA}; SXM"),
        Chip("H200", 989.0, 141.0, 4800.0, f"{_XLA}; SXM"),
        Chip("B200", 2250.0, 180.0, 7700.0, f"{_XLA}; memory figures approximate"),
    )
}

# Whole strings only: PCIe, NVL and MIG parts of the same name are slower or smaller.
_DEVICE_KINDS: tuple[tuple[str, str], ...] = (
    (r"TPU v4", "TPU v4"),
    (r"TPU v5( lite|e)", "TPU v5e"),
    (r"TPU v5p?", "TPU v5p"),
    (r"TPU v6( lite|e)", "TPU v6e"),
    (r"(NVIDIA )?A100-SXM4-80GB", "A100"),
    (r"(NVIDIA )?H100( 80GB HBM3)?", "H100"),
    (r"(NVIDIA )?H200", "H200"),
    (r"(NVIDIA )?B200", "B200"),
)


def find(device_kind: str) -> Chip | None:
    """The chip that `jax.Device.device_kind` names; None where no peak is known."""
    for pattern, name in _DEVICE_KINDS:
        if re.fullmatch(pattern, device_kind.strip(), re.IGNORECASE):
            return CHIPS[name]
    return None
