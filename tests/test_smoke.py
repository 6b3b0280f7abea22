"""`train --smoke`: the small form of every recipe learns, and resumes exactly."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from tests import training
from tests.test_recipes import NAMES, SPECS, load
from vit_jax import config as configs
from vit_jax import metrics, smoke
from vit_jax.config_json import to_json
from vit_jax.data import sources
from vit_jax.setup_data import data_spec

FASHION = [
    f"fashion:{kind}" for kind in ("mae", "masked_patch", "aim", "few", "distill")
]
SMALL = ["transfer", *SPECS, *FASHION]
FAST = ("masked_patch_i1k",)


def load_small(spec):
    return smoke.smoke(load(spec))[0]


def flat(config):
    """Dotted keys and values."""

    def walk(tree, prefix):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(walk(to_json(config), ""))


def start(spec, folder):
    """The command of a user, in a process of its own."""
    name, _, arg = spec.partition(":")
    call = training.command(
        *("train", f"--config={name}:{arg}" if arg else f"--config={name}"),
        *("--smoke", f"--workdir={folder}"),
        *("--config.log.tensorboard=False", "--config.log.every.steps=1"),
    )
    result = subprocess.run(
        call, env=training.environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def losses(folder):
    rows = metrics.read_rows(folder / "metrics.jsonl")
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}


def digests(folder, step):
    """Of every array of the saved state, and what was measured with it."""
    (meta,) = (folder / "checkpoints" / str(step) / "meta").iterdir()
    return json.loads(meta.read_text())


# What a recipe is: all but sizes, data, durations and the rate. An entry that ends in a
# dot is a section.
MAY_CHANGE = (
    *("checkpoint.every.", "evals.", "log.every.", "log.figures", "mesh."),
    *("data.name", "data.split", "data.augment.pad", "data.augment.resize"),
    *("model.variant", "model.width", "model.depth", "model.mlp_dim"),
    *("model.num_heads", "model.image_size", "model.num_classes", "model.unroll"),
    *("objective.decoder_", "objective.mask_unit", "objective.teacher."),
    *("optim.learning_rate", "schedule.warmup.", "schedule.cooldown."),
    *("schedule.timescale", "train.batch_size", "train.duration.", "train.ema"),
)


@pytest.mark.parametrize("spec", [*NAMES, "deit3_i1k:H/14,finetune"])
def test_the_recipe_stays(spec):
    recipe = load(spec)
    before = flat(recipe)
    config, lines = smoke.smoke(recipe)
    after = flat(config)
    assert flat(recipe) == before  # it is a copy
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    assert {line.partition(": ")[0] for line in lines} == changed
    assert not [key for key in changed if not key.startswith(MAY_CHANGE)]
    assert flat(smoke.smoke(config)[0]) == after  # small already
    facts = sources.describe(data_spec(config))
    assert configs.check(config, facts=facts, num_devices=8) == []


@pytest.mark.parametrize(
    ("spec", "warmup", "cooldown", "timescale"),
    [
        ("vit_s16_i1k", 10_000 / 111_477, 0, 10_000 / 111_477),
        ("deit3_i1k:B/16,finetune", 5 / 20, 0, None),
        ("aim_i1k", 31_250 / 500_000, 0, None),
        ("vit_g_i21k", 0.01, 0.05, 0.01),
    ],
)
def test_shares_of_the_schedule_stay(spec, warmup, cooldown, timescale):
    config = load_small(spec)
    assert config.train.duration.steps == 64
    for share, steps in (
        (warmup, config.schedule.warmup.steps),
        (cooldown, config.schedule.cooldown.steps),
        (timescale, config.schedule.timescale),
    ):
        assert share is None or abs(steps - 64 * share) <= 0.5


def test_the_rate_follows_batch_and_width():
    # AdamW: the root of 64 / 1,024, and from 384 wide to 64.
    assert load_small("vit_s16_i1k").optim.learning_rate == pytest.approx(1e-3 / 4 * 6)
    # SGD: 64 / 512. LAMB: the root of 64 / 2,048, to three digits.
    assert load_small("transfer").optim.learning_rate == pytest.approx(0.003 / 8)
    assert load_small("deit3_i1k").optim.learning_rate == pytest.approx(5.3e-4)


def test_the_average_keeps_its_horizon():
    """DeiT's 0.99996 looks 25,000 steps back, of 375,342; here 4.26 of 64."""
    assert load_small("deit_i1k").train.ema == pytest.approx(
        np.exp(-1 / 4.26), abs=1e-3
    )


def test_what_a_recipe_needs_beside_it_is_left_out():
    with_sets = load("vit_s16_i1k")
    with with_sets.unlocked():
        with_sets.evals.a = with_sets.evals.val.copy_and_resolve_references()
        with_sets.evals.a.data = "imagenet_a"
        with_sets.model.init_from = "runs/other"
        with_sets.mesh.fsdp = 4
    config, lines = smoke.smoke(with_sets)
    assert set(config.evals) == {"minival", "val"}
    assert "model.init_from: 'runs/other' -> ''" in lines
    assert config.mesh.fsdp == 1
    teacher = load_small("distill_digits").objective.teacher
    assert (teacher.path, teacher.random_seed) == ("", 0)
    assert load_small("transfer").model.variant == "mu/8x8"


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, marks=[] if spec in FAST else pytest.mark.slow)
        for spec in SMALL
    ],
)
def test_learns_and_resumes_exactly(spec, tmp_path):
    folder = tmp_path / "run"
    start(spec, folder)
    logged, total = losses(folder), smoke.STEPS
    assert list(logged) == list(range(1, total + 1))
    quarter = total // 4
    values = np.array(list(logged.values()))
    first, last = values[:quarter], values[-quarter:]
    # Means of 16 steps whose losses differ by chance alone lie within two of their
    # standard errors 19 times out of 20.
    error = np.sqrt((first.var() + last.var()) / quarter)
    print(f"{spec}: {first.mean():.4f} -> {last.mean():.4f}, error {error:.4f}")
    assert first.mean() - last.mean() > 2 * error
    whole = digests(folder, total)
    shutil.rmtree(folder / "checkpoints" / str(total))  # killed in the second half
    assert f"resuming from step {total // 2}" in start(spec, folder)
    assert losses(folder) == logged
    assert digests(folder, total) == whole
