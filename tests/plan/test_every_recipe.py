"""Every recipe is planned, by shapes, for a pod of 256 chips."""

import json

import pytest

from tests.test_recipes import SPECS
from tests.test_smoke import FASHION
from vit_jax.cli import main

# What a recipe leaves to its user, and batches that 256 chips divide.
GIVEN = {
    "transfer": ["model.variant=B/32"],
    "digits": ["train.batch_size=256"],
    "fashion": ["train.batch_size=256"],
    **{
        f"fashion:{kind}": ["train.batch_size=256", "evals.linear.batch_size=256"]
        for kind in ("mae", "masked_patch", "aim")
    },
    "fashion:few": ["train.batch_size=256"],
    "fashion:distill": [
        *("train.batch_size=256", "objective.teacher.path="),
        "objective.teacher.variant=mu/2",
    ],
    "aim_digits": ["train.batch_size=256"],
    "distill_digits": [
        *("train.batch_size=256", "objective.teacher.path="),
        "objective.teacher.variant=mu/2",
    ],
}
FAST = ("vit_paper:jft,H/14", "mae_finetune_i1k")


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, marks=[] if spec in FAST else pytest.mark.slow)
        for spec in ("transfer", *SPECS, *FASHION)
    ],
)
def test_is_planned_for_a_pod(spec, capsys):
    changes = GIVEN.get(spec) or GIVEN.get(spec.partition(":")[0], [])
    call = ["plan", f"--config={spec}", "--topology=v5e:16x16", "--no_compile"]
    call += ["--json", *(f"--config.{change}" for change in changes)]
    assert main(call) == 0, capsys.readouterr().err
    (plan,) = json.loads(capsys.readouterr().out)
    assert (plan["mode"], plan["chips"]) == ("shapes", 256)
    assert plan["parameters"] > 0 and plan["flops_per_image"] > 0
    low, high = plan["days"]  # how long an epoch is, is known of every data set
    assert 0 < low < high
