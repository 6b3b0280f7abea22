"""What a config asks of the hardware is checked before anything is built."""

import pytest

from vit_jax import config as configs
from vit_jax import setup
from vit_jax.config import ConfigError


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
    problems = setup.check_backend(config, backend)
    assert len(problems) == len(words)
    for problem, word in zip(problems, words, strict=True):
        assert word in problem


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
