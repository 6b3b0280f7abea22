"""The text of a compiled program as instructions, each as often as it runs.

The text lists the body of a loop once. A layer's instructions run once a layer, so each
counts as often as the loops around it turn.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?(?P<name>[\w.-]+) = (?P<rest>.*)$")
_CALLS = re.compile(
    r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.-]+)"
    r"|branch_computations=\{([^}]*)\}"
)
# Whose computation is only what they sum by.
_COLLECTIVE = re.compile(r" (?:all-reduce|reduce-scatter)(?:-start)?\(")
_WHILE = re.compile(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)")
_TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')
_CONSTANT = re.compile(r"%?([\w.-]+) = [su]32\[\][^ ]* constant\((\d+)\)")
_ELEMENT = re.compile(
    r"%?([\w.-]+) = [su]32\[\]\S* get-tuple-element\([^)]*\), index=(\d+)"
)
_LESS = re.compile(r"compare\(([^)]*)\), direction=LT")
MOVED = r".* (?:copy|copy-start|copy-done|bitcast)\(%?([\w.-]+)\)"
_Computation = tuple[bool, list[str]]  # whether it is the entry, its instructions


def walk(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Every instruction that runs: how often, itself, and those beside it."""
    computations = dict(_computations(text))

    def visit(name: str, times: int) -> Iterator[tuple[int, str, list[str]]]:
        lines = computations.get(name, (False, []))[1]
        for line in lines:
            yield times, line, lines
            if match := _WHILE.search(line):
                turns = _trip_count(line, lines, computations)
                yield from visit(match[2], times * turns)
            elif not _COLLECTIVE.search(line):
                for called in _called(line):
                    yield from visit(called, times)

    entry = next(name for name, (is_entry, _) in computations.items() if is_entry)
    yield from visit(entry, 1)


def _computations(text: str) -> Iterator[tuple[str, _Computation]]:
    name, is_entry, lines = "", False, []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            name, is_entry, lines = match["name"], bool(match["entry"]), []
        elif line.startswith("}"):
            yield name, (is_entry, lines)
        elif _INSTRUCTION.match(line):
            lines.append(line)


def _trip_count(
    line: str, lines: list[str], computations: Mapping[str, _Computation]
) -> int:
    """How often a loop turns; 1 where that depends on the data.

    The compiler writes loops out in part, which then count in larger steps, and takes
    the first turn out of them, so that they start later.
    """
    if match := _TRIPS.search(line):
        return int(match[1])
    condition, body = _WHILE.search(line).groups()  # pyright: ignore[reportOptionalMemberAccess]
    text = "\n".join(computations[condition][1])
    compare = _LESS.search(text)
    if not compare:
        return 1
    constants = _constants(text)
    names = [word.split()[-1].strip(" %") for word in compare[1].split(",")]
    limits = [constants[name] for name in names if name in constants]
    if not limits:
        return 1
    indices = dict(_ELEMENT.findall(text))
    place = next((int(indices[name]) for name in names if name in indices), None)
    turns = limits[0] - _start(line, lines, place)
    return math.ceil(turns / _step(computations.get(body), place))


def _start(line: str, lines: list[str], place: int | None) -> int:
    """What a loop's counter is before the first turn; 0 where that is not seen."""
    state = re.search(r" while\(%?([\w.-]+)\)", line)
    if state is None or place is None:
        return 0
    made = definition(state[1], lines, r".* tuple\((.*?)\)(?:, |$)")
    names = re.findall(r"%([\w.-]+)", made[1]) if made else []
    name = names[place] if place < len(names) else ""
    while moved := definition(name, lines, MOVED):
        name = moved[1]
    constant = definition(name, lines, r"[su]32\[\]\S* constant\((\d+)\)")
    return int(constant[1]) if constant else 0


def definition(name: str, lines: Iterable[str], form: str) -> re.Match[str] | None:
    """Where ``name`` is made, if by an instruction of this form."""
    pattern = re.compile(rf"\s+(?:ROOT )?%?{re.escape(name)} = {form}")
    return next(filter(None, map(pattern.match, lines)), None) if name else None


def _constants(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in _CONSTANT.findall(text)}


def _step(body: _Computation | None, place: int | None) -> int:
    """What a loop's body adds to the element of its state that counts."""
    if body is None or place is None:
        return 1
    text = "\n".join(body[1])
    root = re.search(r"ROOT .* tuple\((.*?)\)(?:, |$)", body[1][-1])
    names = re.findall(r"%([\w.-]+)", root[1]) if root else []
    if place >= len(names):
        return 1
    added = re.search(
        rf"%?{re.escape(names[place])} = \S+ add\(%?([\w.-]+), %?([\w.-]+)\)", text
    )
    constants = _constants(text)
    words = added.groups() if added else ()
    return max((constants[name] for name in words if name in constants), default=1)


def _called(line: str) -> list[str]:
    names = []
    for one, several in _CALLS.findall(line):
        names += [one] if one else [name.strip(" %") for name in several.split(",")]
    return names
