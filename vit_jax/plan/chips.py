"""The accelerators people train on: peaks, memory, links, and how hosts hold them.

The one table for rates (found by JAX's device kind), for planning and for renting.

A chip is one JAX device. That holds for TPU v4 too, whose two cores run as one
(megacore); only its ahead-of-time topology descriptions list two devices per chip. The
exception is TPU7x, whose two cores are a device each.
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Rented:
    """What a chip is called where it can be had; "" where it cannot.

    Args:
      gke: node label `cloud.google.com/gke-tpu-accelerator`, or `gke-accelerator`.
      machine: of GKE's nodes; ``{}`` stands for the chips of one.
      sizes: chips of GKE's machines, where they are few; empty: as of the slices.
      sky: SkyPilot's name; of TPUs without the count.
      gcloud: of TPUs, an accelerator type without the count.
      runtime: of TPUs, the image that their machines start.
    """

    gke: str
    machine: str
    sky: str = ""
    gcloud: str = ""
    runtime: str = ""
    sizes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator. Rates are per chip, dense and without sparsity.

    Args:
      name: as people write it.
      kind: in topologies, ``v5e:4x4``.
      bf16_tflops: peak.
      hbm_gib: nominal memory.
      usable_gib: what a program can have of it.
      hbm_gbps: memory bandwidth, GB/s.
      link_gbps: to the chips of its slice (TPU) or host (GPU), GB/s one way.
      network_gbps: to other slices (TPU) or hosts (GPU), GB/s one way.
      cores: that names such as ``v5p-128`` count; 1 where they count chips.
      devices: of JAX, a chip.
      described: devices a chip in an ahead-of-time topology description.
      per_host: chips, of more than one host.
      on_one_host: the most chips that one host holds.
      largest: chips of the largest slice (TPU); 0 for no limit.
      held_mib: of a layer's arrays, what vector memory holds as they come and go; as
        programs compiled for v5e, v5p and v6e do, others are taken as v5p.
      source: of the figures.
      rented: names.
    """

    name: str
    kind: str
    bf16_tflops: float
    hbm_gib: float
    usable_gib: float
    hbm_gbps: float
    link_gbps: float
    network_gbps: float
    source: str
    cores: int = 1
    devices: int = 1
    described: int = 1
    per_host: int = 8
    on_one_host: int = 8
    largest: int = 0
    held_mib: int = 0
    rented: Rented = Rented(gke="", machine="")

    @property
    def is_tpu(self) -> bool:
        """Whether it comes in slices with a shape."""
        return self.name.startswith("TPU")


# Links one way are half of what is published as bidirectional, or, where only that is
# published (v4), a chip's share of the pod's all-reduce bandwidth, which is the same
# for v5e. Usable memory of TPUs is what libtpu's compiler says it has. Not checked
# against a source: the network of v4; links and network of A100; usable memory of GPUs.
_TPU = "Google Cloud TPU documentation, {}; usable memory from libtpu 0.0.42"
_XLA = "XLA target specification and third-party pages; SXM, one NIC a GPU"
_MLPERF = "MLCommons inference results, {}, for memory, NVLink and network"
_CUBES = dict(cores=2, per_host=4, on_one_host=4, held_mib=62)
_SQUARES = dict(per_host=4, on_one_host=8, largest=256)

CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip(
            "TPU v4",
            "v4",
            bf16_tflops=275.0,
            hbm_gib=32.0,
            usable_gib=30.5,  # twice 15.25, of its two cores
            hbm_gbps=1200.0,
            link_gbps=268.0,  # 1.1 PB/s over 4,096 chips
            network_gbps=6.25,  # 50 Gbps a chip as v5p; v4's own is not published
            source=_TPU.format("TPU v4"),
            described=2,
            largest=4096,
            rented=Rented(
                gke="tpu-v4-podslice",
                machine="ct4p-hightpu-{}t",
                sky="tpu-v4",
                gcloud="v4",
                runtime="tpu-ubuntu2204-base",
            ),
            **_CUBES,
        ),
        Chip(
            "TPU v5e",
            "v5e",
            bf16_tflops=197.0,
            hbm_gib=16.0,
            usable_gib=15.75,
            hbm_gbps=819.0,
            link_gbps=200.0,
            network_gbps=3.125,  # 6.4 Tbps a pod of 256
            source=_TPU.format("TPU v5e"),
            held_mib=390,
            rented=Rented(
                gke="tpu-v5-lite-podslice",
                machine="ct5lp-hightpu-{}t",
                sky="tpu-v5litepod",
                gcloud="v5litepod",
                runtime="v2-alpha-tpuv5-lite",
            ),
            **_SQUARES,
        ),
        Chip(
            "TPU v5p",
            "v5p",
            bf16_tflops=459.0,
            hbm_gib=95.0,
            usable_gib=95.74,
            hbm_gbps=2765.0,
            link_gbps=600.0,
            network_gbps=6.25,  # 50 Gbps a chip
            source=_TPU.format("TPU v5p"),
            largest=6144,
            rented=Rented(
                gke="tpu-v5p-slice",
                machine="ct5p-hightpu-{}t",
                sky="tpu-v5p",
                gcloud="v5p",
                runtime="v2-alpha-tpuv5",
            ),
            **_CUBES,
        ),
        Chip(
            "TPU v6e",
            "v6e",
            bf16_tflops=918.0,
            hbm_gib=32.0,
            usable_gib=31.25,
            hbm_gbps=1638.0,
            link_gbps=400.0,
            network_gbps=12.5,  # 25.6 Tbps a pod of 256
            source=_TPU.format("TPU v6e"),
            held_mib=125,
            rented=Rented(
                gke="tpu-v6e-slice",
                machine="ct6e-standard-{}t",
                sky="tpu-v6e",
                gcloud="v6e",
                runtime="v2-alpha-tpuv6e",
            ),
            **_SQUARES,
        ),
        Chip(
            "TPU7x",
            "tpu7x",
            bf16_tflops=2307.0,
            hbm_gib=192.0,
            usable_gib=189.5,  # twice 94.75
            hbm_gbps=7380.0,
            link_gbps=600.0,
            network_gbps=12.5,  # 100 Gbps a chip
            source=_TPU.format("TPU7x (Ironwood)"),
            devices=2,
            described=2,
            largest=9216,
            rented=Rented(gke="tpu7x", machine="tpu7x-standard-{}t"),
            **_CUBES,
        ),
        Chip(
            "A100",
            "a100",
            *(312.0, 80.0, 80.0, 2039.0, 300.0, 25.0),
            f"{_XLA}; 80 GB",
            rented=Rented(
                "nvidia-a100-80gb", "a2-ultragpu-{}g", "A100-80GB", sizes=(1, 2, 4, 8)
            ),
        ),
        Chip(
            "H100",
            "h100",
            *(989.0, 80.0, 79.6, 3352.0, 450.0, 50.0),
            _XLA,
            rented=Rented(
                "nvidia-h100-80gb", "a3-highgpu-{}g", "H100", sizes=(1, 2, 4, 8)
            ),
        ),
        Chip(
            "H200",
            "h200",
            bf16_tflops=989.0,
            hbm_gib=141.0,
            usable_gib=140.4,
            hbm_gbps=4800.0,
            link_gbps=450.0,
            network_gbps=50.0,
            source=f"{_XLA}; {_MLPERF.format('v4.1, H200-SXM-141GBx8_TRT_MaxQ')}",
            rented=Rented("nvidia-h200-141gb", "a3-ultragpu-{}g", "H200", sizes=(8,)),
        ),
        Chip(
            "B200",
            "b200",
            bf16_tflops=2250.0,
            hbm_gib=180.0,
            usable_gib=179.0,
            hbm_gbps=7700.0,
            link_gbps=900.0,
            network_gbps=50.0,
            source=f"{_XLA}; {_MLPERF.format('v6.0, nebius_b200_n1')}",
            rented=Rented("nvidia-b200", "a4-highgpu-{}g", "B200", sizes=(8,)),
        ),
    )
}

BY_KIND: dict[str, Chip] = {chip.kind: chip for chip in CHIPS.values()}

# Whole strings only: PCIe, NVL and MIG parts of the same name are slower or smaller.
_DEVICE_KINDS: tuple[tuple[str, str], ...] = (
    (r"TPU v4", "TPU v4"),
    (r"TPU v5( lite|e)", "TPU v5e"),
    (r"TPU v5p?", "TPU v5p"),
    (r"TPU v6( lite|e)", "TPU v6e"),
    (r"TPU ?7x", "TPU7x"),
    (r"(NVIDIA )?A100-SXM4-80GB", "A100"),
    (r"(NVIDIA )?H100( 80GB HBM3)?", "H100"),
    (r"(NVIDIA )?H200", "H200"),
    (r"(NVIDIA )?B200", "B200"),
)


def find(device_kind: str) -> Chip | None:
    """What `jax.Device.device_kind` names, a device of it; None where it is not known.

    Of a chip that is two devices (TPU7x) this is one half.
    """
    for pattern, name in _DEVICE_KINDS:
        if re.fullmatch(pattern, device_kind.strip(), re.IGNORECASE):
            chip = CHIPS[name]
            return chip if chip.devices == 1 else _share(chip, chip.devices)
    return None


def _share(chip: Chip, parts: int) -> Chip:
    fields = ("bf16_tflops", "hbm_gib", "usable_gib", "hbm_gbps", "link_gbps")
    return dataclasses.replace(
        chip, **{field: getattr(chip, field) / parts for field in fields}
    )
