"""What a run keeps in its work directory beside checkpoints and metrics."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from vit_jax import storage
from vit_jax.config import ConfigError, diff, snapshot, unsafe_changes
from vit_jax.data.facts import DatasetFacts


def save_config(
    config: ConfigDict,
    workdir: epath.Path,
    facts: DatasetFacts,
    *,
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
      allow_change: takes over any change.
      say: prints a line.
      write: False only checks (processes other than the first).

    Raises:
      ConfigError: another run is in this directory; the differences are listed.
    """
    path = workdir / "config.json"
    new = snapshot(config) | {"data": facts.identity()}
    if path.exists():
        old = json.loads(path.read_text())
        changed = diff(old.get("data", new["data"]), new["data"])
        changed = [f"the data set itself: {line}" for line in changed]
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


class BadExampleLog:
    """Appends the damaged examples that were skipped to ``bad_examples.jsonl``."""

    def __init__(self, workdir: epath.Path, process: int):
        name = "bad_examples" + (f"-{process}" if process else "") + ".jsonl"
        self._path = workdir / name
        self.count = 0

    def write(self, examples: Iterable[Any]) -> int:
        """Writes those just met; returns how many."""
        rows = [
            json.dumps({"id": one.id, "where": one.where, "reason": one.reason})
            for one in examples
        ]
        self.count += len(rows)
        if rows:
            known = self._path.read_text() if self._path.exists() else ""
            fresh = [row for row in rows if row not in known.splitlines()]
            storage.write_text(self._path, known + "".join(f"{row}\n" for row in fresh))
        return len(rows)
