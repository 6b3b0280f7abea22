"""`vit-jax sweep status` and `results`, and the one trial of `run-trial`."""

import argparse
import json
import os
import pathlib
import sys
import time
from typing import Any

from vit_jax import config as configs
from vit_jax import storage
from vit_jax.sweep import config_source, record, table, trials
from vit_jax.sweep.ranges import SweepError
from vit_jax.sweep.record import Sweep
from vit_jax.sweep.table import Row

_WATCH_SECONDS = 2.0


def status(options: argparse.Namespace) -> int:
    """What the trials are doing."""
    workdir, sweep = _opened(options)
    if options.watch:
        return _watch(workdir, sweep, options)
    found = table.rows(workdir, sweep)
    if options.json:
        print(json.dumps(table.plain(found, result=False), indent=2))
    elif options.csv is not None:
        _write_csv(table.as_csv(found, result=False), options.csv)
    else:
        _print(_status_table(found, sweep, options))
    return 0


def _opened(options: argparse.Namespace) -> tuple[Any, Sweep]:
    if not options.workdir:
        raise SweepError(f"sweep {options.action} needs --workdir=DIR")
    storage.prepare(options.workdir)
    workdir = storage.absolute(options.workdir)
    return workdir, record.read_sweep(workdir)


def _status_table(found: list[Row], sweep: Sweep, options: argparse.Namespace) -> Any:
    """Running trials first: with many trials, the rest may not be shown."""
    active = {table.RUNNING: 0, trials.FAILED: 1, table.STARTED: 2}
    if len(found) > options.limit:
        found = sorted(found, key=lambda row: active.get(row.status, 3))
    title = f"{options.workdir}  {sweep.config}  {sweep.metric} ({sweep.mode})"
    return table.render(found, sweep, title=title, limit=options.limit)


def _watch(workdir: Any, sweep: Sweep, options: argparse.Namespace) -> int:
    """The table, again and again, until all is over or Ctrl-C."""
    from rich.live import Live

    try:
        with Live(refresh_per_second=1) as live:
            while True:
                found = table.rows(workdir, sweep)
                live.update(_status_table(found, sweep, options))
                waiting = (table.WAITING, table.RUNNING, table.STARTED)
                if not any(row.status in waiting for row in found):
                    return 0
                time.sleep(_WATCH_SECONDS)
    except KeyboardInterrupt:
        return 130


def _print(renderable: Any) -> None:
    from rich.console import Console

    # Into a file or a pipe whole rows are wanted, however long.
    width = None if sys.stdout.isatty() else 200
    Console(width=width, soft_wrap=False).print(renderable)


def _write_csv(text: str, place: str) -> None:
    if place == "-":
        print(text, end="")
        return
    try:
        pathlib.Path(place).write_text(text)
    except OSError as error:
        raise SweepError(f"--csv={place} cannot be written: {error}") from None
    print(f"vit-jax: wrote {place}", file=sys.stderr)


def results(options: argparse.Namespace) -> int:
    """What came of the trials, the best first; its config, and pictures."""
    workdir, sweep = _opened(options)
    found = table.ranked(table.rows(workdir, sweep), sweep)
    top = table.best(found, sweep)
    written = write_best(workdir, sweep, top) if top else []
    if options.json:
        print(json.dumps(table.plain(found, result=True), indent=2))
    elif options.csv is not None:
        _write_csv(table.as_csv(found, result=True), options.csv)
    else:
        title = f"{options.workdir}  by {sweep.metric} ({sweep.mode})"
        _print(table.render(found, sweep, title=title, limit=options.limit))
        groups = table.over_seeds(found, sweep)
        if any(len(group.values) > 1 for group in groups):
            _print(table.render_groups(groups[: options.limit], sweep))
    if options.plots:
        written += _draw(workdir, found, sweep)
    for path in written:
        print(f"vit-jax: wrote {path}", file=sys.stderr)
    if top:
        print(
            f"vit-jax: best: {top.id}, {sweep.metric} {top.value:.6g}; "
            f"vit-jax train --config={written[0]}",
            file=sys.stderr,
        )
    return 0


def _draw(workdir: Any, found: list[Row], sweep: Sweep) -> list[Any]:
    from vit_jax.sweep import plots

    try:
        return plots.draw(workdir, found, sweep)
    except ValueError as error:
        raise SweepError(str(error)) from None


def write_best(workdir: Any, sweep: Sweep, top: Row) -> list[Any]:
    """The best trial as a config file that `vit-jax train` takes, and as JSON."""
    trial = trials.Trial(top.overrides, top.number, top.steps)
    with record.local_config(workdir) as path:
        config = configs.load(path, [flag[2:] for flag in trial.flags()])
    about = (
        f"Trial {top.id} of {os.fspath(workdir)}: {sweep.metric} {top.value:.6g}.\n\n"
        f"{sweep.config} with\n"
        + "\n".join(f"    {k} = {trials.text(v)}" for k, v in top.overrides.items())
        + "\n"
    )
    source, facts = workdir / "best.py", workdir / "best.json"
    storage.write_text(source, config_source.source(config, about))
    content = {
        "id": top.id,
        "metric": sweep.metric,
        "value": top.value,
        "overrides": top.overrides,
        "config": configs.to_json(config),
    }
    storage.write_text(facts, json.dumps(content, indent=1))
    return [source, facts]
