"""The ResNet in front of hybrid ViTs (R50+ViT-B/16 and its like; arXiv 2010.11929).

Bottleneck units with the stride in their 3x3 convolution, weight standardisation
(arXiv 1903.10520) and GroupNorm (arXiv 1803.08494) as in BiT (arXiv 1912.11370).
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

GROUPS = 32
STANDARDISE_EPSILON = 1e-5  # added to the standard deviation, not to the variance
NORM_EPSILON = 1e-6
EXPANSION = 4  # a unit's output channels to its inner ones


def stem_stride(units: Sequence[int]) -> int:
    """Pixels to a position of the stem's output: the root's 4, doubled by later stages.

    ``units`` are the units of each stage; an empty one is the root alone.
    """
    return 4 * 2 ** max(len(units) - 1, 0)


def stem_features(units: Sequence[int], width: int = 64) -> int:
    """Channels of the stem's output; ``width`` are those of the root."""
    return width * EXPANSION * 2 ** (len(units) - 1) if units else width


class StdConv(nnx.Module):
    """Convolution whose kernel is standardised for each output channel; no bias."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        size: int,
        *,
        stride: int = 1,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        shape = (size, size, in_features, out_features)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape))
        self.stride = stride
        self.dtype = dtype

    def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        kernel = self.kernel[...]
        kernel = kernel - kernel.mean(axis=(0, 1, 2))
        kernel = kernel / (kernel.std(axis=(0, 1, 2)) + STANDARDISE_EPSILON)
        return jax.lax.conv_general_dilated(
            inputs.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


group_norm = functools.partial(
    nnx.GroupNorm, num_groups=GROUPS, epsilon=NORM_EPSILON, param_dtype=jnp.float32
)


class Unit(nnx.Module):
    """Bottleneck residual unit: 1x1, 3x3 and 1x1 convolutions, each with its norm.

    The last norm's scale starts at zero, so that a new unit passes its input on.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        stride: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        out_features = EXPANSION * features
        conv = functools.partial(StdConv, dtype=dtype, rngs=rngs)
        norm = functools.partial(group_norm, dtype=dtype, rngs=rngs)
        self.conv1 = conv(in_features, features, 1)
        self.conv1_norm = norm(features)
        self.conv2 = conv(features, features, 3, stride=stride)
        self.conv2_norm = norm(features)
        self.conv3 = conv(features, out_features, 1)
        self.conv3_norm = norm(out_features, scale_init=nnx.initializers.zeros_init())
        self.projects = in_features != out_features or stride != 1
        if self.projects:
            self.projection = conv(in_features, out_features, 1, stride=stride)
            self.projection_norm = norm(out_features)

    def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        residual = inputs
        if self.projects:
            residual = self.projection_norm(self.projection(inputs))
        outputs = nnx.relu(self.conv1_norm(self.conv1(inputs)))
        outputs = nnx.relu(self.conv2_norm(self.conv2(outputs)))
        outputs = self.conv3_norm(self.conv3(outputs))
        return nnx.relu(residual + outputs)


class Stage(nnx.Module):
    """Units at one resolution, ``unit1`` (which may halve it) to ``unit{n}``."""

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        units: int,
        stride: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.units = units
        for index in range(1, units + 1):
            unit = Unit(in_features, features, stride=stride, dtype=dtype, rngs=rngs)
            setattr(self, f"unit{index}", unit)
            in_features, stride = EXPANSION * features, 1

    def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        for index in range(1, self.units + 1):
            inputs = getattr(self, f"unit{index}")(inputs)
        return inputs


class ResNetStem(nnx.Module):
    """Root (7x7 convolution, norm, max pool) and the stages ``block1`` to ``block{n}``.

    Args:
      units: units of each stage, as (3, 4, 9); () is the root alone.
      channels: image channels.
      width: channels of the root, a multiple of 32; each later stage doubles them.
      dtype: computation type; parameters are float32.
      key: initialises the parameters.

    ``stride`` is pixels to an output position, ``features`` the output's channels.

    Raises:
      ValueError: a stage has no unit, or ``width`` does not divide into the groups.
    """

    def __init__(
        self,
        *,
        units: tuple[int, ...],
        channels: int,
        width: int = 64,
        dtype: jnp.dtype,
        key: Key[Array, ""],
    ):
        if any(count < 1 for count in units):
            raise ValueError(f"stem {units} has a stage without units; each needs one")
        if width % GROUPS:
            raise ValueError(f"stem width {width} is not a multiple of {GROUPS}")
        rngs = nnx.Rngs(key)
        self.stride, self.features = stem_stride(units), stem_features(units, width)
        self.stages = len(units)
        self.root = StdConv(channels, width, 7, stride=2, dtype=dtype, rngs=rngs)
        self.root_norm = group_norm(width, dtype=dtype, rngs=rngs)
        for index, count in enumerate(units):
            stage = Stage(
                stem_features(units[:index], width),
                width * 2**index,
                units=count,
                stride=2 if index else 1,
                dtype=dtype,
                rngs=rngs,
            )
            setattr(self, f"block{index + 1}", stage)

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        """Normalised images to features; a remainder of ``stride`` pixels counts."""
        features = nnx.relu(self.root_norm(self.root(images)))
        features = nnx.max_pool(
            features, window_shape=(3, 3), strides=(2, 2), padding="SAME"
        )
        for index in range(1, self.stages + 1):
            features = getattr(self, f"block{index}")(features)
        return features


def stem_flops(
    units: Sequence[int], channels: int, image_size: tuple[int, int], width: int = 64
) -> int:
    """Operations of the convolutions for one image, a multiply-add counted as two."""

    def conv(size: int, fan_in: int, fan_out: int, positions: tuple[int, int]) -> int:
        return 2 * size**2 * fan_in * fan_out * positions[0] * positions[1]

    def halve(positions: tuple[int, int]) -> tuple[int, int]:
        return (positions[0] + 1) // 2, (positions[1] + 1) // 2

    after = halve(image_size)
    flops = conv(7, channels, width, after)
    after = halve(after)  # the max pool
    features = width
    for stage, count in enumerate(units):
        inner = width * 2**stage
        outer = EXPANSION * inner
        for unit in range(count):
            before = after
            if unit == 0 and stage > 0:
                after = halve(before)
            flops += conv(1, features, inner, before) + conv(3, inner, inner, after)
            flops += conv(1, inner, outer, after)
            if unit == 0:
                flops += conv(1, features, outer, after)
            features = outer
    return flops
