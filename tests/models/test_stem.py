"""The hybrid models' ResNet against the same network in torch's functions, float64."""

import functools
import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models import tiny
from vit_jax.models.stem import ResNetStem, stem_features, stem_flops, stem_stride

TOLERANCE = 1e-5
WIDTH = 32

# Units, image size, size of the output: divisible or not, the root alone.
CASES = [
    ((), (16, 24), (4, 6)),
    ((), (13, 10), (4, 3)),
    ((1,), (16, 8), (4, 2)),
    ((2, 1), (24, 16), (3, 2)),
    ((1, 2), (19, 27), (3, 4)),
    ((1, 1, 1), (33, 18), (3, 2)),
]


@functools.cache
def shapes(units, dtype="float32"):
    return tiny.shapes(
        lambda key: ResNetStem(
            units=units, channels=3, width=WIDTH, dtype=jnp.dtype(dtype), key=key
        )
    )


def images(size, batch=2):
    values = np.random.default_rng(1).normal(size=(batch, *size, 3))
    return values.astype(np.float32)


def pad_same(inputs, size, stride, value=0.0):
    """[B, C, H, W] padded as TensorFlow does: the odd pixel is below and right."""
    from torch.nn import functional

    padding = []
    for length in (inputs.shape[3], inputs.shape[2]):
        total = max((math.ceil(length / stride) - 1) * stride + size - length, 0)
        padding += [total // 2, total - total // 2]
    return functional.pad(inputs, padding, value=value)


def reference(params, inputs, units, eps=1e-5, groups=32, stride_first=False):
    """The network of the paper's code; eps, groups and stride_first make mistakes."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def conv(x, params, stride=1):
        kernel = torch.from_numpy(params["kernel"].astype(np.float64))
        variance, mean = torch.var_mean(kernel, dim=(0, 1, 2), correction=0)
        kernel = ((kernel - mean) / (variance.sqrt() + eps)).permute(3, 2, 0, 1)
        x = pad_same(x, kernel.shape[-1], stride)
        return functional.conv2d(x, kernel, stride=stride)

    def norm(x, params):
        scale, bias = (
            torch.from_numpy(params[name].astype(np.float64))
            for name in ("scale", "bias")
        )
        return functional.group_norm(x, groups, scale, bias, eps=1e-6)

    def unit(x, params, stride):
        strides = (stride, 1) if stride_first else (1, stride)
        y = norm(conv(x, params["conv1"], strides[0]), params["conv1_norm"]).relu()
        y = norm(conv(y, params["conv2"], strides[1]), params["conv2_norm"]).relu()
        y = norm(conv(y, params["conv3"]), params["conv3_norm"])
        if "projection" in params:
            x = norm(conv(x, params["projection"], stride), params["projection_norm"])
        return (x + y).relu()

    x = torch.from_numpy(inputs.astype(np.float64)).permute(0, 3, 1, 2)
    x = norm(conv(x, params["root"], 2), params["root_norm"]).relu()
    x = functional.max_pool2d(pad_same(x, 3, 2, -math.inf), 3, 2)
    for stage, count in enumerate(units, 1):
        for index in range(1, count + 1):
            stride = 2 if stage > 1 and index == 1 else 1
            x = unit(x, params[f"block{stage}"][f"unit{index}"], stride)
    return x.permute(0, 2, 3, 1).numpy()


def run(units, size, dtype="float32"):
    """The parameters and the package's output."""
    graphdef, leaves = shapes(units, dtype)
    params = tiny.fill(leaves)
    apply = tiny.jit(lambda params, images: nnx.merge(graphdef, params)(images))
    return params, apply(params, images(size))


@pytest.mark.parametrize(("units", "size", "output"), CASES)
def test_equals_the_reference(units, size, output):
    params, found = run(units, size)
    assert found.shape == (2, *output, stem_features(units, WIDTH))
    assert tiny.error(found, reference(params, images(size), units)) < TOLERANCE


@pytest.mark.parametrize(
    "mistake", [{"eps": 1e-2}, {"groups": 16}, {"stride_first": True}]
)
def test_would_notice(mistake):
    params, found = run((1, 1), (16, 16))
    wrong = reference(params, images((16, 16)), (1, 1), **mistake)
    assert tiny.error(found, wrong) > 1e-3


def test_bfloat16_computes_in_bfloat16():
    params, found = run((1, 1), (16, 16), "bfloat16")
    assert found.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in tiny.flatten(params).values())
    expected = reference(params, images((16, 16)), (1, 1))
    assert 1e-4 < tiny.error(found, expected) < 5e-2


def test_parameter_paths():
    _, leaves = shapes((2, 1))
    found = {name: leaf.shape for name, leaf in tiny.flatten(leaves).items()}

    def norm(path, width):
        return {f"{path}/scale": (width,), f"{path}/bias": (width,)}

    def unit(path, fan_in, inner, projection):
        expected = {
            f"{path}/conv1/kernel": (1, 1, fan_in, inner),
            f"{path}/conv2/kernel": (3, 3, inner, inner),
            f"{path}/conv3/kernel": (1, 1, inner, 4 * inner),
            **norm(f"{path}/conv1_norm", inner),
            **norm(f"{path}/conv2_norm", inner),
            **norm(f"{path}/conv3_norm", 4 * inner),
        }
        if projection:
            expected[f"{path}/projection/kernel"] = (1, 1, fan_in, 4 * inner)
            expected |= norm(f"{path}/projection_norm", 4 * inner)
        return expected

    assert found == {
        "root/kernel": (7, 7, 3, 32),
        **norm("root_norm", 32),
        **unit("block1/unit1", 32, 32, True),
        **unit("block1/unit2", 128, 32, False),
        **unit("block2/unit1", 128, 64, True),
    }


def test_initial_values():
    model = ResNetStem(
        units=(1,),
        channels=3,
        width=32,
        dtype=jnp.dtype("float32"),
        key=jax.random.key(0),
    )
    unit = model.block1.unit1
    assert not unit.conv3_norm.scale[...].any()
    assert (unit.conv2_norm.scale[...] == 1).all()
    assert (unit.projection_norm.scale[...] == 1).all()
    for conv, fan_in in ((model.root, 147), (unit.conv2, 288), (unit.conv3, 32)):
        found = conv.kernel[...].std() * math.sqrt(fan_in)
        assert abs(found - 1) < 0.1
    assert not np.array_equal(
        unit.conv1.kernel[...].ravel()[:9], unit.conv2.kernel[...].ravel()[:9]
    )


@pytest.mark.parametrize(
    ("units", "stride", "features"),
    [((), 4, 64), ((2,), 4, 256), ((3, 4, 9), 16, 1024), ((2, 2, 2, 2), 32, 2048)],
)
def test_stride_and_features(units, stride, features):
    assert stem_stride(units) == stride
    assert stem_features(units) == features
    graphdef, leaves = tiny.shapes(
        lambda key: ResNetStem(
            units=units, channels=3, dtype=jnp.dtype("float32"), key=key
        )
    )
    model = nnx.merge(graphdef, leaves)
    assert (model.stride, model.features) == (stride, features)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"units": (3, 0)}, r"\(3, 0\)"), ({"units": (1,), "width": 40}, "width 40.*32")],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        ResNetStem(
            channels=3, dtype=jnp.dtype("float32"), key=jax.random.key(0), **settings
        )


def convolution_flops(jaxpr):
    """Twice the multiply-adds of every convolution of a traced function."""
    total = 0
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            if isinstance(value, jax.extend.core.ClosedJaxpr):
                total += convolution_flops(value.jaxpr)
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape  # [kh, kw, in, out]
            output = equation.outvars[0].aval.shape
            total += 2 * math.prod(kernel[:3]) * math.prod(output)
    return total


@pytest.mark.parametrize(("units", "size"), [case[:2] for case in CASES])
def test_flops_are_those_of_the_traced_network(units, size):
    graphdef, leaves = shapes(units)
    traced = jax.make_jaxpr(lambda params, x: nnx.merge(graphdef, params)(x))(
        leaves, images(size, batch=1)
    )
    assert stem_flops(units, 3, size, WIDTH) == convolution_flops(traced.jaxpr)


def test_flops_of_resnet50_to_stride_16():
    # Of a ResNet-50's 4.1 G multiply-adds 3.3 G come before its last stage; three more
    # units of 0.22 G each make the (3, 4, 9) of R50+ViT-B/16.
    assert 7.8e9 < stem_flops((3, 4, 9), 3, (224, 224)) < 8.0e9
