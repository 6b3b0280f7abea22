"""How runs spent their time, what they ran with, and how to run them again."""

import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vit_jax.goodput import PHASES
from vit_jax.progress import clock
from vit_jax.report.elements import Element, add, run_name, table
from vit_jax.report.record import Record
from vit_jax.report.status import status


def goodput(parent: Element, records: Sequence[Record]) -> None:
    """Where the time went: a bar and the shares of each run."""
    every = [record.goodput() for record in records]
    if not any(every):
        add(parent, "p", "Where the time went was not kept.", class_="faint")
        return
    keys = add(parent, "div", class_="keys")
    used = [phase for phase in PHASES if any(phase in seconds for seconds in every)]
    for phase in used:
        add(add(keys, "span"), "span", class_=f"dot p-{phase}").tail = phase
    rows = []
    for index, (record, seconds) in enumerate(zip(records, every, strict=True)):
        total = sum(seconds.values())
        shares = [
            f"{100 * seconds.get(phase, 0.0) / total:.1f} %" if total else None
            for phase in used
        ]
        rows.append([run_name(record, index), _bar(seconds), clock(total), *shares])
    table(parent, ["run", "share of the time", "total", *used], rows)


def _bar(seconds: dict[str, float]) -> Callable[[Element], None]:
    def fill(place: Element) -> None:
        total, left = sum(seconds.values()), 0.0
        bar = add(place, "svg", class_="bar", role="img", aria_label="shares of time")
        for phase in PHASES:
            share = 100 * seconds.get(phase, 0.0) / total if total else 0.0
            if share:
                size = {"x": f"{left:.2f}%", "width": f"{share:.2f}%", "height": "100%"}
                rect = add(bar, "rect", class_=f"p-{phase}", y="0", **size)
                add(rect, "title", f"{phase}: {seconds[phase]:,.1f} s, {share:.1f} %")
                left += share

    return fill


def commands(parent: Element, records: Sequence[Record]) -> None:
    """The words that started each run, ready to be copied."""
    for index, record in enumerate(records):
        if len(records) > 1:
            run_name(record, index)(add(parent, "h3"))
        words = record.start.get("command")
        if isinstance(words, list) and words:
            add(parent, "pre", command_line(map(str, words)), class_="command")
            text = f"With vit_jax {_versions(record).get('vit_jax', '?')}"
            if record.start.get("git"):
                text += f" at commit {record.start['git']}"
            text += "; another --workdir trains anew."
        else:
            text = "The command was not kept: the run was started from Python, or by "
            text += "an older version. The config above has every field."
        add(parent, "p", text, class_="faint")


def command_line(words: Iterable[str]) -> str:
    """Words for a shell, an option a line."""
    line = "vit-jax"
    for word in words:
        line += " \\\n  " if word.startswith("--") else " "
        line += shlex.quote(word)
    return line


def environment(parent: Element, records: Sequence[Record]) -> None:
    """Devices, versions and settings; what differs between runs first."""
    every = [_environment(record) for record in records]
    keys = list(dict.fromkeys(key for found in every for key in found))
    same = [key for key in keys if len({found.get(key) for found in every}) == 1]
    differing = [key for key in keys if key not in same]
    if differing:
        rows = [[key, *(found.get(key) for found in every)] for key in differing]
        table(parent, ["differs", *(record.name for record in records)], rows)
    if same:
        what = "the same in all runs" if len(records) > 1 else "value"
        table(parent, ["", what], [[key, every[0][key]] for key in same])
    for index, record in enumerate(records):
        if len(record.starts) > 1:
            details = add(parent, "details")
            run_name(record, index)(add(details, "summary"))
            details[0][-1].tail = f"{record.name}: {len(record.starts)} starts"
            table(details, ["at", "from step", "ended"], map(_start, record.starts))


def _environment(record: Record) -> dict[str, str]:
    start = record.start
    mesh = start.get("mesh") or {}
    found = {
        "devices": status(record)["device"] or "",
        "mesh": " x ".join(f"{axis} {size}" for axis, size in mesh.items()),
        "platform": start.get("platform", ""),
        "commit": start.get("git", ""),
    }
    found |= start.get("variables") or {}
    found |= _versions(record)
    return {name: str(value) for name, value in found.items() if value}


def _versions(record: Record) -> dict[str, Any]:
    found = record.start.get("versions") or record.saved.get("versions")
    return found if isinstance(found, dict) else {}


def _start(start: dict[str, Any]) -> list[Any]:
    ended = start.get("ended") or {}
    how = ended.get("how", "without a word, or it goes on")
    text = " ".join(filter(None, (how, ended.get("message"), ended.get("at"))))
    return [start.get("at"), f"{start.get('step', 0):,}", text]
