"""One recipe in full: what it is, what it sets, what to type, what came of it."""

import ast
import pathlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.config import ConfigError
from vit_jax.config_file import nearest, recipes
from vit_jax.ledger import settings
from vit_jax.ledger.commands import commands
from vit_jax.ledger.listing import BRACKET, NOT_RUN, gflops, hours, row
from vit_jax.ledger.planned import Planned, load_config
from vit_jax.ledger.records import Entry, Measured


def find(spec: str, entries: Sequence[Entry]) -> Entry:
    """The entry that is meant; an argument without one makes an entry without figures.

    Args:
      spec: ``"mae_i1k"``, ``"mae_i1k:B/16"`` or ``"configs/mae_i1k.py:B/16"``.
      entries: of the ledger.

    Raises:
      ConfigError: there is no such recipe.
    """
    path, colon, arg = spec.partition(":")
    name = pathlib.PurePath(path).name.removesuffix(".py")
    files = recipes()
    if name not in files:
        raise ConfigError(
            f"no recipe {spec!r}; known: {', '.join(files)}{nearest(name, files)}"
        )
    by_spec = {entry.spec: entry for entry in entries}
    default = _default(files[name])
    if not colon:
        arg = default
    full = name if arg is None else f"{name}:{arg}"
    if full not in by_spec and arg == default:
        full = name
    return by_spec.get(full) or Entry(
        full, "", note="the ledger has no figures for this argument"
    )


def explain(
    entry: Entry,
    entries: Sequence[Entry],
    measured: Sequence[Measured],
    planned: Mapping[str, Planned],
) -> str:
    """One recipe, as text.

    Raises:
      ConfigError: its config does not take the argument.
    """
    config = load_config(entry)
    values = settings.describe(config)
    width = max(map(len, values))
    said = commands(entry)
    parts = [
        entry.spec,
        "",
        docstring(entry),
        "",
        "Settings that matter",
        *(f"  {name:{width}}  {value}" for name, value in values.items()),
        "",
        "Train it",
        f"  {said['train']}",
        "Its small form: the same objective, optimizer and augmentation in minutes",
        f"  {said['smoke']}",
        "",
        "Published",
        *_published(entry),
        "Measured",
        *(f"  {one}" for one in measured if one.spec == entry.spec),
    ]
    if not any(one.spec == entry.spec for one in measured):
        parts.append(f"  {NOT_RUN}")
    parts += ["", *_costs(planned.get(entry.spec)), f"  {said['plan']}"]
    others = [other.spec for other in entries if other.name == entry.name]
    if others and others != [entry.spec]:
        parts += ["", textwrap.fill(f"In the ledger: {', '.join(others)}", 88)]
    return "\n".join(parts)


def as_json(
    entry: Entry, measured: Sequence[Measured], planned: Mapping[str, Planned]
) -> dict[str, Any]:
    """One recipe as plain values: its row of the list, and what `explain` adds."""
    values = settings.describe(load_config(entry))
    return {
        **row(entry, measured, planned.get(entry.spec)),
        "about": docstring(entry),
        "settings": values,
    }


def docstring(entry: Entry) -> str:
    """Of its config: what it is, and in what it departs from the published run."""
    text = ast.get_docstring(_module(recipes()[entry.name])) or ""
    # A backslash at a line's end joins it with the next one and its indentation.
    return re.sub(r"(?<=\S) {3,}", " ", text)


def _default(file: pathlib.Path) -> str | None:
    """The argument of ``get_config`` where none is given."""
    for node in _module(file).body:
        if isinstance(node, ast.FunctionDef) and node.name == "get_config":
            for value in node.args.defaults:
                return ast.literal_eval(value)
    return None


def _module(file: pathlib.Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _published(entry: Entry) -> list[str]:
    lines = []
    for figure in entry.published:
        lines.append(f"  {figure}")
        if figure.not_comparable:
            lines.append(f"    not comparable: {figure.not_comparable}")
    lines += [f"  {entry.note}"] if entry.note else []
    if entry.paper:
        lines.append(f"  paper: arXiv {entry.paper}")
    return lines or ["  nothing: the recipe is ours"]


def _costs(planned: Planned | None) -> list[str]:
    if planned is None:
        return ["Costs", "  not planned ahead; ask:"]
    lines = [
        "Costs",
        f"  {planned.parameters:,} trained parameters, "
        f"{gflops(planned.flops_per_image)} GFLOPs an image with backward",
        f"  {planned.steps:,} steps, {planned.steps * planned.batch_size:,} images",
    ]
    for cost in planned.costs:
        memory = f"{cost.memory_gib:g} GiB a chip"
        flags = f", with {' '.join(cost.flags)}" if cost.flags else ""
        hour = "" if cost.hours is None else " hours"
        lines.append(f"  {cost.topology}: {hours(cost.hours)}{hour}, {memory}{flags}")
    lines.append(f"  {BRACKET}; for other chips:")
    return lines
