"""Next-patch prediction in whole runs: resuming, and what checks say."""

import shutil

import pytest

from tests import training
from vit_jax import config as configs
from vit_jax import objectives, setup
from vit_jax.checkpoint import Checkpoints
from vit_jax.config import ConfigError
from vit_jax.config_check_model import check_attention
from vit_jax.metrics import read_rows
from vit_jax.models.attention_choice import Hardware
from vit_jax.train import train

AIM = str(training.ROOT / "configs" / "aim_digits.py")
NOISE = ("model.dropout=0.1", "model.drop_path=0.1", "objective.chunk=4")


def tiny_config(*changes):
    """The digits' recipe at the size of the tiny run."""
    merged = ("objective.decoder_width=12", *changes)
    return configs.load(AIM, [f for f in training.flags(*merged) if "evals." not in f])


def state(folder):
    parts = training.build(tiny_config(*NOISE))
    checkpoints = Checkpoints(folder / "checkpoints", keep=9, read_only=True)
    restored, _ = checkpoints.restore(checkpoints.latest(), parts.state_shapes)
    checkpoints.close()
    return training.host(restored)


def test_a_run_resumes_bit_for_bit(tmp_path):
    folder, said = tmp_path / "run", []
    train(tiny_config(*NOISE), str(folder), say=said.append)
    whole = state(folder)
    rows = {row["step"]: row["train/loss"] for row in read_rows(folder)}
    shutil.rmtree(folder / "checkpoints" / "8")
    train(tiny_config(*NOISE), str(folder), say=said.append)
    assert any("resuming from step 4" in str(line) for line in said)
    assert training.same_bits(state(folder), whole)
    figures = {path.name for path in (folder / "figures").iterdir()}
    assert figures == {"curves.png"}  # log.figures is off
    again = {row["step"]: row["train/loss"] for row in read_rows(folder)}
    assert again == rows and set(rows) == set(range(1, 9))


def test_what_it_cannot_train_is_said_with_everything_else():
    changes = ("model.num_classes=10", "model.pool=map", "objective.chunk=-1")
    problems = configs.check(tiny_config(*changes), facts=None, num_devices=1)
    assert len(problems) == 3
    for problem, field in zip(problems, changes, strict=True):
        assert field.partition("=")[0] in problem


@pytest.mark.parametrize(
    ("kernel", "kind", "words"),
    [
        ("splash", "TPU v5 lite", ["not a full mask; use 'auto' or 'xla'"]),
        ("cudnn", "NVIDIA H100 80GB HBM3", []),  # takes it as a bias
        ("auto", "TPU v5 lite", []),
        ("xla", "TPU v5 lite", []),
    ],
)
def test_kernels_are_checked_against_the_mask(kernel, kind, words):
    config = tiny_config(f"model.attention={kernel}", "model.dtype=bfloat16")
    platform = "tpu" if kind.startswith("TPU") else "gpu"
    mask = objectives.mask_of("autoregressive")
    problems = check_attention(config.model, Hardware(platform, kind), mask=mask)
    assert len(problems) == len(words)
    for problem, word in zip(problems, words, strict=True):
        assert word in problem


def test_a_kernel_without_the_mask_is_refused_before_anything_is_built():
    config = tiny_config("model.attention=splash")
    with pytest.raises(ConfigError, match="not a full mask; use 'auto' or 'xla'"):
        setup.describe_data(config)
    supervised = training.tiny_config("model.attention=splash")
    with pytest.raises(ConfigError, match="needs a TPU") as caught:
        setup.describe_data(supervised)
    assert "mask" not in str(caught.value)
