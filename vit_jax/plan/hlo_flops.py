"""FLOPs of the matrix products in a compiled program's text, loops multiplied out.

XLA's own count takes the body of a loop once, and the TPU compiler writes every product
as a convolution: with windows that make some of its dimensions a product's batch.
"""

import math
import re

from vit_jax.plan.hlo_text import walk

_PRODUCT = re.compile(
    r"= (?P<out>[a-z]+\w*\[[\d,]*\])\S* (?P<op>convolution|dot)"
    r"\((?P<operands>[^)]*)\)(?P<rest>.*)$"
)
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_DIMS = re.compile(r"\[([\d,]*)\]")


def product_flops(text: str) -> int:
    """Multiply-adds times two that one device does; kernels of Pallas are left out."""
    total = 0
    for times, line, lines in walk(text):
        if match := _PRODUCT.search(line):
            total += times * _flops(match, lines)
    return total


def _flops(match: re.Match[str], lines: list[str]) -> int:
    names = [word.split()[-1].strip(" %") for word in match["operands"].split(",")]
    left, right = (_shape(name, lines) for name in names[:2])
    out = _dims(match["out"])
    if match["op"] == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", match["rest"])
        summed = [left[int(axis)] for axis in axes[1].split(",")] if axes else []
        return 2 * math.prod(out) * math.prod(summed)
    labels = _LABELS.search(match["rest"])
    if labels is None:
        return 0
    # Sizes of b m n k are those of left (b m k), right (b k n) and out (b m n): their
    # product is b^3 (m n k)^2.
    batch = math.prod(
        size
        for size, label in zip(out, labels[3], strict=True)
        if label.isdigit()
        and left[labels[1].index(label)] == right[labels[2].index(label)] == size
    )
    sizes = math.prod(left) * math.prod(right) * math.prod(out)
    return 2 * math.isqrt(sizes // batch)


def _shape(name: str, lines: list[str]) -> list[int]:
    for line in lines:
        if match := re.match(rf"\s+(?:ROOT )?%?{re.escape(name)} = (\S+)", line):
            return _dims(match[1])
    raise ValueError(f"no {name} beside the product that takes it")


def _dims(text: str) -> list[int]:
    match = _DIMS.search(text)
    return [int(size) for size in match[1].split(",") if size] if match else []
