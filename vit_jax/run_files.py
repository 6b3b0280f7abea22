"""What a run keeps in its work directory beside checkpoints and metrics."""

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from vit_jax import storage
from vit_jax.config import ConfigError, diff, snapshot, unsafe_changes
from vit_jax.data.facts import DatasetFacts
from vit_jax.data.rows import BadExample


def save_config(
    config: ConfigDict,
    workdir: epath.Path,
    facts: DatasetFacts,
    *,
    loaded: Mapping[str, Mapping[str, str]] | None = None,
    allow_change: bool = False,
    say: Callable[[str], object] = print,
    write: bool = True,
) -> None:
    """Writes ``config.json``, or checks that it asks for the same run as the one there.

    Changes that leave the run what it is are said and taken over. ``classes.txt``
    beside it has the names of the classes, a line each, for whoever uses the weights
    where the data set is not.

    Args:
      config: the resolved config.
      workdir: of the run.
      facts: of the data set; another one under the same name is another run.
      loaded: what is read at every start beside the state, such as a teacher: its
        ``digest``, which must stay, and where it is ``from``, which may change.
      allow_change: takes over any change.
      say: prints a line.
      write: False only checks (processes other than the first).

    Raises:
      ConfigError: another run is in this directory; the differences are listed.
    """
    path = workdir / "config.json"
    new = snapshot(config) | {"data": facts.identity()}
    if loaded:
        new["loaded"] = dict(loaded)
    if path.exists():
        old = read_config(path)
        changed = diff(old.get("data", new["data"]), new["data"])
        changed = [f"the data set itself: {line}" for line in changed]
        changed += _exchanged(old.get("loaded", {}), loaded or {})
        unsafe = unsafe_changes(old["config"], new["config"]) + changed
        if unsafe and not allow_change:
            raise ConfigError(
                [
                    f"{workdir} holds a run with another config; use another "
                    "--workdir, insist with --allow_config_change, or undo:",
                    *unsafe,
                ]
            )
        changes = diff(old["config"], new["config"]) + changed
        if not changes:
            return
        say("\n  ".join([f"changed in {path}:", *changes]))
    if write:
        workdir.mkdir(parents=True, exist_ok=True)
        if facts.class_names:
            names = "\n".join(facts.class_names)
            (workdir / "classes.txt").write_text(f"{names}\n")
        storage.write_text(path, json.dumps(new, indent=2))


def _exchanged(
    before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """A line for each thing that is read at every start and is another one now."""
    return [
        f"the {name} itself: {before[name]['digest']} ({before[name]['from']}) -> "
        f"{now[name]['digest']} ({now[name]['from']})"
        for name in now
        if name in before and before[name]["digest"] != now[name]["digest"]
    ]


def read_config(path: epath.Path) -> dict[str, Any]:
    """What ``config.json`` holds.

    Raises:
      ConfigError: it cannot be read.
    """
    try:
        saved = json.loads(path.read_text())
        if isinstance(saved, dict) and isinstance(saved.get("config"), dict):
            return saved
        reason = "it is no config of a run"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise ConfigError(
        [f"{path} cannot be read ({reason}); restore it, or use another --workdir"]
    )


def note_goodput(workdir: epath.Path, step: int, row: Mapping[str, float]) -> None:
    """Keeps where the time went up to a step, for an attempt that logs nothing more."""
    with contextlib.suppress(OSError):  # a full disk: the log has it, too
        text = json.dumps({"step": step, **row})
        storage.write_text(workdir / "goodput.json", text)


def noted_goodput(workdir: epath.Path) -> dict[str, Any]:
    """What `note_goodput` kept last, if anything."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((workdir / "goodput.json").read_text())
    return {}


class BadExampleLog:
    """The damaged examples of a run, in ``bad_examples.jsonl``, a line each.

    Args:
      workdir: of the run.
      process: each has a file of its own, with what it met itself.
      before: position in the run where it is resumed; later ones will be met again.
    """

    def __init__(self, workdir: epath.Path, process: int, *, before: int = 0):
        name = "bad_examples" + (f"-{process}" if process else "") + ".jsonl"
        self._path = workdir / name
        rows = []
        with contextlib.suppress(FileNotFoundError):
            rows = [json.loads(line) for line in self._path.read_text().splitlines()]
        self._rows = [
            row for row in rows if "evaluation" in row or row["position"] < before
        ]

    @property
    def training(self) -> list[BadExample]:
        """Those that others took the place of."""
        return [BadExample(**row) for row in self._rows if "evaluation" not in row]

    def write(self, examples: Iterable[BadExample], *, evaluation: str = "") -> int:
        """Adds those just met; returns how many are new.

        Args:
          examples: may be listed already.
          evaluation: that left them out; training had others in their place.
        """
        about = {"evaluation": evaluation} if evaluation else {}
        rows = [about | one._asdict() for one in examples]
        new = [row for row in rows if row not in self._rows]
        if new:
            self._rows += new
            text = "".join(f"{json.dumps(row)}\n" for row in self._rows)
            with contextlib.suppress(OSError):  # a full disk; tried again with the next
                storage.write_text(self._path, text)
        return len(new)
