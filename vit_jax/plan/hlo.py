"""What a compiled program's text tells: collectives with their bytes, and remat.

The text lists the body of a loop once. A layer's collectives run once a layer, so each
is counted as often as the loops around it turn.
"""

import dataclasses
import math
import re
from collections.abc import Iterable
from typing import Any

from vit_jax.plan.hlo_text import MOVED, definition, walk

_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1,
    "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4,
    "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
_OP = re.compile(
    r"(?P<op>all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|"
    r"collective-permute|collective-broadcast)(?P<start>-start)?\((?P<operands>[^)]*)\)"
)
_ARRAY = re.compile(r"(?P<type>[a-z]+\d+[a-z0-9]*|pred)\[(?P<dims>[\d,]*)\]")
# Between slices the TPU compiler hands arrays to the hosts, which do the rest.
_BETWEEN = re.compile(
    r" = \((?P<array>[^ ]*) .* send\(.*_xla_megascale_"
    r"(?:target=\"\{(?P<slices>[\d,]+)\}.*_xla_megascale_)?"
    r"transfer_type=\"(?P<kind>\w+)\""
)
_KINDS = {"ONE_TO_ONE": "collective-permute"}
_KERNEL = re.compile(
    r"^\s+(?:ROOT )?%?([\w-]+)[\w.-]* = .*custom_call_target=\"tpu_custom_call\"", re.M
)
_CHANNEL = re.compile(r"channel_id=(\d+)")
_REMAT = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+?\.remat[\w.]*) = ", re.M)


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind over groups of one size.

    Args:
      kind: ``all-reduce``, ``all-gather``, ...
      group: devices that take part together.
      crosses: whether a group has devices of several slices.
      count: executions a step.
      sent: bytes that each device sends a step.
    """

    kind: str
    group: int
    crosses: bool
    count: int
    sent: float


def rematerialized(text: str) -> list[str]:
    """Instructions that the compiler computes again of itself, to save memory.

    It does so when a program would not fit otherwise. ``jax.checkpoint`` shows in the
    metadata of instructions only, and never in their names.
    """
    return _REMAT.findall(text)


def kernels(text: str) -> list[str]:
    """Kernels of Pallas in a program for TPUs, each by its name, sorted."""
    return sorted({match[1] for match in _KERNEL.finditer(text)})


def sent_bytes(kind: str, size: float, group: int) -> float:
    """Bytes that one device sends, with rings, for an array of ``size`` bytes.

    ``size`` is the larger side: the result of a gather, the operand of a reduction.
    """
    if group <= 1:
        return 0.0
    share = size * (group - 1) / group
    if kind == "all-reduce":  # a reduce-scatter, then an all-gather
        return 2 * share
    return size if kind.startswith("collective") else share


def collectives(text: str, *, slice_size: int = 0) -> list[Collective]:
    """Every collective of a compiled program, loops multiplied out.

    Args:
      text: `Compiled.as_text()`.
      slice_size: devices a slice, numbered one slice after the other; 0: one slice.
    """
    found: dict[tuple[Any, ...], tuple[int, float]] = {}
    for times, line, lines in walk(text):
        if sent := _BETWEEN.search(line):
            kind = _KINDS.get(sent["kind"], sent["kind"].lower().replace("_", "-"))
            group = len(sent["slices"].split(",")) if sent["slices"] else 2
            amount = sent_bytes(kind, _array_bytes(sent["array"]), group)
            key = kind, group, True, _channel(line)
            found[key] = _sum(found.get(key, (0, 0.0)), (times, times * amount))
        if not (op := _OP.search(line)):
            continue
        groups, channel = _groups(line), _channel(line)
        group = max((len(one) for one in groups), default=1)
        for kind, size in _sizes(line, op, lines):
            key = kind, group, _crosses(groups, slice_size), channel
            now = times, times * sent_bytes(kind, size, group)
            before = found.get(key, (0, 0.0))
            # Pieces of one collective, between other work, have a channel in common.
            found[key] = max(before, now) if channel else _sum(before, now)
    total: dict[Any, tuple[int, float]] = {}
    for key, now in found.items():
        total[key[:3]] = _sum(total.get(key[:3], (0, 0.0)), now)
    return [
        Collective(key[0], key[1], key[2], count, sent)
        for key, (count, sent) in sorted(total.items())
    ]


def _sum(one: tuple[int, float], other: tuple[int, float]) -> tuple[int, float]:
    return one[0] + other[0], one[1] + other[1]


def _channel(line: str) -> str:
    """What the pieces of one asynchronous collective have in common; "" without it."""
    match = _CHANNEL.search(line)
    return match[1] if match else ""


def _sizes(
    line: str, found: re.Match[str], lines: Iterable[str]
) -> list[tuple[str, float]]:
    """The kind and bytes of what an instruction does.

    The TPU compiler gathers by reducing arrays of which each device fills a part, and
    reduces those in one instruction with others.
    """
    op = found["op"]
    if op != "all-reduce" or found["start"]:
        return [(op, _size(line, found))]
    operands = re.findall(r"%([\w.-]+)", found["operands"])
    result = line[: found.start()].partition(" = ")[2]
    arrays = [_array_bytes(match[0]) for match in _ARRAY.finditer(result)]
    sizes = {"all-gather": 0.0, "all-reduce": 0.0}
    for operand, size in zip(operands, arrays, strict=True):
        sizes["all-gather" if _is_filled(operand, lines) else op] += size
    return [(kind, size) for kind, size in sizes.items() if size]


def _is_filled(name: str, lines: Iterable[str]) -> bool:
    """Whether an array is zeros but for a part, perhaps moved since."""
    if "dynamic-update-slice" in name:
        return True
    moved = definition(name, lines, MOVED)
    return moved is not None and _is_filled(moved[1], lines)


def _size(line: str, found: re.Match[str]) -> float:
    """Bytes of the larger side; a `-start` op's result names its operands as well."""
    result = line[: found.start()].partition(" = ")[2]
    if found["start"]:
        result = result.replace("u32[]", "")  # of the implementation
    size = _array_bytes(result)
    if found["start"] and found["op"] != "all-reduce":
        size -= _array_bytes(result) * _operand_share(found["op"], _groups(line))
    if found["op"] == "reduce-scatter":
        size *= max((len(group) for group in _groups(line)), default=1)
    return size


def _operand_share(op: str, groups: list[list[int]]) -> float:
    """The part of a `-start` op's result that is its operand, and not what comes."""
    size = max((len(group) for group in groups), default=1)
    parts = {"all-gather": 1 / (size + 1), "reduce-scatter": size / (size + 1)}
    return parts.get(op, 0.5)


def _array_bytes(text: str) -> float:
    return sum(
        _BYTES[match["type"]] * math.prod(map(int, match["dims"].split(",")))
        if match["dims"]
        else _BYTES[match["type"]]
        for match in _ARRAY.finditer(text)
        if match["type"] in _BYTES
    )


def _groups(line: str) -> list[list[int]]:
    """Device numbers that communicate, in any of the ways that the text writes them."""
    if match := re.search(r"source_target_pairs=\{(\{[\d,{} ]*\})\}", line):
        return _lists(match[1])
    if match := re.search(r"replica_groups=\{(\{[\d,{} ]*\})\}", line):
        return _lists(match[1])
    if match := re.search(
        r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](T\(([\d,]+)\))?", line
    ):
        order = [int(axis) for axis in match[5].split(",")] if match[5] else None
        dims = [int(size) for size in match[3].split(",")]
        flat = _transposed(dims, order or list(range(len(dims))))
        size = int(match[2])
        return [flat[start : start + size] for start in range(0, len(flat), size)]
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", line):
        sizes = {
            name.strip("' "): int(size)
            for name, size in (part.split("=") for part in match[1].split(","))
        }
        axes = [name.strip("' ") for name in match[2].split(",")]
        rest = [name for name in sizes if name not in axes]
        order = [list(sizes).index(name) for name in (*rest, *axes)]
        flat = _transposed(list(sizes.values()), order)
        size = math.prod(sizes[name] for name in axes)
        return [flat[start : start + size] for start in range(0, len(flat), size)]
    return []


def _lists(text: str) -> list[list[int]]:
    inner = re.findall(r"\{([\d, ]*)\}", text)
    return [[int(number) for number in part.split(",")] for part in inner if part]


def _transposed(dims: list[int], order: list[int]) -> list[int]:
    """0, 1, 2, ... in an array of ``dims``, read with its axes in another order."""
    strides = [math.prod(dims[axis + 1 :]) for axis in range(len(dims))]
    flat = [0]
    for axis in order:
        flat = [
            start + index * strides[axis]
            for start in flat
            for index in range(dims[axis])
        ]
    return flat


def _crosses(groups: list[list[int]], slice_size: int) -> bool:
    if not slice_size:
        return False
    return any(len({device // slice_size for device in group}) > 1 for group in groups)
