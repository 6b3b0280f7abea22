"""What a config asks of the hardware is checked before anything is built."""

import numpy as np
import pytest

from vit_jax import config as configs
from vit_jax import setup
from vit_jax.config import ConfigError
from vit_jax.config_check_model import check_attention
from vit_jax.data import arrays
from vit_jax.models.attention_choice import Hardware


@pytest.mark.parametrize(
    ("backend", "dtype", "words"),
    [
        ("cpu", "bfloat16", ["NVIDIA GPU"]),
        ("gpu", "float32", ["bfloat16"]),
        ("tpu", "float32", ["NVIDIA GPU", "bfloat16"]),
        ("gpu", "bfloat16", []),
    ],
)
def test_cudnn_is_refused_where_it_cannot_run(backend, dtype, words):
    config = configs.load(
        "configs/digits.py",
        ["--config.model.attention=cudnn", f"--config.model.dtype={dtype}"],
    )
    problems = check_attention(config.model, Hardware(backend))
    assert len(problems) == len(words)
    for problem, word in zip(problems, words, strict=True):
        assert word in problem


@pytest.mark.parametrize(
    ("overrides", "kind", "expected"),
    [
        (["attention=auto", "attention_dropout=0.1"], "", []),
        (["attention=xla"], "", []),
        (
            ["attention=splash"],
            "cpu",
            ["model.attention 'splash' needs a TPU, this is cpu; use 'auto' or 'xla'"],
        ),
        (
            ["attention=splash", "attention_dropout=0.1"],
            "TPU v5 lite",
            ["model.attention 'splash' has no attention dropout; use 'auto' or 'xla'"],
        ),
        (
            ["attention=cudnn", "dtype=bfloat16", "width=72", "num_heads=6"],
            "NVIDIA A100-SXM4-40GB",
            [
                "model.attention 'cudnn' takes head sizes that are a multiple of 8 and at "
                "most 128 (256 on Hopper), got 12; use 'auto' or 'xla'"
            ],
        ),
        (["attention=cudnn", "variant=unknown"], "", []),  # another check's
        (["attention=flash"], "", []),
    ],
)
def test_kernels_are_checked_against_the_model(overrides, kind, expected):
    config = configs.load(
        "configs/digits.py", [f"--config.model.{override}" for override in overrides]
    )
    platform = {"TPU": "tpu", "NVI": "gpu"}.get(kind[:3], "cpu")
    assert check_attention(config.model, Hardware(platform, kind)) == expected


def test_an_unknown_kernel_gets_the_list():
    overrides = ["model.attention=flash", "data.name=nowhere"]
    config = configs.load(
        "configs/digits.py", [f"--config.{override}" for override in overrides]
    )
    with pytest.raises(ConfigError) as caught:
        setup.describe_data(config)
    unknown = "model.attention 'flash' is unknown; known: auto, xla, cudnn, splash"
    assert unknown in caught.value.problems


def test_hardware_is_checked_with_everything_else(tmp_path):
    config = configs.load(
        "configs/digits.py",
        [
            "--config.model.attention=cudnn",
            "--config.seed=-1",
            f"--config.data.dir={tmp_path}",
        ],
    )
    with pytest.raises(ConfigError) as caught:
        setup.describe_data(config)
    message = str(caught.value)
    assert "not prepared" in message
    assert "seed must be in 0..4294967295" in message
    assert "NVIDIA GPU" in message


def test_class_weights_of_a_file_are_in_the_config_that_is_saved(tmp_path):
    facts = arrays.describe("digits")
    path = tmp_path / "weights.npy"
    np.save(path, np.arange(10) / 4.5)
    override = f"--config.objective.class_weights=('{path}',)"
    config = configs.load("configs/digits.py", [override])
    assert configs.check(config, facts=None, num_devices=8) == []
    resolved = setup.resolve(config, facts)
    assert resolved.objective.class_weights == tuple(np.arange(10) / 4.5)
    np.save(path, np.ones(3))
    with pytest.raises(ConfigError, match=r"weights.npy: .* 3, but there are 10 class"):
        setup.resolve(config, facts)
    path.unlink()
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file"):
        setup.resolve(config, facts)
