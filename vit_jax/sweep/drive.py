"""Sets a sweep up and runs it on this machine, or hands it to a scheduler."""

import argparse
import sys
from typing import Any

from vit_jax import config as configs
from vit_jax import storage
from vit_jax.lock import WorkdirLock
from vit_jax.sweep import hand_over, local, places, read, record, run_here, trials
from vit_jax.sweep import options as sweep_options
from vit_jax.sweep.adaptive import Adaptive, import_optuna
from vit_jax.sweep.expand import Drawn, Overrides
from vit_jax.sweep.ranges import SweepError
from vit_jax.sweep.record import Sweep
from vit_jax.sweep.validate import Checker


def given(options: argparse.Namespace) -> list[Overrides]:
    """The trials of a call, not checked yet."""
    if options.sweep and options.set:
        raise SweepError("--sweep and --set: give one of them")
    if options.set:
        return read.from_flags(
            options.set,
            combine=options.combine,
            samples=options.samples,
            seed=options.sweep_seed,
        )
    if options.sweep:
        return read.from_file(options.sweep)
    return read.from_config(options.config)


def drive(options: argparse.Namespace, overrides: list[str]) -> int:
    """Everything that `vit-jax sweep` does; returns its exit code."""
    if not options.config or not options.workdir:
        raise SweepError("a sweep needs --config=FILE and --workdir=DIR")
    sweep_options.check(options)
    config = configs.load(options.config, overrides)
    wanted = given(options)
    if not wanted:
        raise SweepError("the sweep has no trials; give it a key with values")
    devices = options.devices and places.parse_sets(options.devices, "--devices")
    here = _places(options)
    checker = Checker(config, len(devices[0]) if devices else None)
    sweep = Sweep(
        options.config,
        record.shared(config),
        *record.choose_metric(config, options.metric, options.mode),
    )
    chosen, space = [], None
    if options.search:
        space = drawn(wanted, options)
        check_ends(checker, space)
        _say(f"{len(space)} trials will be proposed; the ends of all ranges can run")
    else:
        chosen = checker.trials(wanted)
        _say(f"{len(chosen)} trials{_repeated(len(wanted) - len(chosen))}")
    if options.dry_run:
        for trial in chosen:
            print(f"{trial.id}  {trials.describe(trial.overrides)}")
        return 0
    storage.prepare(options.workdir)
    workdir = storage.absolute(options.workdir)
    if options.backend != "local":
        hand_over.check(workdir, chosen, options)
    record.check_sweep(workdir, sweep)
    with WorkdirLock(workdir, say=_say):
        record.check_sweep(workdir, sweep)
        record.write_sweep(workdir, sweep, config)
        chosen = trials.register(workdir, chosen)
        if options.retry_failed:
            trials.forget_failures(workdir)
        if options.backend != "local":
            return hand_over.hand_over(workdir, chosen, options)
        if space is not None:
            return _search(workdir, space, checker, sweep, here, options)
        unfinished = [t for t in chosen if not trials.result_of(workdir, t)]
        progress = run_here.Progress(sweep, len(chosen), len(chosen) - len(unfinished))
        return run_here.run(workdir, local.Listed(unfinished), here, options, progress)


def _places(options: argparse.Namespace) -> list[places.Place]:
    if options.backend != "local":
        return []
    return places.places(options.parallel, options.cores, options.devices)


def _repeated(count: int) -> str:
    return f"; {count} more are the same as others and run once" if count else ""


def drawn(wanted: list[Overrides], options: argparse.Namespace) -> Drawn:
    """What adaptive search proposes from."""
    if not isinstance(wanted, Drawn):
        raise SweepError(
            f"--search={options.search} needs ranges: --set with --samples=N, or "
            "random in the sweep"
        )
    if options.backend != "local":
        raise SweepError(
            f"--search={options.search} runs trials here, not with "
            f"--backend={options.backend}: it proposes by what others have reported"
        )
    import_optuna()
    return wanted


def check_ends(checker: Checker, space: Drawn) -> None:
    """The ends of every range, one key at a time."""
    middle = space[0]
    checker.trials(
        middle | {key: value}
        for key, values in space.space.items()
        for value in values.ends()
    )


def _search(
    workdir: Any,
    space: Drawn,
    checker: Checker,
    sweep: Sweep,
    here: list[places.Place],
    options: argparse.Namespace,
) -> int:
    known = trials.read_trials(workdir)
    source = Adaptive(
        space.space,
        budget=len(space),
        workdir=workdir,
        checker=checker,
        sweep=sweep,
        search=options.search,
        prune=options.prune,
        prune_after=options.prune_after,
        seed=options.sweep_seed,
    )
    over = sum(bool(trials.result_of(workdir, trial)) for trial in known)
    progress = run_here.Progress(sweep, len(space), over)
    return run_here.run(workdir, source, here, options, progress)


def _say(line: str) -> None:
    print(f"vit-jax: {line}", file=sys.stderr, flush=True)
