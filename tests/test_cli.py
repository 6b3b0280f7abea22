"""The command: one message for a mistake, its exit code, and nothing written."""

import os
import subprocess
import sys

import pytest

from tests import training
from vit_jax import cli, metrics
from vit_jax.outcome import Interrupted


def call(capsys, *arguments):
    """Exit code and both outputs of the command in this process."""
    try:
        code = cli.main([str(word) for word in arguments])
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def refused(capsys, tmp_path, *changes, extra=()):
    """The message of a train that must end before anything is written."""
    workdir = tmp_path / "run"
    arguments = training.train_arguments(workdir, *changes)
    code, out, err = call(capsys, *arguments, *extra)
    assert code == 2
    assert err.count("vit-jax:") == 1
    assert not workdir.exists()
    assert not out
    return err


def test_an_unknown_key_and_its_neighbour(capsys, tmp_path):
    err = refused(capsys, tmp_path, "optim.learning_rat=0.1", "model.dropot=0.1")
    assert (
        "unknown key 'optim.learning_rat'; did you mean 'optim.learning_rate'?" in err
    )
    assert "unknown key 'model.dropot'; did you mean 'model.dropout'?" in err


def test_values_of_the_wrong_type(capsys, tmp_path):
    err = refused(capsys, tmp_path, "train.batch_size=many", "model.depth=two")
    assert "train.batch_size must be of type int, got 'many'" in err
    assert "model.depth" in err


def test_many_mistakes_make_one_message(capsys, tmp_path):
    err = refused(
        capsys,
        tmp_path,
        "train.batch_size=12",
        "model.variant=mu/3",
        "schedule.warmup.steps=90",
        "model.num_classes=11",
        "data.split=training",
        "evals.val.split=exam",
    )
    assert "train.batch_size 12 is not divisible" in err
    assert "patch size (3, 3) does not divide image size (8, 8)" in err
    assert "schedule.warmup (90 steps)" in err and "the run of 8 steps" in err
    assert "model.num_classes is 11, but data set 'digits' has 10" in err
    assert "data.split: " in err and "no split 'training'" in err
    assert "evals.val.split: " in err and "no split 'exam'" in err
    assert err.count("\n  - ") == 6


def test_an_unknown_data_set_is_told_with_the_rest(capsys, tmp_path):
    err = refused(capsys, tmp_path, "data.name=digit", "train.batch_size=12")
    assert "unknown data set 'digit'; did you mean" in err and "digits" in err
    assert "train.batch_size 12 is not divisible" in err
    assert err.count("\n  - ") == 2


def test_an_unknown_objective(capsys, tmp_path):
    err = refused(capsys, tmp_path, "objective.name=superwised")
    assert "objective.name 'superwised' is unknown" in err
    assert "did you mean 'supervised'?" in err


def test_a_data_set_that_is_not_prepared(capsys, tmp_path):
    err = refused(capsys, tmp_path, f"data.dir={tmp_path / 'data'}")
    line = next(line for line in err.splitlines() if "vit-jax prepare" in line)
    assert f"vit-jax prepare digits --data_dir={tmp_path / 'data'}" in line


def test_a_config_that_is_not_there(capsys, tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    code, _, err = call(capsys, "train", f"--config={tmp_path}/no.py", workdir)
    assert code == 2 and "no.py" in err
    assert not (tmp_path / "run").exists()


def test_unknown_arguments(capsys, tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    for arguments, word in [
        (("train", "--config=configs/digits.py", "--work=x"), "--work=x"),
        (("train", "--config=configs/digits.py", workdir, "extra"), "extra"),
        (("evaluate", workdir, "--config.seed=1"), "--config.seed=1"),
    ]:
        code, _, err = call(capsys, *arguments)
        assert code == 2
        assert f"unknown argument '{word}'; see vit-jax {arguments[0]} --help" in err
    code, _, err = call(capsys, "trian")
    assert code == 2 and "trian" in err
    assert call(capsys, "train")[0] == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_shows_examples(verb, capsys):
    code, out, _ = call(capsys, verb, "--help")
    assert code == 0
    examples = out.partition("examples:")[2]
    assert examples.count(f"vit-jax {verb}") >= 2
    assert out.index("examples:") > out.index("options:")


def test_the_version(capsys):
    code, out, _ = call(capsys, "--version")
    assert code == 0 and out.strip() == cli.__version__


def test_evaluate_prints_the_accuracy_of_the_log(capsys):
    workdir, result, _ = training.finished()
    arguments = training.train_arguments(workdir, training.AVERAGED)
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    trained = next(
        line.split()[1]
        for line in out.splitlines()
        if "val/accuracy" in line and "%" in line
    )
    assert trained == f"{100 * result.evaluations['val/accuracy']:.2f}"
    assert str(workdir / "checkpoints") in out and str(workdir / "metrics.jsonl") in out
    rows = metrics.read_rows(workdir / "metrics.jsonl")
    logged = {row["step"]: row["val/accuracy"] for row in rows if "val/accuracy" in row}
    best = max(logged, key=lambda step: (logged[step], step))
    for word, step in (("latest", 8), ("best", best), ("4", 4)):
        code, out, _ = call(
            capsys, "evaluate", f"--workdir={workdir}", f"--step={word}"
        )
        assert code == 0 and out.startswith(f"step {step}\n")
        value = next(
            line.split()[1] for line in out.splitlines() if "val/accuracy" in line
        )
        assert value == f"{logged[step]:.6g}"
    code, _, err = call(capsys, "evaluate", f"--workdir={workdir}", "--step=3")
    assert code == 2 and "no checkpoint '3'; there: 4, 8" in err


def test_evaluate_where_nothing_is(capsys, tmp_path):
    code, _, err = call(capsys, "evaluate", f"--workdir={tmp_path / 'absent'}")
    assert code == 2 and err.count("vit-jax:") == 1
    assert "no config.json; name a run's work directory" in err
    assert list(tmp_path.iterdir()) == []


BLOCKED = """\
import sys
from vit_jax.cli import main
code = main(sys.argv[1:])
imported = [name for name in sys.modules if name.startswith("tensorflow.")]
assert not imported, imported
sys.exit(code)
"""


def test_imagenet_without_data_says_how_to_get_it_soon(tmp_path):
    """Soon, as neither a compiler nor TensorFlow is waited for."""
    arguments = ["train", "--config=configs/vit_s16_i1k.py", "--workdir=run"]
    environment = training.environment() | {"TFDS_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert any(
        "imagenet2012" in line and "vit-jax prepare imagenet2012" in line
        for line in done.stderr.splitlines()
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("platform", "reason"), [("cuda", "can;"), ("abacus", "list")])
def test_devices_that_are_not_there(tmp_path, platform, reason):
    command = [sys.executable, "-m", "vit_jax.cli", "train"]
    done = subprocess.run(
        [
            *command,
            "--config=configs/digits.py",
            "--config.data.name=arrays:digits",
            f"--workdir={tmp_path / 'run'}",
        ],
        env=os.environ | {"JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"JAX_PLATFORMS='{platform}'" in line
    assert reason in line
    assert "set it to cpu" in line
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_program_is_not_hidden(monkeypatch):
    def broken(options, overrides):
        raise ValueError("a bug")

    monkeypatch.setitem(cli.VERBS, "evaluate", broken)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["evaluate", "--workdir=x"])


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_an_interrupt(monkeypatch, capsys, tmp_path, number, code):
    def interrupted(*args, **kwargs):
        raise Interrupted(number, 1200)

    monkeypatch.setattr("vit_jax.train.train", interrupted)
    ended, _, err = call(capsys, *training.train_arguments(tmp_path / "run"))
    assert ended == code
    assert "step 1,200 is saved" in err and "the same command resumes" in err


def test_a_reader_that_has_enough_is_no_error():
    words = ("plan", f"--config={training.DIGITS}", "--topology=v5e-4", "--json")
    process = subprocess.Popen(
        training.command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=training.environment(),
        text=True,
    )
    process.stdout.close()  # as `head` does
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 141
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors
