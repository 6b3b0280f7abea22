"""One trial of a sweep, as a scheduler runs it."""

import argparse
import sys

from vit_jax import storage
from vit_jax.stopping import exit_code
from vit_jax.sweep import local, record, run_here, trials
from vit_jax.sweep.places import Place
from vit_jax.sweep.ranges import SweepError
from vit_jax.sweep.rendered import numbers_of
from vit_jax.sweep.trials import Trial


def run_trial(options: argparse.Namespace) -> int:
    """Runs the trial of an index; 0 when it is over, 1 when it failed."""
    if not options.workdir or options.index is None:
        raise SweepError("run-trial needs --workdir=DIR and --index=N")
    storage.prepare(options.workdir)
    workdir = storage.absolute(options.workdir)
    sweep = record.read_sweep(workdir)
    trial = chosen(trials.read_trials(workdir), options.index, options.of)
    if result := trials.result_of(workdir, trial):
        _say(f"trial {trial.id} is over already: {result['status']}")
        return int(result["status"] == trials.FAILED)
    progress = run_here.Progress(sweep, 1, 0)
    with record.local_config(workdir) as config:
        runner = local.Runner(
            workdir,
            local.Listed([trial]),
            [Place()],
            options.retries,
            run_here.train_command(config),
            progress.told,
        )
        number = runner.run()
    if number:
        _say(f"stopped; trial {trial.id} goes on where it was")
        return exit_code(number)
    if runner.elsewhere:
        _say(f"trial {trial.id} is being run by another process")
        return 1
    result = trials.result_of(workdir, trial)
    return int(result["status"] == trials.FAILED)


def chosen(known: list[Trial], index: int, of: str) -> Trial:
    """The trial of an index among some numbers; without those, of that number."""
    numbers = numbers_of(of) if of else [trial.number for trial in known]
    if not 0 <= index < len(numbers):
        raise SweepError(f"--index={index}: there are {len(numbers)} trials, from 0")
    by_number = {trial.number: trial for trial in known}
    if numbers[index] not in by_number:
        raise SweepError(f"the sweep has no trial of number {numbers[index]}")
    return by_number[numbers[index]]


def _say(line: str) -> None:
    print(f"vit-jax: {line}", file=sys.stderr, flush=True)
