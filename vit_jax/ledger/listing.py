"""All recipes as a table, with the sources and our measurements below it."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vit_jax.ledger.commands import commands
from vit_jax.ledger.planned import Planned
from vit_jax.ledger.records import LARGE, SMALL, Entry, Measured, Published

NOT_RUN = "not run by us"
BRACKET = "predicted by shapes, at 60 to 20 % of the chips' peak; not measured"
LEAST = 0.01  # hours; less is not what decides how long a run takes
_COLUMNS = ("recipe", "arXiv", "published %", "measured %", "params", "GFLOPs")
_LEFT = 4  # columns of text; the rest are numbers


def render(
    entries: Sequence[Entry],
    measured: Sequence[Measured],
    planned: Mapping[str, Planned],
) -> str:
    """The list, as text."""
    sources = _numbered(
        figure.source for entry in entries for figure in entry.published
    )
    results = [(_letter(number), one) for number, one in enumerate(measured, 1)]
    parts = []
    for title, topologies in (
        ("Recipes of published runs", LARGE),
        ("Small recipes, to run on any machine", SMALL),
    ):
        rows = [
            (
                entry.spec,
                entry.paper or "-",
                _published(entry, sources),
                _measured(entry, results),
                *_costs(planned.get(entry.spec)),
            )
            for entry in entries
            if entry.topologies == topologies
        ]
        header = (*_COLUMNS, *(f"h {name}" for name in topologies))
        parts += [title, "", *_table([header, *rows]), ""]
    parts += _legend()
    parts += ["", "Published in"]
    parts += [f"  [{number}] {source}" for source, number in sources.items()]
    if results:
        parts += ["", "Measured"]
        parts += [f"  [{letter}] {one.spec}: {one}" for letter, one in results]
    return "\n".join(parts)


def row(
    entry: Entry, measured: Sequence[Measured], planned: Planned | None
) -> dict[str, Any]:
    """A recipe as plain values."""
    return {
        "recipe": entry.spec,
        "paper": entry.paper or None,
        "published": [
            dataclasses.asdict(figure) | {"comparable": not figure.not_comparable}
            for figure in entry.published
        ],
        "note": entry.note,
        "measured": [
            dataclasses.asdict(one) | {"mean": one.mean, "spread": one.spread}
            for one in measured
            if one.spec == entry.spec
        ],
        "planned": None if planned is None else planned.to_json(),
        "commands": commands(entry),
    }


def hours(value: tuple[float, float] | None) -> str:
    """A bracket in hours, short."""
    if value is None:
        return "does not fit"
    low, high = map(_hours, value)
    return f"{low}-{high}" if value[1] >= LEAST else f"<{LEAST}"


def _hours(value: float) -> str:
    if value < 1:
        return f"{value:.2g}"
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def _published(entry: Entry, sources: Mapping[str, int]) -> str:
    return " ".join(_figure(figure, sources) for figure in entry.published) or "-"


def _figure(figure: Published, sources: Mapping[str, int]) -> str:
    text = f"({figure.value})" if figure.not_comparable else f"{figure.value}"
    return f"{text} [{sources[figure.source]}]"


def _measured(entry: Entry, results: Sequence[tuple[str, Measured]]) -> str:
    """The first result, and the letters of the others, which stand below."""
    found = [(letter, one) for letter, one in results if one.spec == entry.spec]
    if not found:
        return NOT_RUN
    letters = "".join(f" [{letter}]" for letter, _ in found)
    return f"{found[0][1].short}{letters}"


def _costs(planned: Planned | None) -> tuple[str, ...]:
    if planned is None:
        return ("-",) * 5
    return (
        _millions(planned.parameters),
        gflops(planned.flops_per_image),
        *(hours(cost.hours) + ("*" if cost.flags else "") for cost in planned.costs),
    )


def _millions(number: int) -> str:
    return f"{number / 1e6:,.1f} M" if number >= 1e6 else f"{number / 1e3:.1f} K"


def gflops(flops: int) -> str:
    """FLOPs in thousand millions, three digits of them."""
    value = flops / 1e9
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if index < _LEFT else f"{cell:>{width}}"
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in rows
    ]


def _legend() -> list[str]:
    return [
        "published %: top-1 on the data of the recipe, or after fine-tuning; in "
        "parentheses: not comparable.",
        "params: trained ones, with heads and decoders. GFLOPs: of an image in a "
        "training step.",
        f"h: hours of the whole run, {BRACKET}.",
        "Data, evaluations and the start are not counted. *: with flags that make it "
        "fit, see NAME.",
        "Other chips: vit-jax plan.",
        "One in full: vit-jax recipes NAME",
    ]


def _numbered(values: Iterable[Any]) -> dict[Any, int]:
    """Numbers from 1, in order, each value once."""
    return {value: number for number, value in enumerate(dict.fromkeys(values), 1)}


def _letter(number: int) -> str:
    """a to z, then aa."""
    letters = ""
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return letters
