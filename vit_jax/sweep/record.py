"""A sweep directory's own files: what is swept, recorded once and compared later.

sweep.json    the config it starts from, the metric and its direction
config.py     that config, complete: trials run with it, whatever becomes of the
              file that it was read from
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from vit_jax import config as configs
from vit_jax import storage
from vit_jax.config import ConfigError
from vit_jax.sweep import config_source
from vit_jax.sweep.ranges import SweepError
from vit_jax.sweep.trials import read_json

SWEEP, CONFIG = "sweep.json", "config.py"
MODES = ("max", "min")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep directory is about.

    Args:
      config: as it was named on the command line.
      base: the config that all trials share, plain.
      metric: what trials are compared by.
      mode: max or min.
    """

    config: str
    base: dict[str, Any]
    metric: str
    mode: str

    def better(self, left: float, right: float) -> bool:
        return left > right if self.mode == "max" else left < right


def choose_metric(
    config: ConfigDict, metric: str | None, mode: str | None
) -> tuple[str, str]:
    """The metric and its direction; by default what the config keeps the best by."""
    from vit_jax.checkpoint.policy import LOWER

    chosen = metric or config.checkpoint.best or "train/loss"
    known = ["train", *config.evals, *(f"{name}_ema" for name in config.evals)]
    group, slash, _ = chosen.partition("/")
    if not slash or group not in known:
        raise SweepError(
            f"--metric={chosen}: no such metric; a trial reports those of "
            f"{', '.join(f'{name}/...' for name in known[: len(config.evals) + 1])}, "
            "such as train/loss"
        )
    return chosen, mode or ("min" if chosen.endswith(LOWER) else "max")


def read_sweep(workdir: Any) -> Sweep:
    """What is swept in a directory.

    Raises:
      SweepError: there is no sweep.
    """
    saved = read_json(workdir / SWEEP)
    try:
        return Sweep(**{f.name: saved[f.name] for f in dataclasses.fields(Sweep)})
    except KeyError:
        if (workdir / SWEEP).exists():
            raise SweepError(
                f"{workdir / SWEEP} is not whole; remove it, and the vit-jax sweep "
                "that began it writes it again and keeps the trials"
            ) from None
        raise SweepError(
            f"{workdir} holds no sweep; vit-jax sweep --config=... --set ... "
            f"--workdir={workdir} begins one"
        ) from None


def check_sweep(workdir: Any, new: Sweep) -> None:
    """Whether a sweep may go on in a directory.

    Other trials may be added at any time, as a trial is what it changes. What all of
    them share must stay.

    Raises:
      ConfigError: another config, or something else, is there.
    """
    if not (workdir / SWEEP).exists():
        if (workdir / "config.json").exists():
            raise ConfigError(f"{workdir} holds a run; use another --workdir")
        return
    old = read_sweep(workdir)
    if unsafe := configs.unsafe_changes(old.base, new.base):
        raise ConfigError(
            [
                f"{workdir} holds a sweep of another config; use another --workdir, "
                "or undo (a key that differs between trials belongs in the sweep):",
                *unsafe,
            ]
        )


def write_sweep(workdir: Any, sweep: Sweep, config: ConfigDict) -> None:
    """Records a sweep; the seed is part of each trial, not of what they share."""
    workdir.mkdir(parents=True, exist_ok=True)
    about = f"What the trials of this sweep share; made from {sweep.config}."
    storage.write_text(workdir / CONFIG, config_source.source(config, about))
    storage.write_text(workdir / SWEEP, json.dumps(dataclasses.asdict(sweep), indent=1))


def shared(config: ConfigDict) -> dict[str, Any]:
    """What all trials have in common: a config without its seed."""
    return {key: v for key, v in configs.to_json(config).items() if key != "seed"}


@contextlib.contextmanager
def local_config(workdir: Any) -> Iterator[str]:
    """The path of the shared config, of a copy where the sweep is in a bucket."""
    if not storage.is_bucket(workdir):
        yield os.fspath(workdir / CONFIG)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, CONFIG)
        copy.write_text((workdir / CONFIG).read_text())
        yield str(copy)
