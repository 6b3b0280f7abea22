"""Runs with a teacher: from a run, from a file, from stored logits; on any mesh."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from tests import training
from tests.models import tiny
from vit_jax import cli, setup, teachers
from vit_jax.checkpoint import Checkpoints
from vit_jax.config import ConfigError
from vit_jax.evaluate import evaluate
from vit_jax.models.flops import forward_flops
from vit_jax.train import train
from vit_jax.weights.files import WeightsError
from vit_jax.weights.load import load


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """A folder of configs: digits with DeiT's distillation, and function matching."""
    folder = tmp_path_factory.mktemp("configs")
    for name, changes, heads in (
        ("deit", "", True),
        ("matching", 'match="soft", alpha=1.0, temperature=2.0, token=False', False),
    ):
        (folder / f"{name}.py").write_text(
            "from configs import base, digits\n\n\n"
            "def get_config():\n"
            "    config = digits.get_config()\n"
            f"    config.objective = base.distillation({changes})\n"
            + (
                "    config.model.pool = 'cls'\n"
                "    config.model.distillation = 'head'\n"
                if heads
                else ""
            )
            + "    return config\n"
        )
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A finished run that teaches; nobody may change it."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    changes = ("model.width=24", "model.depth=3", "train.ema=0.5", "evals.val.resize=0")
    train(training.tiny_config(*changes), str(folder), say=lambda line: None)
    return folder


def tiny_config(configs, name, *changes):
    return training.load(str(configs / f"{name}.py"), training.flags(*changes))


def taught_by(path, *changes):
    return (f"objective.teacher.path={path}", *changes)


def run(config, workdir, **options):
    said = []
    result = train(config, str(workdir), say=said.append, **options)
    return result, "\n".join(map(str, said))


def restored(workdir, config, step, devices=None):
    parts = training.build(config, devices=devices)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=9, read_only=True)
    state, _ = checkpoints.restore(step, parts.state_shapes)
    checkpoints.close()
    return training.host(state)


def metrics_of(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def values(rows):
    """What does not depend on the clock."""
    names = ("step", "train/loss", "train/agreement", "val/accuracy", "val/loss")
    return [{name: row[name] for name in names if name in row} for row in rows]


def test_a_run_learns_from_another_and_resumes_bit_for_bit(configs, source, tmp_path):
    config = tiny_config(configs, "deit", *taught_by(source))
    run(config, tmp_path / "straight")
    first = metrics_of(tmp_path / "straight")[0]
    assert {"train/teacher_loss", "train/label_loss", "train/agreement"} <= first.keys()

    shutil.copytree(tmp_path / "straight", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "8")
    _, said = run(config, tmp_path / "cut")
    assert "resuming from step 4" in said
    straight = restored(tmp_path / "straight", config, 8)
    assert training.same_bits(restored(tmp_path / "cut", config, 8), straight)
    assert values(metrics_of(tmp_path / "cut")) == values(
        metrics_of(tmp_path / "straight")
    )

    # The teacher is in no part of what is saved.
    paths = tiny.flatten(straight.params)
    assert all(path.startswith("encoder/") for path in paths)
    meta = (tmp_path / "cut" / "checkpoints" / "8" / "meta" / "metadata").read_text()
    assert "teacher" not in meta and "opt_state" in meta
    assert "encoder/head_distillation/kernel" in paths

    # And neither evaluation nor whoever uses the student needs it.
    shutil.copytree(tmp_path / "straight", tmp_path / "alone")
    path = tmp_path / "alone" / "config.json"
    path.write_text(path.read_text().replace(str(source), str(tmp_path / "gone")))
    assert evaluate(str(tmp_path / "alone")) == evaluate(str(tmp_path / "straight"))
    model, _ = load(str(tmp_path / "alone"))
    assert model.settings.distillation == "head"


def test_another_teacher_is_refused_and_a_moved_one_is_not(configs, source, tmp_path):
    def config(path):
        return tiny_config(
            configs, "matching", *taught_by(path, "train.duration.steps=4")
        )

    run(config(source), tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["loaded"]
    assert saved["teacher"]["from"] == f"{source}, step 8"
    shutil.copytree(source, tmp_path / "moved")
    _, said = run(config(tmp_path / "moved" / "checkpoints" / "8"), tmp_path / "run")
    assert "objective.teacher.path" in said
    again = json.loads((tmp_path / "run" / "config.json").read_text())["loaded"]
    assert again["teacher"]["digest"] == saved["teacher"]["digest"]
    assert again["teacher"]["from"] == f"{tmp_path / 'moved'}, step 8"

    other = config(source / "checkpoints" / "4")
    with pytest.raises(
        ConfigError, match=r"the teacher itself: .*step 8\) -> .*step 4"
    ):
        run(other, tmp_path / "run")
    _, said = run(other, tmp_path / "run", allow_config_change=True)
    assert "the teacher itself" in said


def losses(config, devices, count=4):
    parts = training.build(config, devices=devices)
    _, losses, _ = training.run_steps(parts, count)
    return parts, losses


def test_eight_devices_compute_what_one_does(configs, source):
    changes = taught_by(
        source, "optim.learning_rate=0.01", "objective.teacher.dtype=float32"
    )
    one, expected = losses(tiny_config(configs, "deit", *changes), jax.devices()[:1])
    mesh = ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2")
    many, found = losses(
        tiny_config(configs, "deit", *changes, *mesh), jax.devices()[:8]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    kernel = many.frozen["teacher"]["model"]["blocks"]["mlp"]["hidden"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    assert training.same_bits(many.frozen, one.frozen)
    assert many.loaded == one.loaded  # whatever the mesh


def test_micro_batches_see_their_own_part_of_the_teacher(configs, source):
    changes = taught_by(source, "objective.teacher.dtype=float32")
    _, whole = losses(tiny_config(configs, "matching", *changes), jax.devices()[:1], 2)
    changes += ("train.accumulate=4",)
    _, parts = losses(tiny_config(configs, "matching", *changes), jax.devices()[:1], 2)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_the_teacher_computes_what_its_run_does(configs, source):
    def frozen(dtype):
        changes = taught_by(source, f"objective.teacher.dtype={dtype}")
        config = tiny_config(configs, "matching", *changes)
        found = teachers.find(config)
        shapes = jax.eval_shape(
            lambda key: nnx.to_pure_dict(nnx.split(found.build(key, None))[1]),
            jax.random.key(0),
        )
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        places = jax.tree.map(lambda _: here, shapes)
        graphdef = nnx.split(
            nnx.eval_shape(lambda: found.build(jax.random.key(0), None))
        )[0]
        return graphdef, found.load(shapes, places)

    images = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
    model, _ = load(str(source), dtype="bfloat16")
    graphdef, params = frozen("bfloat16")
    found = nnx.merge(graphdef, params)({"images": images})
    # Kernels that are kept in bfloat16 are those that are rounded when they are used.
    np.testing.assert_array_equal(found, model(images))
    kept = tiny.flatten(params["model"])
    assert kept["blocks/mlp/hidden/kernel"].dtype == "bfloat16"
    assert kept["head/kernel"].dtype == kept["norm/scale"].dtype == "float32"

    model, _ = load(str(source))
    graphdef, params = frozen("float32")
    exact = nnx.merge(graphdef, params)({"images": images})
    np.testing.assert_allclose(exact, model(images), rtol=1e-6)
    assert 0 < tiny.error(found, exact) < 0.05


def test_operations_of_a_step_count_the_teacher(configs, source):
    config = tiny_config(configs, "matching", *taught_by(source))
    parts = training.build(config)
    alone = training.build(training.tiny_config())
    model, _ = load(str(source))
    assert parts.flops_per_image - alone.flops_per_image == forward_flops(model)


def test_the_average_of_a_run_and_a_file_teach_too(configs, source, tmp_path):
    file = tmp_path / "teacher.npz"
    code = cli.main(
        ["export", f"--workdir={source}", "--to=timm", f"--output={tmp_path / 'timm'}"]
    )
    assert code == 0, file
    seen = {}
    for name, changes in {
        "run": taught_by(source),
        "average": taught_by(source, "objective.teacher.ema=True"),
        "file": taught_by(tmp_path / "timm"),
    }.items():
        parts = training.build(tiny_config(configs, "matching", *changes))
        seen[name] = parts.loaded["teacher"]["digest"]
    assert seen["file"] == seen["run"] != seen["average"]


def test_stored_logits_teach_by_id(configs, tmp_path):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1437, 10)).astype(np.float32)
    ids = rng.permutation(1437)
    np.save(tmp_path / "all.npy", logits)
    np.savez(tmp_path / "some.npz", logits=logits[ids], ids=ids)
    found = {}
    for file in ("all.npy", "some.npz"):
        config = tiny_config(
            configs,
            "matching",
            f"objective.teacher.logits={tmp_path / file}",
            *("data.augment.mixup=0.0", "train.duration.steps=4"),
        )
        run(config, tmp_path / file.partition(".")[0])
        found[file] = values(metrics_of(tmp_path / file.partition(".")[0]))
    assert found["all.npy"] == found["some.npz"]

    parts = training.build(config)
    loader = setup.build_loader(config, parts.mesh, parts.teacher)
    try:
        ids = loader.ids(3, shuffle=True)
        batch = loader.batch(ids, 3 * 16)
        np.testing.assert_array_equal(batch["teacher_logits"], logits[ids])
    finally:
        loader.close()


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("few.npy", np.ones((9, 10), np.float32), "logits of 9 examples, but"),
        ("seven.npy", np.ones((1437, 7), np.float32), "has 7 classes"),
        ("flat.npy", np.ones(1437, np.float32), r"logits are float32 \[1437\]"),
        ("ints.npy", np.ones((1437, 10), np.int32), r"logits are int32 \[1437, 10\]"),
        ("words.txt", None, "not a file of logits"),
        ("absent.npy", None, "cannot be read"),
        (
            "gap.npz",
            {"logits": np.ones((1436, 10), np.float32), "ids": np.arange(1, 1437)},
            "no logits of example 0; data.split has 1437",
        ),
        (
            "twice.npz",
            {"logits": np.ones((2, 10), np.float32), "ids": np.array([3, 3])},
            "is there twice",
        ),
        ("other.npz", {"a": np.ones((2, 10), np.float32)}, "it holds a; it needs"),
    ],
)
def test_files_that_hold_no_logits_for_the_data(
    configs, tmp_path, name, arrays, message, capsys
):
    if isinstance(arrays, dict):
        np.savez(tmp_path / name, **arrays)
    elif arrays is not None:
        np.save(tmp_path / name, arrays)
    changes = (f"objective.teacher.logits={tmp_path / name}", "data.augment.mixup=0.0")
    arguments = [f"--workdir={tmp_path / 'run'}", *training.flags(*changes)]
    config = f"--config={configs / 'matching.py'}"
    assert cli.main(["train", config, *arguments]) == 2
    error = capsys.readouterr().err
    assert message.replace("\\", "") in error and "Traceback" not in error


def test_a_teacher_that_does_not_fit(configs, source, tmp_path):
    with pytest.raises(ConfigError, match=r"objective.teacher.path is not set"):
        run(tiny_config(configs, "matching"), tmp_path / "run")
    with pytest.raises(WeightsError, match="no such file or folder"):
        run(tiny_config(configs, "matching", *taught_by("/absent")), tmp_path / "run")
    config = tiny_config(
        configs, "matching", *taught_by(source, "model.num_classes=12")
    )
    with pytest.raises(ConfigError, match=r"has 10 classes, model.num_classes is 12"):
        teachers.find(config)
    assert not (tmp_path / "run").exists()
