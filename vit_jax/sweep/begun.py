"""The runs of a sweep, for the verbs that look at runs."""

import os
import pathlib
from typing import Any

from vit_jax import storage
from vit_jax.sweep import trials
from vit_jax.sweep.ranges import SweepError
from vit_jax.sweep.record import SWEEP


def runs(place: str) -> dict[str, str]:
    """Work directories in a place, and what each is called.

    Of a sweep they are those of its trials that have begun, called by what they change.
    Any other place stands for itself, and has no name but its folder's.

    Raises:
      StorageError: a bucket cannot be reached.
      SweepError: no trial has begun.
    """
    storage.prepare(place)
    bucket = storage.is_bucket(place)
    workdir: Any = storage.absolute(place) if bucket else pathlib.Path(place)
    if not (workdir / SWEEP).exists():
        return {place: ""}
    found = {}
    for trial in trials.read_trials(workdir):
        folder = trials.folder(workdir, trial.id)
        if (folder / "config.json").exists():
            short = {key.rpartition(".")[2]: v for key, v in trial.overrides.items()}
            alike = len(short) < len(trial.overrides)
            found[os.fspath(folder)] = trials.describe(
                trial.overrides if alike else short
            )
    if not found:
        raise SweepError(
            f"no trial of the sweep in {place} has begun; vit-jax sweep status "
            f"--workdir={place} shows what it waits for"
        )
    return found
