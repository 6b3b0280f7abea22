"""The elements that a report is made of.

They are those of `xml.etree`, which writes every text and attribute escaped: a run's
name or config cannot become part of the page.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from xml.etree import ElementTree

from vit_jax.report.record import Record

Element = ElementTree.Element
COLOURS = 10  # in page.css
NONE = "–"


def add(parent: Element, tag: str, text: object = None, **attributes: str) -> Element:
    """A new child; ``class_`` stands for the attribute ``class``."""
    names = {name.rstrip("_").replace("_", "-"): v for name, v in attributes.items()}
    child = ElementTree.SubElement(parent, tag, names)
    child.text = None if text is None else str(text)
    return child


def table(
    parent: Element, head: Sequence[str], rows: Iterable[Sequence[Any]]
) -> Element:
    """A table in a box of its own to scroll in; a callable cell fills itself."""
    made = add(add(parent, "div", class_="scroll"), "table")
    line = add(add(made, "thead"), "tr")
    for title in head:
        add(line, "th", title, scope="col")
    body = add(made, "tbody")
    for row in rows:
        line = add(body, "tr")
        for index, cell in enumerate(row):
            place = add(line, "td") if index else add(line, "th", scope="row")
            if callable(cell):
                cell(place)
            else:
                place.text = NONE if cell is None or cell == "" else str(cell)
    return made


def run_name(record: Record, index: int) -> Callable[[Element], None]:
    """A cell with a run's colour and name."""

    def fill(place: Element) -> None:
        dot = add(place, "span", class_=f"dot c{index % COLOURS}")
        dot.tail = record.name

    return fill


def marked(text: str) -> Callable[[Element], None]:
    """A cell that stands out."""
    return lambda place: setattr(add(place, "mark", text), "tail", "")


def wrapped(text: str) -> Callable[[Element], None]:
    """A cell for a sentence, which may take several lines."""

    def fill(place: Element) -> None:
        place.text = text or NONE
        if len(text) > 40:
            place.set("class", "wrap")

    return fill
