"""Sweeps of trials that need no JAX."""

import pathlib
import sys

from vit_jax.sweep import local, record, trials
from vit_jax.sweep.places import Place
from vit_jax.sweep.record import Sweep
from vit_jax.sweep.trials import Trial

FAKE = pathlib.Path(__file__).with_name("fake_trial.py")
SWEEP = Sweep("configs/fake.py", {}, "val/accuracy", "max")


def make(count=6, **settings):
    """Trials whose best has rate 0.3 and the last seed."""
    rates = [0.1, 0.2, 0.3]
    return [
        Trial(
            {"optim.learning_rate": rates[n % 3], "seed": n // 3, **settings},
            n,
            int(settings.get("steps", 20)),
        )
        for n in range(count)
    ]


def command(trial, folder):
    words = [f"{key}={value}" for key, value in trial.overrides.items()]
    return [sys.executable, "-I", "-S", str(FAKE), str(folder), *words]


def prepare(workdir, made, sweep=SWEEP):
    """Writes a sweep's files as the driver does."""
    workdir.mkdir(parents=True, exist_ok=True)
    record.storage.write_text(
        workdir / record.SWEEP, record.json.dumps(record.dataclasses.asdict(sweep))
    )
    return trials.register(workdir, made)


def runner(workdir, made, *, places=2, retries=2, told=lambda *_: None, source=None):
    """The local runner over what is unfinished."""
    left = [trial for trial in made if not trials.result_of(workdir, trial)]
    return local.Runner(
        workdir,
        source or local.Listed(left),
        [Place() for _ in range(places)],
        retries,
        command,
        told,
    )


def results(workdir, made):
    """Results by id."""
    return {trial.id: trials.result_of(workdir, trial) for trial in made}


def processes(chosen):
    """Ids of the live processes whose words are chosen."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if chosen(words) and state != "Z":
            found.append(int(folder.name))
    return found
