"""`model.init_from`: another run's parameters, or a file's, changed where they must be."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest

from tests import training
from vit_jax import cli, warm_start
from vit_jax.checkpoint import Checkpoints
from vit_jax.train import train
from vit_jax.weights.files import WeightsError
from vit_jax.weights.load import load

TRANSFER = str(training.ROOT / "configs" / "transfer.py")


def run(workdir, *changes):
    said = []
    result = train(training.tiny_config(*changes), str(workdir), say=said.append)
    return result, "\n".join(map(str, said))


@pytest.fixture
def source():
    """A finished run; nobody may change it."""
    return training.finished()[0]


@functools.cache
def state_shapes():
    return training.build(training.tiny_config(training.AVERAGED)).state_shapes


def params_of(workdir, step):
    checkpoints = Checkpoints(workdir / "checkpoints", keep=9, read_only=True)
    state, _ = checkpoints.restore(step, state_shapes())
    checkpoints.close()
    return training.host(state.params)


def start(config, workdir, devices=None):
    """The state that a run begins with, and what was said."""
    parts = training.build(config, devices=devices)
    said = []
    with jax.set_mesh(parts.mesh):
        begin = warm_start.prepare(config, parts.state_shapes.params, workdir)
        state = begin.load(parts.init(), say=said.append)
    return state, "\n".join(said)


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/8"])
def test_a_run_s_parameters_bit_for_bit(source, tmp_path, place):
    config = training.tiny_config(f"model.init_from={source / place}")
    state, said = start(config, tmp_path / "new")
    assert training.same_bits(state.params, params_of(source, 8))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
    total = len(jax.tree.leaves(state.params))
    assert said.splitlines() == [
        f"parameters from {source / place} (workdir): {total} of {total} arrays"
    ]


def test_an_earlier_step_and_into_shards_of_eight_devices(source, tmp_path):
    config = training.tiny_config(
        f"model.init_from={source / 'checkpoints' / '4'}",
        *("mesh.data=1", "mesh.fsdp=8", "train.ema=0.5"),
    )
    state, _ = start(config, tmp_path / "new", devices=jax.devices()[:8])
    assert training.same_bits(state.params, params_of(source, 4))
    assert training.same_bits(state.ema, state.params)
    leaves = jax.tree.leaves(state.params)
    assert not all(leaf.sharding.is_fully_replicated for leaf in leaves)


def test_training_starts_better_and_says_where_from(source, tmp_path):
    def first_loss(folder):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[0])["train/loss"]

    changes = (training.AVERAGED, f"model.init_from={source}")
    result, said = run(tmp_path / "run", *changes)
    assert f"parameters from {source}" in said and result.trained_steps == 8
    assert first_loss(tmp_path / "run") < first_loss(source)


def test_a_run_killed_before_its_first_checkpoint_takes_them_again(source, tmp_path):
    changes = [f"model.init_from={source}", "optim.learning_rate=0.0"]
    changes += [training.AVERAGED]
    run(tmp_path / "run", *changes)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    _, said = run(tmp_path / "run", *changes)
    assert f"parameters from {source}" in said
    assert training.same_bits(params_of(tmp_path / "run", 8), params_of(source, 8))


def transfer(source, *changes):
    """The transfer config on digits, cut to eight steps."""
    steps = ("train.duration.steps=8", "schedule.warmup.steps=2")
    often = ("checkpoint.every.steps=4", "evals.val.every.steps=4", "log.every.steps=1")
    where = (f"model.init_from={source}", f"data.dir={training.digits_dir()}")
    flags = (*steps, *often, *where, "log.tensorboard=False", *changes)
    return [f"--config={TRANSFER}:digits", *(f"--config.{flag}" for flag in flags)]


def test_fine_tuning_takes_the_source_s_model_and_resumes_without_it(
    source, tmp_path, capsys
):
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    workdir = f"--workdir={tmp_path / 'run'}"
    assert cli.main(["train", workdir, *transfer(copy, "train.duration.steps=4")]) == 0
    assert "parameters from" in capsys.readouterr().out
    model = json.loads((tmp_path / "run" / "config.json").read_text())["config"][
        "model"
    ]
    expected = {"width": 16, "depth": 2, "num_heads": 2, "patch_size": [2, 2]}
    assert {name: model[name] for name in expected} == expected
    assert model["image_size"] == [16, 16] and model["channels"] == 1

    shutil.rmtree(copy)
    args = ["train", workdir, *transfer(copy, "train.duration.steps=4")]
    assert cli.main(args) == 0  # nothing left to do, and no source is needed
    assert cli.main(["evaluate", workdir]) == 0
    model, record = load(str(tmp_path / "run"))
    assert model.grid == (8, 8) and record.class_names == tuple("0123456789")


def test_a_new_number_of_classes_gets_a_new_head(source, tmp_path):
    config = training.tiny_config(
        f"model.init_from={source}", "model.num_classes=4", "model.pre_logits=8"
    )
    state, said = start(config, tmp_path / "new")
    assert state.params["encoder"]["head"]["kernel"].shape == (8, 4)
    assert not np.any(state.params["encoder"]["head"]["kernel"])
    new = next(line for line in said.splitlines() if line.startswith("  new: "))
    assert "encoder/head/kernel" in new and "encoder/pre_logits/kernel" in new
    assert "  not used: head/bias, head/kernel" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.width=32"], "width is 16 in the weights, 32 in the model"),
        (["model.activation=gelu"], "activation is 'gelu_tanh' in the weights, 'gelu'"),
        (["model.norm_epsilon=1e-5"], "norm_epsilon is 1e-06 in the weights, 1e-05"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(
    source, tmp_path, changes, message
):
    with pytest.raises(WeightsError, match=message):
        run(tmp_path / "run", f"model.init_from={source}", *changes)
    assert not (tmp_path / "run").exists()


def test_a_source_that_is_not_there_or_not_named(tmp_path, capsys):
    absent = tmp_path / "absent"
    with pytest.raises(WeightsError, match=r"absent: no such file or folder"):
        run(tmp_path / "run", f"model.init_from={absent}")
    code = cli.main(["train", f"--workdir={tmp_path / 'run'}", *transfer("")])
    error = capsys.readouterr().err
    assert code == 2 and "takes the model from model.init_from" in error
    assert not (tmp_path / "run").exists()
