"""`vit-jax sweep` on the command line: mistakes, dry runs, and real sweeps."""

import json
import signal
import subprocess

import pytest

from tests import training
from vit_jax import cli, config
from vit_jax.jsonl import read_rows

CHANGES = ("data.name=arrays:digits", "train.duration.steps=6")
BASE = [
    f"--config={training.DIGITS}",
    *(f"--config.{change}" for change in (*training.TINY, *CHANGES)),
]


def call(capsys, *arguments):
    try:
        code = cli.main(["sweep", *map(str, arguments)])
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--set", "optim.learning_rat=1"], "did you mean 'optim.learning_rate'?"),
        (["--set", "seed=-1"], "trial 0 (seed=-1): seed"),
        (["--set", "seed"], "is not KEY=VALUE"),
        (["--set", "seed=1", "--sweep=x.json"], "give one of them"),
        (["--sweep=x.json"], "there is no such file"),
        (["--set", "seed=1", "--metric=accuracy"], "no such metric"),
        (["--set", "seed=1", "--cores=0:99"], "no core 99"),
        (["--set", "seed=1", "--parallel=0"], "--parallel=0"),
        (["--set", "seed=1", "--search=tpe"], "--search=tpe needs ranges"),
        (["--set", "seed=integers(0,9)", "--samples=0"], "at least one sample"),
        (["--set", "seed=integers(-9,9)", "--samples=2", "--search=tpe"], "(seed=-9)"),
        (["--set", "seed=1", "--backend=gke"], "use --workdir=gs://"),
        (["--set", "seed=1", "--retries=-1"], "--retries=-1 must not be negative"),
        (["--samples=3"], "--samples=3 draws from the ranges of --set"),
        (["--combine=zip"], "--combine=zip is about the keys of --set"),
        (["--set", "seed=1", "--prune=median"], "is of adaptive search: --search"),
        (["--set", "seed=1", "--submit"], "--submit is of --backend=slurm or gke"),
        (["--set", "seed=1", "--sbatch=--time=1"], "local has no such option"),
        (["--set", "seed=1", "--backend=slurm", "--sbatch=x"], "is no option of sb"),
        (
            ["--set", "seed=1", "--backend=slurm", "--cores=0"],
            "--cores is of --backend",
        ),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_started(capsys, tmp_path, words, text):
    workdir = tmp_path / "s"
    code, _, err = call(capsys, *BASE, f"--workdir={workdir}", *words)
    assert code == 2 and text in err
    # A line about the mistake; one before it may count the trials.
    assert len([line for line in err.splitlines() if "trials" not in line]) <= 1
    assert not workdir.exists()


def test_a_sweep_without_trials_writes_nothing(capsys, tmp_path):
    (tmp_path / "none.json").write_text("[]")
    words = [f"--workdir={tmp_path}/s", f"--sweep={tmp_path}/none.json"]
    code, _, err = call(capsys, *BASE, *words)
    assert code == 2 and "the sweep has no trials" in err
    assert not (tmp_path / "s").exists()


def test_what_is_left_out(capsys, tmp_path):
    assert "--config=FILE and --workdir" in call(capsys)[2]
    assert "needs --workdir" in call(capsys, "status")[2]
    code, _, err = call(capsys, "results", f"--workdir={tmp_path}")
    assert code == 2 and "holds no sweep" in err
    assert call(capsys, "stat")[0] == 2


def test_a_dry_run_lists_the_trials_and_writes_nothing(capsys, tmp_path):
    workdir = tmp_path / "s"
    words = ["--set", "optim.learning_rate=1e-3,0.001,3e-3", "config.seed=0,1"]
    code, out, err = call(capsys, *BASE, f"--workdir={workdir}", *words, "--dry_run")
    assert code == 0 and not workdir.exists()
    assert len(out.splitlines()) == 4
    assert "optim.learning_rate=0.003 seed=1" in out
    assert "4 trials; 2 more are the same as others and run once" in err


def test_the_sweep_of_a_config_file(capsys, tmp_path):
    code, out, _ = call(capsys, *BASE, f"--workdir={tmp_path}", "--dry_run")
    assert code == 0 and len(out.splitlines()) == 12


def test_slurm_is_handed_the_trials(capsys, tmp_path):
    workdir = tmp_path / "s"
    words = [*BASE, f"--workdir={workdir}", "--backend=slurm", "--set", "seed=0,1"]
    code, out, _ = call(capsys, *words)
    assert code == 0 and "(2 trials)" in out
    assert "--array=0-1" in (workdir / "slurm.sh").read_text()
    code, out, _ = call(capsys, "status", f"--workdir={workdir}", "--json")
    assert [row["status"] for row in json.loads(out)] == ["waiting"] * 2
    # More trials may be added; another config may not.
    assert call(capsys, *words[:-1], "seed=1,2")[0] == 0
    code, out, _ = call(capsys, "status", f"--workdir={workdir}", "--json")
    assert [row["overrides"]["seed"] for row in json.loads(out)] == [0, 1, 2]
    code, _, err = call(capsys, *words, "--config.optim.b2=0.5")
    assert code == 2 and "optim.b2: 0.999 -> 0.5" in err


def test_nothing_of_the_accelerator_is_touched(tmp_path):
    """The driver leaves devices to its trials."""
    program = (
        "import sys; from vit_jax import cli; cli.main(sys.argv[1:]);"
        "from jax._src import xla_bridge; assert not xla_bridge._backends"
    )
    words = ["sweep", *BASE, f"--workdir={tmp_path}", "--dry_run", "--set", "seed=0"]
    subprocess.run(
        [training.sys.executable, "-c", program, *words],
        env=training.environment(),
        check=True,
        capture_output=True,
    )


def run(*words):
    return subprocess.run(
        training.command("sweep", *words),
        env=training.environment(),
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_real_sweep_with_a_trial_that_cannot_run(tmp_path):
    """The same command finishes it, the best config trains to the same result."""
    workdir = tmp_path / "s"
    words = [*BASE, f"--workdir={workdir}", "--parallel=2", "--retries=1"]
    words += ["--set", "optim.learning_rate=1e-3,4e-3"]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    again = run(*words)
    assert again.returncode == 0 and "2 of 2 are over already" in again.stderr
    found = json.loads(run("results", f"--workdir={workdir}", "--json").stdout)
    assert [row["status"] for row in found] == ["done", "done"]
    assert found[0]["value"] >= found[1]["value"]
    best = config.load(f"{workdir}/best.py")
    assert best.optim.learning_rate == found[0]["overrides"]["optim.learning_rate"]
    arguments = ["train", f"--config={workdir}/best.py", f"--workdir={tmp_path}/b"]
    subprocess.run(
        training.command(*arguments),
        env=training.environment(),
        check=True,
        capture_output=True,
    )
    rows = read_rows(tmp_path / "b")
    assert rows[-1]["val/accuracy"] == found[0]["value"]


@pytest.mark.slow
def test_a_real_search_prunes_and_goes_on_after_a_signal(tmp_path):
    workdir = tmp_path / "s"
    words = [*BASE, f"--workdir={workdir}", "--search=tpe", "--samples=3"]
    words += ["--set", "optim.learning_rate=loguniform(1e-4,1e-2)", "seed=0"]
    driver = subprocess.Popen(
        training.command("sweep", *words),
        env=training.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    with driver:
        for line in driver.stderr:
            if " done " in line:
                break
        driver.send_signal(signal.SIGTERM)
        rest = driver.stderr.read()
    assert driver.returncode == 143 and "the same command goes on" in rest, rest
    done = run(*words)
    assert done.returncode == 0, done.stderr
    found = json.loads(run("results", f"--workdir={workdir}", "--json").stdout)
    assert [row["status"] for row in found] == ["done"] * 3
    assert len({row["id"] for row in found}) == 3


@pytest.mark.slow
def test_a_thousand_trials_are_checked_and_shown(tmp_path):
    """How soon: scripts/sweep_cost.py."""
    words = ["--samples=1000", "optim.learning_rate=loguniform(1e-5,1e-1)"]
    words = [words[0], "--set", words[1], "optim.weight_decay=uniform(0,1)", "seed=0"]
    workdir = f"--workdir={tmp_path}/s"
    assert run(*BASE, workdir, "--backend=slurm", *words).returncode == 0
    shown = run("status", workdir, "--json")
    assert len(json.loads(shown.stdout)) == 1000
