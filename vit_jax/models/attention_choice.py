"""Which kernel computes an attention: from the hardware and the shapes alone.

Nothing here touches a device, so that a planner chooses as the run will.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp

# The kernels, and the platform (as devices name it) that each one needs.
PLATFORMS = {"cudnn": "gpu", "splash": "tpu"}
IMPLEMENTATIONS = ("auto", "xla", *PLATFORMS)

# Fewer tokens than these are XLA's with "auto". Reasoned, not measured: cuDNN's tiles
# have 128 rows, and below one there is nothing to keep out of memory; splash pads to a
# multiple of 128 tokens, a third more for 197, and up to 512 tokens XLA's logits are
# small beside the activations of the MLP.
MIN_TOKENS = {"cudnn": 128, "splash": 512}

_AMD = re.compile(r"\b(AMD|Instinct|Radeon)\b", re.IGNORECASE)
_BEFORE_AMPERE = re.compile(r"\b(Tesla|Quadro|TITAN|GTX|RTX 20\d\d|T4|V100|P100)\b")
_HOPPER = re.compile(r"\bG?[HB]\d{2,3}\b")  # H100, H200, GH200, B200, GB200 ...


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What attention runs on.

    Args:
      platform: ``"cpu"``, ``"gpu"`` or ``"tpu"``, as devices call it.
      kind: the device's name, such as ``"NVIDIA H100 80GB HBM3"``; "" if not known.
      meshed: False where there are several devices and no ``jax.set_mesh``.
    """

    platform: str
    kind: str = ""
    meshed: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One call of attention, without its numbers.

    Args:
      num_queries, num_keys: tokens that attend, and that are attended to.
      head_dim: size of a head.
      dtype: of queries, keys and values.
      mask: a kind, see `mask_kind`.
      causal: whether a query sees no later key.
      dropout: whether attention weights are dropped.
    """

    num_queries: int
    num_keys: int
    head_dim: int
    dtype: Any = jnp.bfloat16
    mask: str = "none"
    causal: bool = False
    dropout: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
    """A name of ``IMPLEMENTATIONS`` other than "auto", and why."""

    name: str
    reason: str


def hardware() -> Hardware:
    """What the program being traced is for: the mesh's devices, or the default ones.

    A mesh of a topology that is not there (``jax.experimental.topologies``) counts.
    """
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    if device is not None:
        return Hardware(_platform(device.platform), device.device_kind)
    device = jax.devices()[0]
    return Hardware(
        _platform(device.platform), device.device_kind, jax.device_count() == 1
    )


def _platform(name: str) -> str:
    return "gpu" if name in ("cuda", "rocm") else name


def mask_kind(shape: tuple[int, ...] | None) -> str:
    """``"none"``, ``"keys"`` (``[#B, 1, 1, S]``) or ``"full"`` (any other)."""
    if shape is None:
        return "none"
    return "keys" if shape[1:3] == (1, 1) else "full"


def problems(name: str, hardware: Hardware, request: Request) -> list[str]:
    """Why this kernel cannot do it, most basic first; empty if it can.

    Each completes a sentence that begins with the kernel's name.
    """
    return {"xla": _of_xla, "cudnn": _of_cudnn, "splash": _of_splash}[name](
        hardware, request
    )


def _of_xla(hardware: Hardware, request: Request) -> list[str]:
    return []


def _of_cudnn(hardware: Hardware, request: Request) -> list[str]:
    """The rules of JAX's binding of cuDNN's fused attention."""
    found, kind = [], hardware.kind
    if hardware.platform != "gpu" or _AMD.search(kind):
        found.append(f"needs an NVIDIA GPU, this is {_name(hardware)}")
    elif _BEFORE_AMPERE.search(kind):
        found.append(f"needs an NVIDIA GPU of Ampere or later, this is {kind}")
    dtype, head_dim = jnp.dtype(request.dtype), request.head_dim
    if dtype not in (jnp.bfloat16, jnp.float16):
        found.append(f"computes in bfloat16 or float16, not in {dtype}")
    largest = 256 if _HOPPER.search(kind) else 128
    if head_dim % 8 or head_dim > largest:
        found.append(
            f"takes head sizes that are a multiple of 8 and at most {largest}"
            f"{'' if largest == 256 else ' (256 on Hopper)'}, got {head_dim}"
        )
    return found + _dropout(request)


def _of_splash(hardware: Hardware, request: Request) -> list[str]:
    found = []
    if hardware.platform != "tpu":
        found.append(f"needs a TPU, this is {_name(hardware)}")
    elif not hardware.meshed:
        found.append("needs jax.set_mesh(mesh) around the call on several devices")
    dtype = jnp.dtype(request.dtype)
    if dtype not in (jnp.bfloat16, jnp.float32):
        found.append(f"computes in bfloat16 or float32, not in {dtype}")
    if request.mask == "full":
        found.append(
            "takes masks of keys ([batch, 1, 1, keys]) and causal ones, not a full mask"
        )
    return found + _dropout(request)


def _dropout(request: Request) -> list[str]:
    return ["has no attention dropout"] if request.dropout else []


def _name(hardware: Hardware) -> str:
    if hardware.kind in ("", hardware.platform):
        return hardware.platform
    return f"{hardware.platform} ({hardware.kind})"


def choose(hardware: Hardware, request: Request) -> Choice:
    """What ``"auto"`` means: the platform's fused kernel, where it can and it pays.

    cuDNN's flash attention (arXiv 2205.14135, 2307.08691) on NVIDIA GPUs, splash on
    TPU, plain XLA elsewhere.
    """
    fused = {platform: name for name, platform in PLATFORMS.items()}
    name = fused.get(hardware.platform)
    if name is None:
        return Choice("xla", f"there is no fused kernel for {_name(hardware)}")
    if found := problems(name, hardware, request):
        return Choice("xla", f"{name} {found[0]}")
    tokens = min(request.num_queries, request.num_keys)
    if tokens < MIN_TOKENS[name]:
        return Choice("xla", f"{tokens} tokens; {name} begins at {MIN_TOKENS[name]}")
    return Choice(name, f"{tokens} tokens on {_name(hardware)}")


def resolve(implementation: str, hardware: Hardware, request: Request) -> str:
    """The kernel to run: of "auto" the best, of a name itself.

    Raises:
      ValueError: the name is unknown, or that kernel cannot do it.
    """
    if implementation == "auto":
        return choose(hardware, request).name
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"attention {implementation!r} is unknown; known: "
            f"{', '.join(IMPLEMENTATIONS)}"
        )
    if found := problems(implementation, hardware, request):
        raise ValueError(
            f"attention {implementation!r} {'; it '.join(found)}. Use 'auto' or 'xla'"
        )
    return implementation
