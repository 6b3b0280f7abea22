"""What a sweep costs beside its trials, by the clock.

    python scripts/sweep_cost.py

First a sweep of 1,000 trials is expanded, checked and written (for Slurm, which starts
nothing), and its status read. Then short trials run, in turn, by themselves and in a
sweep of one at a time: a trial's share of the sweep, less what the same command without
trials to run takes, less the median of the trials by themselves, is what the local
runner adds to each. Needs the digits (`vit-jax prepare digits`).
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

VIT_JAX = str(pathlib.Path(sys.executable).with_name("vit-jax"))
SHORT = (
    "--config=configs/digits.py",
    "--config.train.duration.steps=4",
    "--config.schedule.warmup.epochs=0",
    "--config.evals.val.every.steps=4",
)


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
    made = timed("sweep", workdir, SHORT[0], "--backend=slurm", "--set", *values)
    shown = timed("sweep", "status", workdir)
    print(
        f"1,000 trials: {made:.1f} s to expand, check and write; {shown:.1f} s status"
    )


def added(place: pathlib.Path, count: int, repeats: int) -> None:
    """Prints the seconds that the local runner adds to each trial."""
    alone, swept = [], []
    seeds = "config.seed=" + ",".join(map(str, range(count)))
    timed("train", f"--workdir={place / 'warm'}", *SHORT)  # compiled programs are kept
    for repeat in range(repeats):
        for seed in range(count):
            folder = place / f"alone-{repeat}-{seed}"
            run = ("train", f"--workdir={folder}", *SHORT, f"--config.seed={seed}")
            alone.append(timed(*run))
        sweep = ("sweep", f"--workdir={place / f'sweep-{repeat}'}", *SHORT)
        first = timed(*sweep, "--set", seeds)
        again = timed(*sweep, "--set", seeds)  # all are over: the driver's own time
        swept.append((first - again) / count)
    trial = statistics.median(alone)
    extra = [seconds - trial for seconds in swept]
    print(
        f"a trial alone: {trial:.2f} s ({min(alone):.2f} to {max(alone):.2f}); "
        f"the runner adds {statistics.median(extra):.2f} s a trial "
        f"({min(extra):.2f} to {max(extra):.2f}), {repeats} sweeps of {count}"
    )


def main() -> None:
    """Measures both."""
    parser = argparse.ArgumentParser(description="What a sweep costs beside its trials")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        thousand(pathlib.Path(place))
        added(pathlib.Path(place), options.trials, options.repeats)


if __name__ == "__main__":
    main()
