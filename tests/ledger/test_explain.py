"""The `recipes` verb: a list in a second, one in full, and what it says to mistakes."""

import json
import shlex
import subprocess
import sys

import pytest

from tests import training
from vit_jax import cli
from vit_jax import config as configs
from vit_jax.ledger import listing, planned, settings
from vit_jax.ledger.commands import commands
from vit_jax.ledger.entries import ENTRIES
from vit_jax.ledger.measured import MEASURED
from vit_jax.ledger.records import Entry, Measured, Published


def call(capsys, *words):
    code = cli.main(["recipes", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_list_has_every_recipe(capsys):
    code, out, _ = call(capsys)
    assert code == 0
    assert max(len(line) for line in out.splitlines() if "]" not in line[:6]) < 150
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert {entry.spec for entry in ENTRIES} <= set(lines)
    assert "98.61 ± 0.48 (3 seeds) [a]" in lines["digits"]
    assert "201.0 K" in lines["digits"]
    assert lines["vit_g_i21k:G/14"].endswith("*")  # it is split to fit
    assert "*" not in lines["vit_s16_i1k:90"]
    assert "not run by us" in lines["mae_i1k:B/16"]
    assert "111.7 M" in lines["mae_i1k:B/16"]
    assert "(83.4) [" in lines["deit_i1k:B/16,distilled"]
    assert " 81.8 [" in lines["deit_i1k:B/16"]
    assert "h v5e:16x16" in out and "h v5p:4x4x4" in out and "h h100:1x8" in out
    assert "facebookresearch/mae, FINETUNE.md" in out
    assert "2 cores of a shared x86-64 server" in out
    assert "-  " not in lines["simmim_i1k:B/16"]  # every column is filled


def test_the_list_as_json(capsys):
    code, out, _ = call(capsys, "--json")
    rows = {row["recipe"]: row for row in json.loads(out)}
    assert code == 0 and set(rows) == {entry.spec for entry in ENTRIES}
    (digits,) = rows["digits"]["measured"]
    assert digits["mean"] == pytest.approx((98.89 + 98.89 + 98.06) / 3)
    assert rows["mae_i1k:L/16"]["published"][0]["comparable"]
    assert not rows["distill_i1k:S/16"]["published"][0]["comparable"]
    costs = rows["vit_s16_i1k:90"]["planned"]["costs"]
    assert [cost["topology"] for cost in costs] == [
        "v5e:16x16",
        "v5p:4x4x4",
        "h100:1x8",
    ]


def test_a_record_is_a_line_more(capsys):
    more = Measured("aim_digits", "completions", {0: 50.0}, "a CPU", "vit-jax x", "d")
    text = listing.render(ENTRIES, (*MEASURED, more), planned.stored())
    letter = "abcdefghijklmnop"[len(MEASURED)]
    assert f"50.00 (1 seed) [{letter}]" in text
    assert f"[{letter}] aim_digits: completions: 50.00 (1 seed)" in text


def test_what_is_new_is_listed_before_it_is_planned():
    entry = Entry("new:X/1", "1", (Published(7.0, "somewhere"),))
    text = listing.render((entry,), (), {})
    row = next(line for line in text.splitlines() if line.startswith("new:X/1"))
    assert row.split() == [
        *("new:X/1", "1", "7.0", "[1]", "not", "run", "by", "us"),
        *("-",) * 5,
    ]


def test_what_does_not_fit_has_no_hours():
    assert listing.hours(None) == "does not fit"
    assert listing.hours((0.0456, 0.117)) == "0.046-0.12"
    assert listing.hours((2.0, 5.71)) == "2.0-5.7"
    assert listing.hours((12.3, 1234.0)) == "12-1,234"
    assert listing.hours((1e-5, 0.003)) == "<0.01"


def test_the_list_needs_no_jax(tmp_path):
    """Nor TensorFlow: it is printed in a second."""
    program = (
        "import sys; from vit_jax import cli; code = cli.main(sys.argv[1:]);"
        "assert not {'jax', 'tensorflow'} & set(sys.modules); sys.exit(code)"
    )
    for words in ((), ("mae_i1k",)):
        done = subprocess.run(
            [sys.executable, "-c", program, "recipes", *words],
            env=training.environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "mae_i1k:L/16" in done.stdout and not done.stderr


def test_one_in_full(capsys):
    code, out, _ = call(capsys, "deit_i1k:B/16,distilled")
    assert code == 0
    assert "Departures: RandAugment is TensorFlow's" in out
    assert "batch           1,024 images" in out
    assert "length          300 epochs" in out
    assert "peak rate       0.001\n" in out
    assert "0.05 times the learning rate" in out and "5e-05 of a parameter" in out
    assert "RandAugment(2, 9), mixup 0.8, cutmix 1, erase 0.25, 4 copies" in out
    assert "warmup          5 epochs" in out
    assert "moving average of parameters 0.99996" in out
    assert (
        "vit-jax train --config=configs/deit_i1k.py:B/16,distilled "
        "--workdir=runs/deit_i1k_B_16_distilled --config.objective.teacher.path=TEACHER"
    ) in out
    assert "--smoke --workdir=runs/deit_i1k_B_16_distilled_smoke" in out
    assert "83.4 % top-1 on ImageNet-1k" in out and "not comparable: the" in out
    assert "not run by us" in out
    assert "v5e:16x16: " in out and "GiB a chip" in out


def test_the_default_argument(capsys):
    for name in ("mae_i1k", "configs/mae_i1k.py", "mae_i1k:L/16"):
        code, out, _ = call(capsys, name)
        assert code == 0 and out.startswith("mae_i1k:L/16\n")
    assert "mae_i1k:B/16, mae_i1k:L/16, mae_i1k:H/14" in out
    assert call(capsys, "digits")[1].startswith("digits\n")


def test_an_argument_that_the_ledger_does_not_have(capsys):
    code, out, _ = call(capsys, "digits:Ti/2")
    assert code == 0
    assert "no figures for this argument" in out and "Ti/2 at 8x8 pixels" in out
    code, out, _ = call(capsys, "digits:Ti/2", "--json")
    assert json.loads(out)["planned"] is None


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.spec)
def test_every_recipe_in_full(capsys, entry):
    code, out, _ = call(capsys, entry.spec, "--json")
    said = json.loads(out)
    assert code == 0 and said["about"] and all(said["settings"].values())
    code, out, _ = call(capsys, entry.spec)
    assert code == 0
    assert all(command in out for command in said["commands"].values())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.spec)
def test_commands_are_taken(entry):
    said = commands(entry)
    for command, verb in ((said["train"], "train"), (said["plan"], "plan")):
        words = shlex.split(command)
        assert words[:2] == ["vit-jax", verb]
        overrides = [word for word in words if word.startswith("--config.")]
        rest = [word for word in words[1:] if word not in overrides]
        options = cli.build_parser().parse_args(rest)
        configs.load(options.config, overrides)


def test_mistakes(capsys):
    for words, said in (
        (("mae",), "no recipe 'mae'; known: aim_digits, "),
        (("mae",), "did you mean 'mae_i1k'?"),
        (("vit_i21k:X/16",), "known: Ti/16, S/32"),
    ):
        code, out, err = call(capsys, *words)
        assert code == 2 and not out
        assert said in err and len(err.splitlines()) == 1


def test_decay_in_its_convention():
    load = configs.load
    assert settings.decay(load("configs/vit_s16_i1k.py").optim).endswith(
        "of kernels: 0.0001 of a parameter at a step at the peak"
    )  # as big_vision writes it
    assert settings.decay(load("configs/vit_g_i21k.py").optim).endswith("3 of the head")
    assert "inside the trust ratio" in settings.decay(
        load("configs/deit3_i1k.py").optim
    )
    assert settings.decay(load("configs/transfer.py").optim) == "none"
