"""The sizes of the ViT family by name: ``"B/16"`` is size B with 16x16 patches.

Sources: Ti to H and the hybrids arXiv 2010.11929 and 2106.10270; So400m 2305.13035; g,
G 2106.04560 (Table 2); e 2209.06794; AIM 2401.08541. Adding a size is adding a row.
"""

import dataclasses
import re
from typing import Any


@dataclasses.dataclass(frozen=True)
class Size:
    """Transformer dimensions of one row of the table."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int


@dataclasses.dataclass(frozen=True)
class Variant(Size):
    """A size with its patch size (height, width) in pixels, and its ResNet if any."""

    patch_size: tuple[int, int]
    stem: tuple[int, ...] | None = None  # units of each stage


VARIANTS: dict[str, Size] = {
    "mu": Size(32, 1, 128, 2),
    "Ti": Size(192, 12, 768, 3),
    "S": Size(384, 12, 1536, 6),
    "M": Size(512, 12, 2048, 8),
    "B": Size(768, 12, 3072, 12),
    "L": Size(1024, 24, 4096, 16),
    "So400m": Size(1152, 27, 4304, 16),
    "H": Size(1280, 32, 5120, 16),
    "g": Size(1408, 40, 6144, 16),
    "g-opt": Size(1536, 40, 6144, 16),
    "G": Size(1664, 48, 8192, 16),
    "G-opt": Size(1536, 48, 8192, 16),
    "e": Size(1792, 56, 15360, 16),
    "AIM-600M": Size(1536, 24, 6144, 12),
    "AIM-1B": Size(2048, 24, 8192, 16),
    "AIM-3B": Size(3072, 24, 12288, 24),
    "AIM-7B": Size(4096, 32, 16384, 32),
}

# A variant that stands for whatever `model.init_from` holds.
SOURCE = "source"

# Settings with which a config replaces a variant's.
REPLACEABLE = ("width", "depth", "mlp_dim", "num_heads", "patch_size", "stem")

# Stems by name and the number behind the slash: units of each stage, and pixels from
# patch to patch. "R+Ti/16" has 8x8 patches of an image that its root made 4x smaller.
STEMS: dict[tuple[str, int], tuple[tuple[int, ...], int]] = {
    ("R", 16): ((), 32),
    ("R26", 32): ((2, 2, 2, 2), 32),
    ("R50", 16): ((3, 4, 9), 16),
    ("R50", 32): ((3, 4, 6, 3), 32),
}

_SPELLING = re.compile(
    r"((?P<stem>R\d*)\+)?"
    r"(?P<size>[A-Za-z0-9-]+)/(?P<height>[1-9]\d*)(x(?P<width>[1-9]\d*))?"
)


def parse(variant: str) -> Variant:
    """Reads ``"B/16"``, ``"B/16x8"`` (16 high, 8 wide) or a hybrid, ``"R50+B/16"``.

    Raises:
      ValueError: the string has another form, or names no size or stem of the tables.
    """
    match = _SPELLING.fullmatch(variant)
    if not match or match["size"] not in VARIANTS:
        raise ValueError(
            f"model variant {variant!r} is not SIZE/PATCH such as 'B/16' or 'B/16x8'; "
            f"sizes: {', '.join(VARIANTS)}"
        )
    height = int(match["height"])
    width = int(match["width"] or height)
    size = dataclasses.asdict(VARIANTS[match["size"]])
    if not match["stem"]:
        return Variant(**size, patch_size=(height, width))
    if (match["stem"], height) not in STEMS or match["width"]:
        known = ", ".join(f"{name}+SIZE/{patch}" for name, patch in STEMS)
        raise ValueError(f"model variant {variant!r} is no hybrid; known: {known}")
    units, stride = STEMS[match["stem"], height]
    return Variant(**size, patch_size=(stride, stride), stem=units)


def resolve(
    *,
    variant: str,
    width: int | None = None,
    depth: int | None = None,
    mlp_dim: int | None = None,
    num_heads: int | None = None,
    pool: str = "gap",
    cls_token: bool | None = None,
    pre_logits: int = 0,
    image_size: tuple[int, ...],
    stem: tuple[int, ...] | None = None,
    patch_size: tuple[int, ...] | None = None,
    **rest: Any,
) -> dict[str, Any]:
    """The ViT's keyword arguments from a named variant and what replaces its parts.

    ``cls_token=None`` means "when the pooling needs it", ``pre_logits=-1`` means the
    model's width, a one-element ``image_size`` a square, and ``stem=None`` and
    ``patch_size=None`` the variant's. The variant `SOURCE` needs every size given.

    Raises:
      ValueError: the variant is unknown, or `SOURCE` with a size unset.
    """
    if variant == SOURCE:
        size = _given(width, depth, mlp_dim, num_heads, patch_size, stem)
    else:
        size = parse(variant)
    width = width or size.width
    patch_size = size.patch_size if patch_size is None else patch_size
    return {
        "patch_size": patch_size * 2 if len(patch_size) == 1 else patch_size,
        "width": width,
        "depth": depth or size.depth,
        "mlp_dim": mlp_dim or (4 * width if width != size.width else size.mlp_dim),
        "num_heads": num_heads or size.num_heads,
        "pool": pool,
        "cls_token": pool in ("cls", "cls_gap") if cls_token is None else cls_token,
        "pre_logits": width if pre_logits == -1 else pre_logits,
        "image_size": tuple(image_size) * 2 if len(image_size) == 1 else image_size,
        "stem": size.stem if stem is None else stem,
        **rest,
    }


def _given(*sizes: Any) -> Variant:
    """The sizes that a config took from weights."""
    *required, stem = sizes
    if None in required:
        raise ValueError(
            f"model variant {SOURCE!r} has the sizes of the weights in "
            "model.init_from, which are not read yet"
        )
    return Variant(*required, stem=stem)
