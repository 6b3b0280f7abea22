"""TFDS split expressions, such as ``"train[:99%]+test[-50:]"``, as ranges."""

import re
from collections.abc import Mapping

_BOUND = r"-?(?:\d+|\d+(?:\.\d+)?%)"
NAME = r"[\w.-]+"  # of a split
_TERM = re.compile(
    rf"\s*(?P<name>{NAME})\s*"
    rf"(\[\s*(?P<start>{_BOUND})?\s*:\s*(?P<stop>{_BOUND})?\s*\])?\s*"
)


def parse_split(split: str, sizes: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Ranges ``(split, start, stop)`` of an expression, in its order.

    Percentages are rounded to the closest example, and negative bounds count from the
    end, as TFDS does by default; ``all`` is every split, one after the other.

    Raises:
      ValueError: the expression is malformed or names no split of ``sizes``.
    """
    ranges = []
    for term in split.split("+"):
        match = _TERM.fullmatch(term)
        if not match:
            raise ValueError(
                f"split {split!r} is malformed; write 'train', 'train[:99%]', "
                "'train[100:200]', or a sum such as 'train+test'"
            )
        name = match["name"]
        if name == "all" and name not in sizes and "[" not in term:
            ranges += [(every, 0, size) for every, size in sizes.items()]
            continue
        if name not in sizes:
            raise ValueError(f"no split {name!r}; it has: {', '.join(sizes)}")
        bounds = [bound for bound in match.group("start", "stop") if bound]
        if len({bound.endswith("%") for bound in bounds}) > 1:
            raise ValueError(f"split {split!r}: {term!r} mixes percent and numbers")
        start = _bound(match["start"], sizes[name], 0)
        stop = _bound(match["stop"], sizes[name], sizes[name])
        ranges.append((name, start, max(start, stop)))
    return ranges


def _bound(text: str | None, size: int, default: int) -> int:
    if text is None:
        return default
    if text.endswith("%"):
        percent = float(text[:-1])
        if abs(percent) > 100:
            raise ValueError(f"{text} is beyond 100 %")
        value = round(percent * size / 100)
    else:
        value = int(text)
        if abs(value) > size:
            raise ValueError(f"{text} is beyond the split's {size:,} examples")
    return value + size if value < 0 else value
