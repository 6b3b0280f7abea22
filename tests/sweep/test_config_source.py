"""A config written as a file is the same config when it is read."""

import pytest

from vit_jax import config as configs
from vit_jax.config_file import recipes
from vit_jax.sweep import config_source


def read_again(config, tmp_path):
    path = tmp_path / "again.py"
    path.write_text(config_source.source(config, "Some config."))
    return configs.load(str(path))


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_recipe_reads_back(name, tmp_path):
    config = configs.load(f"configs/{name}.py")
    again = read_again(config, tmp_path)
    assert configs.diff(config, again) == []
    assert configs.to_json(again) == configs.to_json(config)


def test_overrides_and_other_units_read_back(tmp_path):
    changes = [
        "--config.train.duration.examples=5000",
        "--config.schedule.warmup.epochs=0.5",
        "--config.evals.val.every.steps=7",
        "--config.optim.b2=0.95",
        "--config.model.registers=2",
        "--config.data.augment.area=(0.5,1.0)",
        "--config.model.cls_token=True",
        "--config.checkpoint.best=",
    ]
    config = configs.load("configs/digits.py", changes)
    again = read_again(config, tmp_path)
    assert configs.to_json(again) == configs.to_json(config)
    text = (tmp_path / "again.py").read_text()
    assert "config.train.duration = base.duration(examples=5000)" in text
    assert "config.optim.b2 = 0.95" in text and "b1" not in text  # differences alone
    compile(text, "again.py", "exec")
