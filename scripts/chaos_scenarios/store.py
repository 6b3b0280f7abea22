"""Outcomes kept in a file, so that the full table may be filled over several runs."""

import importlib.metadata
import json
import pathlib
import platform
import subprocess

from .core import Outcome, Record
from .runs import ROOT

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """What a result depends on beside the commit."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def commit() -> str:
    """The checkout's commit, with a ``+`` if it has been changed since."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True
        )
        return done.stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + (
        "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    )


class Store:
    """Records by scenario, written to the file after each change.

    Args:
      path: None keeps them in memory.
      resume: adds to what the file holds; otherwise it is begun anew.
    """

    def __init__(self, path: pathlib.Path | None, *, resume: bool):
        self._path = path
        self._records: dict[str, list[Record]] = {}
        if path is not None and resume and path.exists():
            for name, rows in json.loads(path.read_text())["scenarios"].items():
                self._records[name] = [
                    Record(
                        seed=row["seed"],
                        trial=row["trial"],
                        commit=row["commit"],
                        outcome=Outcome(**row["outcome"]),
                    )
                    for row in rows
                ]

    def records(self, name: str) -> list[Record]:
        """The records of one scenario."""
        return list(self._records.get(name, ()))

    def names(self) -> list[str]:
        """Scenarios with records."""
        return list(self._records)

    def add(self, name: str, record: Record) -> None:
        """Adds a record; one of the same trial is replaced."""
        key = (record.seed, record.trial)
        kept = [old for old in self.records(name) if (old.seed, old.trial) != key]
        self._records[name] = [*kept, record]
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        rows = {
            name: [
                {
                    "seed": record.seed,
                    "trial": record.trial,
                    "commit": record.commit,
                    "outcome": vars(record.outcome),
                }
                for record in records
            ]
            for name, records in self._records.items()
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(self._path.name + ".tmp")
        content = {"versions": versions(), "scenarios": rows}
        temporary.write_text(json.dumps(content, indent=1))
        temporary.replace(self._path)
