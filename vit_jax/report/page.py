"""One HTML file about one or more runs: nothing in it is loaded from anywhere else."""

import base64
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from importlib import resources
from typing import Any
from xml.etree import ElementTree

import vit_jax
from vit_jax import starts, storage
from vit_jax.report import charts, origins, tables
from vit_jax.report.elements import Element, add, run_name
from vit_jax.report.record import Record, figures
from vit_jax.report.series import POINTS

GENERATOR = "vit-jax report"
FIGURE_BYTES = 4 << 20  # of one; a larger one is named and left out


def write(records: Sequence[Record], output: str) -> None:
    """Writes the page of some runs; one that is there already is replaced.

    Raises:
      StorageError: something else is there, or it cannot be written.
    """
    target = storage.absolute(output)
    try:
        if target.exists() and GENERATOR not in target.read_text()[:2000]:
            raise storage.StorageError(
                f"{output} is there and is no report; give another --output"
            )
        text = page(records)
        target.parent.mkdir(parents=True, exist_ok=True)
        storage.write_text(target, text)
    except (OSError, UnicodeDecodeError) as error:
        raise storage.StorageError(f"{output} cannot be written ({error})") from error


def named(records: Sequence[Record]) -> list[Record]:
    """Records whose names differ: as many folders of the path as that takes."""
    parts = [pathlib.PurePath(os.path.abspath(one.place)).parts for one in records]
    names = [one.name for one in records]
    for depth in range(2, max(map(len, parts), default=0) + 1):
        twice = {name for name in names if names.count(name) > 1}
        names = [
            "/".join(path[-depth:]) if name in twice else name
            for path, name in zip(parts, names, strict=True)
        ]
    return [
        dataclasses.replace(one, name=name)
        for one, name in zip(records, names, strict=True)
    ]


def page(records: Sequence[Record]) -> str:
    """The page as text."""
    records = named(records)
    drawn = charts.panels(records)
    style, script = _asset("page.css"), _asset("page.js")
    html = ElementTree.Element("html", {"lang": "en"})
    title = _title(records)
    _head(html, title, style, script)
    body = add(html, "body")
    _introduce(body, records, title)
    tables.runs(body, records)
    if drawn["groups"]:
        _curves(body, drawn)
    else:
        add(add(body, "p", class_="faint"), "span", "Nothing has been logged yet.")
    for heading, fill in (
        ("Evaluations", tables.evaluations),
        ("Where the time went", origins.goodput),
        ("Config", tables.config_diff),
        ("Run it again", origins.commands),
        ("Environment", origins.environment),
        ("Figures", _figures),
    ):
        section = ElementTree.Element("section")
        add(section, "h2", heading)
        fill(section, records)
        if len(section) > 1:
            body.append(section)
    add(body, "div", id="tip", hidden="hidden", role="status")
    if drawn["groups"]:
        add(body, "script", _inert(drawn), id="data", type="application/json")
        add(body, "script", script)
    text = ElementTree.tostring(html, encoding="unicode", method="html")
    return "<!doctype html>\n" + text.encode("utf-8", "replace").decode("utf-8")


def _title(records: Sequence[Record]) -> str:
    names = [record.name for record in records]
    return names[0] if len(names) == 1 else f"{len(names)} runs: {', '.join(names)}"


def _head(html: Element, title: str, style: str, script: str) -> None:
    """What a browser may do with the page: run this script and style, load nothing."""
    head = add(html, "head")
    add(head, "meta", charset="utf-8")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    add(head, "meta", http_equiv="Content-Security-Policy", content=policy)
    add(head, "meta", name="generator", content=f"{GENERATOR} {vit_jax.__version__}")
    add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    add(head, "link", rel="icon", href="data:,")  # or browsers ask for /favicon.ico
    add(head, "title", title)
    add(head, "style", style)


def _introduce(body: Element, records: Sequence[Record], title: str) -> None:
    add(body, "h1", title if len(records) == 1 else f"{len(records)} runs")
    made = f"vit_jax {vit_jax.__version__}, made {starts.now()}"
    add(body, "p", made, class_="faint")
    add(body, "h2", "What was run")


def _curves(body: Element, drawn: dict[str, Any]) -> None:
    add(body, "h2", "Curves")
    controls = add(body, "div", class_="controls")
    legend = {"aria_label": "runs shown", "role": "group"}
    add(controls, "div", class_="legend", id="legend", **legend)
    choice = add(add(controls, "label", "x axis "), "select", id="axis")
    for name in ("step", "epoch", "time"):
        add(choice, "option", name, value=name)
    slider = {"type": "range", "min": "0", "max": "0.98", "step": "0.02", "value": "0"}
    add(add(controls, "label", "smoothing "), "input", id="smoothing", **slider)
    add(add(controls, "label"), "input", id="log", type="checkbox").tail = "log y"
    add(add(body, "noscript"), "p", "The curves need JavaScript.")
    add(body, "div", id="charts")
    if drawn["longest"] > POINTS:
        text = f"Curves of more than {POINTS:,} points are thinned (the longest has "
        text += f"{drawn['longest']:,}); of each stretch its lowest and highest stay."
        add(body, "p", text, class_="faint")


def _figures(section: Element, records: Sequence[Record]) -> None:
    """The pictures of each run; the curves of one are on the page already."""
    for index, record in enumerate(records):
        found = figures(record.place)
        found.pop("curves", None)
        if not found:
            continue
        open_ = {"open": "open"} if len(records) == 1 else {}
        details = add(section, "details", **open_)
        run_name(record, index)(add(details, "summary"))
        grid = add(details, "div", class_="figures")
        for name, content in found.items():
            figure = add(grid, "figure")
            if len(content) > FIGURE_BYTES:
                size = f"{len(content) / 2**20:.1f} MiB, in the work directory"
                add(figure, "figcaption", f"{name}: {size}")
                continue
            data = base64.b64encode(content).decode()
            source = f"data:image/png;base64,{data}"
            add(
                figure,
                "img",
                src=source,
                alt=f"{name} of {record.name}",
            )
            add(figure, "figcaption", name.replace("_", " "))


def _asset(name: str) -> str:
    return (resources.files("vit_jax.report") / name).read_text(encoding="utf-8")


def _inert(data: Any) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
