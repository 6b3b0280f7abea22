"""Which kernel computes attention, from hardware and shapes, and what is said if none."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType

from vit_jax.models import attention_choice
from vit_jax.models.attention_choice import Hardware, Request, choose, problems, resolve

CPU = Hardware("cpu", "cpu")
A100, H100 = (
    Hardware("gpu", "NVIDIA A100-SXM4-40GB"),
    Hardware("gpu", "NVIDIA H100 PCIe"),
)
V100, AMD = (
    Hardware("gpu", "Tesla V100-SXM2-16GB"),
    Hardware("gpu", "AMD Instinct MI300X"),
)
TPU, BARE_TPU = Hardware("tpu", "TPU v5 lite"), Hardware("tpu", "TPU v5 lite", False)


def request(tokens=1025, head_dim=64, **changes):
    return Request(
        **{"num_queries": tokens, "num_keys": tokens, "head_dim": head_dim} | changes
    )


@pytest.mark.parametrize(
    ("hardware", "wanted", "name", "words"),
    [
        (CPU, {}, "xla", "no fused kernel for cpu"),
        (A100, {}, "cudnn", "1025 tokens on gpu (NVIDIA A100-SXM4-40GB)"),
        (Hardware("gpu"), {}, "cudnn", "1025 tokens on gpu"),
        (H100, {"tokens": 128}, "cudnn", "128 tokens"),
        (H100, {"tokens": 127}, "xla", "127 tokens; cudnn begins at 128"),
        (H100, {"num_queries": 1}, "xla", "1 tokens; cudnn begins at 128"),
        (H100, {"dtype": jnp.float16}, "cudnn", ""),
        (H100, {"dtype": jnp.float32}, "xla", "not in float32"),
        *[(A100, {"head_dim": d}, "cudnn", "") for d in (64, 72, 80, 88, 96, 104, 112)],
        (A100, {"head_dim": 128}, "cudnn", ""),
        (A100, {"head_dim": 136}, "xla", "at most 128 (256 on Hopper), got 136"),
        (H100, {"head_dim": 256}, "cudnn", ""),
        (Hardware("gpu", "NVIDIA GH200 480GB"), {"head_dim": 256}, "cudnn", ""),
        (Hardware("gpu", "NVIDIA B200"), {"head_dim": 256}, "cudnn", ""),
        (H100, {"head_dim": 264}, "xla", "at most 256, got 264"),
        (H100, {"head_dim": 36}, "xla", "multiple of 8"),
        (H100, {"mask": "full", "causal": True}, "cudnn", ""),
        (H100, {"dropout": True}, "xla", "no attention dropout"),
        (V100, {}, "xla", "Ampere or later, this is Tesla V100-SXM2-16GB"),
        (AMD, {}, "xla", "NVIDIA GPU, this is gpu (AMD Instinct MI300X)"),
        (TPU, {}, "splash", "1025 tokens on tpu (TPU v5 lite)"),
        (TPU, {"tokens": 512}, "splash", ""),
        (TPU, {"tokens": 511}, "xla", "511 tokens; splash begins at 512"),
        (TPU, {"dtype": jnp.float32, "head_dim": 72}, "splash", ""),
        (TPU, {"dtype": jnp.float16}, "xla", "not in float16"),
        (TPU, {"mask": "keys", "causal": True}, "splash", ""),
        (TPU, {"mask": "full"}, "xla", "not a full mask"),
        (TPU, {"dropout": True}, "xla", "no attention dropout"),
        (BARE_TPU, {}, "xla", "jax.set_mesh"),
    ],
)
def test_auto(hardware, wanted, name, words):
    choice = choose(hardware, request(**wanted))
    assert choice.name == name
    assert words in choice.reason
    assert resolve("auto", hardware, request(**wanted)) == name


def test_a_kernel_by_name_is_used_whatever_the_length():
    assert resolve("cudnn", H100, request(tokens=2)) == "cudnn"
    assert resolve("splash", TPU, request(tokens=2)) == "splash"
    everything = request(tokens=2, mask="full", dropout=True, dtype=jnp.float32)
    assert resolve("xla", TPU, everything) == "xla"


@pytest.mark.parametrize(
    ("name", "hardware", "wanted", "expected"),
    [
        (
            "cudnn",
            CPU,
            {"head_dim": 12, "dtype": jnp.float32},
            "attention 'cudnn' needs an NVIDIA GPU, this is cpu; it computes in bfloat16 "
            "or float16, not in float32; it takes head sizes that are a multiple of 8 and "
            "at most 128 (256 on Hopper), got 12. Use 'auto' or 'xla'",
        ),
        (
            "splash",
            H100,
            {"mask": "full", "dropout": True},
            "attention 'splash' needs a TPU, this is gpu (NVIDIA H100 PCIe); it takes "
            "masks of keys ([batch, 1, 1, keys]) and causal ones, not a full mask; it has "
            "no attention dropout. Use 'auto' or 'xla'",
        ),
        (
            "flash",
            CPU,
            {},
            "attention 'flash' is unknown; known: auto, xla, cudnn, splash",
        ),
    ],
)
def test_a_kernel_by_name_says_all_that_it_cannot(name, hardware, wanted, expected):
    with pytest.raises(ValueError) as caught:
        resolve(name, hardware, request(**wanted))
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (None, "none"),
        ((3, 1, 1, 7), "keys"),
        ((1, 1, 5, 7), "full"),
        ((1, 2, 1, 7), "full"),
    ],
)
def test_kinds_of_masks(shape, kind):
    assert attention_choice.mask_kind(shape) == kind


def test_hardware_is_that_of_the_mesh():
    """A planner's mesh is of devices that are not there."""
    assert attention_choice.hardware() == Hardware("cpu", "cpu", meshed=False)
    device = jax.sharding.AbstractDevice("TPU v5 lite", num_cores=1, platform="tpu")
    mesh = AbstractMesh((2,), ("data",), (AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        assert attention_choice.hardware() == TPU
    real = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(real):
        assert jax.jit(lambda: attention_choice.hardware() == CPU)()


def test_problems_of_a_kernel_that_can():
    assert problems("cudnn", H100, request()) == []
    assert problems("splash", TPU, request()) == []
