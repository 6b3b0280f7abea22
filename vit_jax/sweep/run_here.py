"""Runs the trials of a sweep on this machine, and says how they end."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from vit_jax.stopping import exit_code
from vit_jax.sweep import local, places, record, trials
from vit_jax.sweep.record import Sweep
from vit_jax.sweep.trials import Trial


def run(
    workdir: Any,
    source: local.Source,
    here: list[places.Place],
    options: argparse.Namespace,
    progress: "Progress",
) -> int:
    """Runs trials here; the exit code: 0 all are done, 1 some failed."""
    with record.local_config(workdir) as config:
        command = train_command(config)
        runner = local.Runner(
            workdir, source, here, options.retries, command, progress.told
        )
        number = runner.run()
    if number:
        _say(f"stopped; the same command goes on where it was ({workdir})")
        return exit_code(number)
    for trial in runner.elsewhere:
        _say(f"trial {trial.id} is being run by another process")
    failed = [
        (trial.id, result)
        for trial in trials.read_trials(workdir)
        if (result := trials.result_of(workdir, trial)).get("status") == trials.FAILED
    ]
    for trial_id, result in failed:
        log = trials.folder(workdir, trial_id) / trials.LOG
        _say(f"trial {trial_id} failed: {result['said']} ({log})")
    if failed:
        _say(f"{len(failed)} trials failed; --retry_failed tries them again")
    progress.end()
    print(f"\nvit-jax sweep results --workdir={workdir}", flush=True)
    return 1 if failed or runner.elsewhere else 0


def train_command(config: str) -> Callable[[Trial, Any], list[str]]:
    """The command of a trial: training alone, whatever cluster is around it."""

    def command(trial: Trial, folder: Any) -> list[str]:
        return [
            *(sys.executable, "-m", "vit_jax.cli", "train"),
            f"--config={config}",
            f"--workdir={os.fspath(folder)}",
            "--num_processes=1",
            *trial.flags(),
        ]

    return command


class Progress:
    """A line for each trial that ends."""

    def __init__(self, sweep: Sweep, total: int, over: int):
        self._sweep, self._total, self._over = sweep, total, over
        self._best: float | None = None
        if over:
            _say(f"{over} of {total} are over already")

    def told(self, trial: Trial, result: dict[str, Any]) -> None:
        self._over += 1
        value = trials.number(result["metrics"], self._sweep.metric)
        shown = "no value" if value is None else f"{value:.6g}"
        mark = ""
        done = result["status"] == trials.DONE
        if done and value is not None and self._is_best(value):
            self._best, mark = value, "  best of this call"
        _say(
            f"{self._over}/{self._total}  {trial.id}  {result['status']}  "
            f"{self._sweep.metric} {shown}  {result['seconds']:.1f} s  "
            f"{trials.describe(trial.overrides)}{mark}"
        )

    def _is_best(self, value: float) -> bool:
        return self._best is None or self._sweep.better(value, self._best)

    def end(self) -> None:
        _say(f"{self._over} of {self._total} trials are over")


def _say(line: str) -> None:
    print(f"vit-jax: {line}", file=sys.stderr, flush=True)
