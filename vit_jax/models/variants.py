"""The sizes of the ViT family by name: ``"B/16"`` is size B with 16x16 patches.

Sources: Ti to H arXiv 2010.11929 and 2106.10270; So400m 2305.13035; g, G 2106.04560
(Table 2); e 2209.06794. Adding a size is adding a row.
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
    """A size with its patch size (height, width) in pixels."""

    patch_size: tuple[int, int]


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
}

_SPELLING = re.compile(
    r"(?P<size>[A-Za-z0-9-]+)/(?P<height>[1-9]\d*)(x(?P<width>[1-9]\d*))?"
)


def parse(variant: str) -> Variant:
    """Reads ``"B/16"``, or ``"B/16x8"`` for patches 16 high and 8 wide.

    Raises:
      ValueError: the string has another form, or names no size of the table.
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
    return Variant(**size, patch_size=(height, width))


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
    **rest: Any,
) -> dict[str, Any]:
    """The ViT's keyword arguments from a named variant and what replaces its parts.

    ``cls_token=None`` means "when the pooling needs it", ``pre_logits=-1`` means the
    model's width, and a one-element ``image_size`` a square.

    Raises:
      ValueError: the variant is unknown.
    """
    size = parse(variant)
    width = width or size.width
    return {
        "patch_size": size.patch_size,
        "width": width,
        "depth": depth or size.depth,
        "mlp_dim": mlp_dim or (4 * width if width != size.width else size.mlp_dim),
        "num_heads": num_heads or size.num_heads,
        "pool": pool,
        "cls_token": pool == "cls" if cls_token is None else cls_token,
        "pre_logits": width if pre_logits == -1 else pre_logits,
        "image_size": tuple(image_size) * 2 if len(image_size) == 1 else image_size,
        **rest,
    }
