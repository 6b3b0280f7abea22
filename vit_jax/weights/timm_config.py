"""Reading timm's config.json: what an architecture's name and arguments say.

Heads, GELU kind and epsilon are in no array. timm's entry points say them, and the
rules here repeat these by name; ``model_args`` of the file replace them.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from vit_jax.models.settings import Settings
from vit_jax.weights.base import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
)
from vit_jax.weights.files import WeightsError

# Entry points of timm's vision_transformer.py and deit.py. The others that begin like
# these have rotary or relative positions, a ResNet in front or norms after a branch.
_PLAIN = re.compile(r"vit_|deit3?_|flexivit_|eva_large_|test_vit\d?$")
_OTHER = re.compile(
    r"rope|relpos|rpn|dinov3|sapiens|lingbot|_pe_|_r\d*_|resnet|_mci_|vitamin"
)

# Heads of the first pattern that is found in the name.
_HEADS = (
    (r"giant_patch14_(reg\d_)?(dinov2|tipsv2)|giant_patch16_radio", 24),
    (r"base_patch16_gap_224|so400m|large|huge|giant|gigantic|intern300m", 16),
    (r"so150m2", 13),
    (r"so150m_|_plus_", 14),
    (r"wee_|xsmall", 4),
    (r"little", 5),
    (r"tiny", 3),
    (r"small", 6),
    (r"medium", 8),
    (r"betwixt", 10),
    (r"base", 12),
    (r"test_vit2?$", 2),
    (r"test_vit[34]$", 3),
)

_TANH = re.compile(
    r"(base_patch32|so400m_patch16|giantopt_patch16)_siglip|large_.*siglip.*_512"
)
_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_tanh"}
_NORMS = {"layernorm": "layer", "layernormfp32": "layer"}
_NORMS |= {"rmsnorm": "rms", "rmsnormfp32": "rms"}
POOLS = {"token": "cls", "avg": "gap", "map": "map"}
INTERPOLATIONS = {"bilinear": "bilinear", "bicubic": "bicubic", "box": "area"}


@dataclasses.dataclass(frozen=True)
class Config:
    """A config.json, or nothing where a state dict came without one.

    Args:
      name: of the file or folder, for messages.
      architecture: timm's name for the entry point, or "".
      content: the whole object.
      arguments: replace the entry point's.
      pretrained: how images are prepared, and input size.
    """

    name: str
    architecture: str = ""
    content: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pretrained: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def num_heads(self, width: int, asked: int | None) -> int:
        """Heads as the file, or else the user, says.

        Raises:
          WeightsError: nobody does, or they do not divide the width.
        """
        named = (heads for part, heads in _HEADS if re.search(part, self.architecture))
        heads = self.arguments.get("num_heads") or next(named, None) or asked
        if heads is None:
            raise WeightsError(
                f"{self.name}: the number of attention heads is not in a state dict; "
                f"give num_heads (--num_heads): for width {width} it is often "
                f"{max(1, width // 64)}"
            )
        if type(heads) is not int or heads < 1 or width % heads:
            raise WeightsError(
                f"{self.name}: {heads!r} heads do not divide width {width}; give "
                "another num_heads (--num_heads)"
            )
        return heads

    def activation(self, mlp: str) -> str:
        """The GELU of dense MLPs; with SwiGLUs, which have a SiLU, it means nothing.

        Raises:
          WeightsError: it is another function.
        """
        name = self.arguments.get("act_layer")
        if name is None and _TANH.search(self.architecture):
            name = "gelu_tanh"
        if name is None and "quickgelu" in self.architecture:
            name = "quick_gelu"
        if mlp == "swiglu" and name in (None, "silu", "swish"):
            return Settings.activation
        name = "gelu" if name is None else name
        if mlp == "swiglu" or str(name) not in _ACTIVATIONS:
            known = "silu" if mlp == "swiglu" else ", ".join(_ACTIVATIONS)
            raise WeightsError(
                f"{self.name}: activation {name!r} is not one of vit_jax; {mlp} MLPs "
                f"have {known}"
            )
        return _ACTIVATIONS[name]

    def norm(self, found: str) -> tuple[str, float]:
        """Kind and epsilon of the norms; ``found`` is the kind that the arrays have.

        Raises:
          WeightsError: they are norms of another kind.
        """
        name = self.arguments.get("norm_layer")
        if name is None:
            return found, 1e-5 if "_clip_" in self.architecture else 1e-6
        kind = _NORMS.get(str(name).replace("_", "").lower())
        if kind is None or kind != found:
            raise WeightsError(
                f"{self.name}: norm_layer {name!r} is not one of vit_jax, or not that "
                f"of the arrays; known: {', '.join(_NORMS)}"
            )
        return kind, 1e-6

    def pool(self) -> str | None:
        """How tokens are pooled, or None where the file does not say.

        Raises:
          WeightsError: in a way that vit_jax does not have.
        """
        name = self.arguments.get("global_pool", self.content.get("global_pool"))
        if not name:
            return None
        if str(name) not in POOLS:
            raise WeightsError(
                f"{self.name}: global_pool {name!r} is not one of vit_jax; known: "
                f"{', '.join(POOLS)}"
            )
        return POOLS[name]

    def pools_prefix(self) -> bool:
        """Whether the mean or the MAP head is over the prefix tokens too."""
        default = self.architecture == "test_vit3"
        return bool(self.arguments.get("pool_include_prefix", default))

    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the input, or None."""
        input_size = self.pretrained.get("input_size")
        if isinstance(input_size, list) and len(input_size) == 3:
            input_size = input_size[1:]
        size = self.arguments.get("img_size", input_size)
        size = [size, size] if isinstance(size, int) else size
        if not isinstance(size, list) or len(size) != 2:
            return None
        if not all(isinstance(side, int) and side > 0 for side in size):
            return None
        return size[0], size[1]

    def num_classes(self) -> int:
        """Of the head, 0 where the file does not say."""
        number = self.content.get("num_classes", self.pretrained.get("num_classes"))
        return number if isinstance(number, int) and number > 0 else 0

    def class_names(self, num_classes: int) -> tuple[str, ...]:
        """Of the head, if there is one for each class."""
        names = self.content.get("label_names", self.pretrained.get("label_names"))
        if isinstance(names, dict):
            names = [names.get(str(number)) for number in range(len(names))]
        if not isinstance(names, list) or len(names) != num_classes:
            return ()
        return tuple(map(str, names))

    def preprocessing(
        self, image_size: tuple[int, int], channels: int
    ) -> Preprocessing:
        """How images are prepared; what the file leaves out is as timm leaves it."""
        mean, std = (
            (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else (HALF[:1], HALF[:1])
        )
        crop = self.pretrained.get("crop_pct")
        crop = crop if isinstance(crop, int | float) and crop > 0 else 0.875
        whole = self.pretrained.get("crop_mode") == "squash" and crop == 1.0
        interpolation = self.pretrained.get("interpolation")
        return Preprocessing(
            image_size=image_size,
            mean=_per_channel(self.pretrained.get("mean"), mean, channels),
            std=_per_channel(self.pretrained.get("std"), std, channels),
            resize=0 if whole else math.floor(min(image_size) / crop),
            interpolation=INTERPOLATIONS.get(str(interpolation), "bicubic"),
        )


def _per_channel(
    values: Any, default: tuple[float, ...], channels: int
) -> tuple[float, ...]:
    numbers = isinstance(values, list) and all(
        type(value) in (int, float) for value in values
    )
    if not numbers or len(values) not in (1, channels):
        values = default
    values = tuple(map(float, values))
    return values * channels if len(values) == 1 else values


def read(name: str, content: Mapping[str, Any]) -> Config:
    """The parts of a config.json; one that is not timm's says nothing.

    Raises:
      WeightsError: its architecture is not a plain ViT.
    """
    architecture = content.get("architecture")
    if not isinstance(architecture, str):
        return Config(name)
    if not _PLAIN.match(architecture) or _OTHER.search(architecture):
        raise WeightsError(
            f"{name}: timm's {architecture!r} is not one of its plain ViTs and DeiTs, "
            "which are what is read here"
        )
    # Of older files all is in one object.
    arguments, pretrained = content.get("model_args"), content.get("pretrained_cfg")
    return Config(
        name,
        architecture,
        content,
        arguments if isinstance(arguments, dict) else {},
        pretrained if isinstance(pretrained, dict) else content,
    )
