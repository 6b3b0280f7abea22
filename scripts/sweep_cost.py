"""What a sweep costs beside its trials, by the clock.

    python scripts/sweep_cost.py

First a sweep of 1,000 trials is expanded, checked and written (for Slurm, which starts
nothing), and its status read. Then processes that only sleep run by themselves and as
trials of a sweep, in turn: the difference is what the local runner adds to each trial,
whatever the trial does. Needs the digits (`vit-jax prepare digits`).
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from vit_jax.sweep import local, trials
from vit_jax.sweep.places import Place
from vit_jax.sweep.trials import Trial

VIT_JAX = str(pathlib.Path(sys.executable).with_name("vit-jax"))


def timed(*words: str) -> float:
    """Seconds of a command, which must succeed."""
    began = time.perf_counter()
    done = subprocess.run([VIT_JAX, *words], capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"vit-jax {' '.join(words)} failed:\n{done.stderr}{done.stdout}")
    return seconds


def thousand(place: pathlib.Path) -> None:
    """Prints the seconds of a sweep of 1,000 trials."""
    workdir = f"--workdir={place / 'thousand'}"
    rates = ",".join(f"{n}e-5" for n in range(1, 101))
    values = ["config.optim.learning_rate=" + rates, "config.seed=0,1,2,3,4,5,6,7,8,9"]
    made = timed(
        "sweep",
        workdir,
        "--config=configs/digits.py",
        "--backend=slurm",
        "--set",
        *values,
    )
    shown = timed("sweep", "status", workdir)
    print(
        f"1,000 trials: {made:.1f} s to expand, check and write; {shown:.1f} s status"
    )


def added(place: pathlib.Path, count: int, repeats: int) -> None:
    """Prints the seconds that the local runner adds to each trial."""
    words = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(0.5)"]
    alone, swept = [], []
    for repeat in range(repeats):
        began = time.perf_counter()
        for _ in range(count):
            subprocess.run(words, check=True)
        alone.append((time.perf_counter() - began) / count)
        workdir = place / f"sweep-{repeat}"
        workdir.mkdir()
        made = trials.register(
            workdir, [Trial({"seed": n}, n, 1) for n in range(count)]
        )
        began = time.perf_counter()
        local.Runner(
            workdir,
            local.Listed(made),
            [Place()],
            retries=0,
            command=lambda trial, folder: words,
            told=lambda trial, result: None,
        ).run()
        swept.append((time.perf_counter() - began) / count)
    extra = [mine - other for mine, other in zip(swept, alone, strict=True)]
    print(
        f"a process alone {statistics.median(alone):.2f} s; the runner adds "
        f"{statistics.median(extra):.2f} s a trial ({min(extra):.2f} to "
        f"{max(extra):.2f}), {repeats} sweeps of {count}, one at a time"
    )


def main() -> None:
    """Measures both."""
    parser = argparse.ArgumentParser(description="What a sweep costs beside its trials")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        thousand(pathlib.Path(place))
        added(pathlib.Path(place), options.trials, options.repeats)


if __name__ == "__main__":
    main()
