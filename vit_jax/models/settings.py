"""Everything a ViT is built from, with the defaults, and what is wrong with it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from vit_jax.models.attention_choice import IMPLEMENTATIONS
from vit_jax.models.dense import GRADIENT_DTYPES
from vit_jax.models.layers import ACTIVATIONS, MLPS
from vit_jax.models.norms import NORMS
from vit_jax.models.position import FIXED
from vit_jax.models.rope import ROPES
from vit_jax.models.stack import REMAT
from vit_jax.models.stem import stem_stride

POOLS = ("cls", "gap", "map", "cls_gap")
POSITIONS = ("learned", "learned_cls", "learned_prefix", *FIXED, "none")
DISTILLATIONS = ("none", "token", "head")
FINAL_NORMS = ("tokens", "features", "both")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The keyword arguments of a ViT.

    Tokens are in the order CLS, distillation token, registers ("the prefix"), patches.

    Args:
      image_size: height and width in pixels.
      patch_size: height and width of a patch; must divide ``image_size``.
      channels: image channels.
      width, depth, mlp_dim, num_heads: Transformer dimensions.
      num_classes: logits of the head, 0 for no head.
      pool: ``"cls"``, ``"gap"`` (mean of the patch tokens), ``"map"`` (arXiv
        2106.04560) or ``"cls_gap"`` (``"cls"`` and ``"gap"`` side by side).
      cls_token: whether there is a CLS token.
      registers: further tokens without a meaning of their own (arXiv 2309.16588).
      distillation: ``"token"`` adds a distillation token (arXiv 2012.12877); with
        ``"head"`` it has a head too, and logits are the mean of both.
      position: ``"learned"`` (added to patches; CLS gets none; drawn from
        normal(1 / sqrt(width)), as big_vision), ``"learned_cls"`` (has rows for CLS
        and the distillation token; normal(0.02), as the paper's code),
        ``"learned_prefix"`` (for registers too), ``"sincos2d"``, ``"sincos2d_mae"``
        (see models/position.py) or ``"none"``.
      rope: rotary embedding of the patches' queries and keys, see models/rope.py.
      rope_base: its largest frequency over its smallest, roughly.
      dynamic_size: any image size that ``patch_size`` divides is taken; learned
        positions are resampled to it.
      patch_sizes: a call with a key draws one of these sides of a square patch
        (arXiv 2212.08013).
      stem: units of each stage of a ResNet in front (models/stem.py), None for none;
        ``patch_size`` stays in pixels.
      activation: of the MLPs, ``"gelu_tanh"`` (the approximation) or ``"gelu"``.
      mlp: ``"dense"`` or ``"swiglu"``, of the blocks (arXiv 2002.05202).
      norm, norm_epsilon: kind and epsilon of every norm, see models/norms.py.
      final_norm: whether the last norm acts on ``"tokens"`` before pooling, on the
        pooled ``"features"`` or on ``"both"``.
      qk_norm: norms of queries and keys (arXiv 2302.05442).
      layer_scale: first value of the blocks' branch scales, 0 for none (arXiv
        2103.17239).
      parallel_blocks: attention and MLP read the same norm (arXiv 2302.05442).
      pre_logits: width of a tanh layer before the head, 0 for none.
      head_bias: initial bias of the head (e.g. -6.9 for a sigmoid loss over 1,000
        classes: log(1/1000)).
      dropout, attention_dropout, drop_path: rates, active when a key is given.
      patch_dropout: share of an image's patch tokens left out, active when a key is
        given (arXiv 2212.00794).
      dtype: computation type; parameters are float32 always, and so are logits.
      gradient_dtype: of kernels' gradients, a name of models/dense.py.
      attention: kernel of models/attention.py.
      remat: what the backward pass recomputes, a name of models/stack.py.
      unroll: blocks written out per loop iteration; ``depth`` removes the loop.
    """

    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    channels: int = 3
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_classes: int
    pool: str = "gap"
    cls_token: bool = False
    registers: int = 0
    distillation: str = "none"
    position: str = "sincos2d"
    rope: str = "none"
    rope_base: float = 100.0
    dynamic_size: bool = False
    patch_sizes: tuple[int, ...] = ()
    stem: tuple[int, ...] | None = None
    activation: str = "gelu_tanh"
    mlp: str = "dense"
    norm: str = "layer"
    norm_epsilon: float = 1e-6
    final_norm: str = "tokens"
    qk_norm: bool = False
    layer_scale: float = 0.0
    parallel_blocks: bool = False
    pre_logits: int = 0
    head_bias: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    patch_dropout: float = 0.0
    dtype: str = "float32"
    gradient_dtype: str = "compute"
    attention: str = "xla"
    remat: str = "elementwise"
    unroll: int = 1

    @property
    def grid(self) -> tuple[int, int]:
        """Patches high and wide."""
        height, width = self.image_size
        return height // self.patch_size[0], width // self.patch_size[1]

    @property
    def num_prefix(self) -> int:
        """Tokens in front of the patches."""
        return self.cls_token + (self.distillation != "none") + self.registers

    @property
    def position_rows(self) -> int:
        """Rows of the table of learned positions; 0 where nothing is learned."""
        prefix = {
            "learned": 0,
            "learned_cls": self.num_prefix - self.registers,
            "learned_prefix": self.num_prefix,
        }
        if self.position not in prefix:
            return 0
        return prefix[self.position] + math.prod(self.grid)

    @property
    def num_features(self) -> int:
        """Width of the pooled features."""
        return 2 * self.width if self.pool == "cls_gap" else self.width


def check_vit(settings: Settings) -> list[str]:
    """Everything wrong with a ViT's settings, a line each; empty when it is sound."""
    return [*_names(settings), *_ranges(settings), *_sizes(settings), *_needs(settings)]


def _names(settings: Settings) -> list[str]:
    known = {
        "pool": POOLS,
        "position": POSITIONS,
        "distillation": DISTILLATIONS,
        "rope": ROPES,
        "activation": ACTIVATIONS,
        "mlp": MLPS,
        "norm": NORMS,
        "final_norm": FINAL_NORMS,
        "dtype": DTYPES,
        "gradient_dtype": GRADIENT_DTYPES,
        "attention": IMPLEMENTATIONS,
        "remat": REMAT,
    }
    return [
        f"model.{field} {value!r} is unknown; known: {', '.join(names)}"
        for field, names in known.items()
        if (value := getattr(settings, field)) not in names
    ]


def _ranges(settings: Settings) -> list[str]:
    ranges: dict[str, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
        "at least 0": (lambda value: value >= 0, ("num_classes", "registers")),
        "in [0, 1)": (
            lambda value: 0 <= value < 1,
            ("dropout", "attention_dropout", "drop_path", "patch_dropout"),
        ),
        "positive": (
            lambda value: 0 < value < math.inf,
            ("norm_epsilon", "rope_base"),
        ),
        "finite": (math.isfinite, ("layer_scale", "head_bias")),
    }
    return [
        f"model.{field} must be {what}, got {value!r}"
        for what, (ok, fields) in ranges.items()
        for field in fields
        if not ok(value := getattr(settings, field))
    ]


def _sizes(settings: Settings) -> list[str]:
    """What must divide what."""
    problems = []
    size, width, heads = settings.image_size, settings.width, settings.num_heads
    squares = [(side, side) for side in settings.patch_sizes]
    for name, patch in [
        ("patch size", settings.patch_size),
        *(("patch_sizes:", square) for square in squares),
    ]:
        if min(patch) < 1 or size[0] % patch[0] or size[1] % patch[1]:
            problems.append(
                f"{name} {patch} does not divide image size {size} (height, width)"
            )
    if width % heads:
        problems.append(f"num_heads {heads} does not divide width {width}")
    elif settings.rope != "none" and width // heads % 4:
        problems.append(
            f"rope {settings.rope!r} needs heads with a width in fours; got "
            f"{width // heads} (width {width} / num_heads {heads})"
        )
    smallest = {"sincos2d": 8, "sincos2d_mae": 4}.get(settings.position)
    if smallest and (width % 4 or width < smallest):
        problems.append(
            f"position {settings.position!r} needs a width in fours, at least "
            f"{smallest}; got {width}"
        )
    return problems


def _needs(settings: Settings) -> list[str]:
    """Options that need or exclude others."""
    problems = []
    stem, patch = settings.stem, settings.patch_size
    if stem is not None:
        if any(units < 1 for units in stem):
            problems.append(f"stem {stem} has a stage without units; each needs one")
        elif patch[0] % stem_stride(stem) or patch[1] % stem_stride(stem):
            problems.append(
                f"stem {stem} has a stride of {stem_stride(stem)}, which does not "
                f"divide patch size {patch}"
            )
        if settings.patch_sizes:
            problems.append("patch_sizes resize whole patches; leave out the stem")
    users = [
        f"{field} {value!r}"
        for field, values in (
            ("pool", ("cls", "cls_gap")),
            ("position", ("learned_cls",)),
            ("distillation", ("token", "head")),
        )
        if (value := getattr(settings, field)) in values
    ]
    if users and not settings.cls_token:
        problems.append(f"cls_token must be True for {' and '.join(users)}")
    if settings.distillation == "head" and settings.final_norm == "features":
        problems.append(
            "distillation 'head' reads a token: final_norm must be 'tokens' or 'both', "
            "not 'features'"
        )
    return problems
