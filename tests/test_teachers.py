"""Runs with a teacher: from a run, from a file, from stored logits; on any mesh."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import training
from tests.models import tiny
from vit_jax import cli, digest, setup_data, teachers
from vit_jax.checkpoint import Checkpoints
from vit_jax.config import ConfigError
from vit_jax.config import load as load_config
from vit_jax.data.errors import DataError
from vit_jax.evaluate import evaluate
from vit_jax.models import vit
from vit_jax.models.flops import forward_flops
from vit_jax.objectives.base import merge
from vit_jax.plan import shapes
from vit_jax.plan.program import prepare
from vit_jax.plan.topology import parse
from vit_jax.train import train
from vit_jax.weights import big_vision_npz
from vit_jax.weights.base import Card, Preprocessing
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


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights that teach, with answers of some size; nobody may change them."""
    graphdef, sizes = tiny.shapes(
        lambda key: vit.build(
            variant="mu/2",
            **{"width": 24, "depth": 3, "num_heads": 3, "mlp_dim": 40},
            **{"image_size": (8, 8), "channels": 1, "num_classes": 10},
            position="learned",
            key=key,
        )
    )
    params = tiny.fill(sizes)
    path = tmp_path_factory.mktemp("file") / "teacher.npz"
    settings = dataclasses.asdict(nnx.merge(graphdef, params).settings)
    card = Card("teacher", Preprocessing((8, 8)))
    big_vision_npz.write(path, settings, tiny.flatten(params), card)
    return path


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


def test_a_run_learns_from_a_file_and_resumes_bit_for_bit(configs, file, tmp_path):
    config = tiny_config(configs, "deit", *taught_by(file))
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
    path.write_text(path.read_text().replace(str(file), str(tmp_path / "gone")))
    assert evaluate(str(tmp_path / "alone")) == evaluate(str(tmp_path / "straight"))
    model, _ = load(str(tmp_path / "alone"))
    assert model.settings.distillation == "head"


def drawn(configs, seed, devices, *changes):
    """A teacher of random parameters: what it is, and its place."""
    config = tiny_config(configs, "matching", *changes)
    teacher = config.objective.teacher
    teacher.random_seed, teacher.variant = seed, "mu/2"
    parts = training.build(config, devices=jax.devices()[:devices])
    kernel = training.host(parts.frozen)["teacher"]["model"]["head"]["kernel"]
    return parts.loaded["teacher"], np.asarray(kernel, np.float64)


def test_a_drawn_teacher_is_its_seed(configs):
    one, kernel = drawn(configs, 0, 1)
    assert one["from"] == "a ViT mu/2 of random parameters, seed 0"
    # Answers differ: 32 x 10 numbers of variance 1 / 32, to four standard errors.
    assert kernel.var() * 32 == pytest.approx(1, abs=4 * (2 / 320) ** 0.5)
    assert drawn(configs, 0, 8, "mesh.data=2", "mesh.fsdp=4")[0] == one
    assert drawn(configs, 1, 1)[0]["digest"] != one["digest"]


def test_weights_teach_rather_than_a_seed(configs, file):
    config = tiny_config(configs, "matching", *taught_by(file))
    config.objective.teacher.random_seed = 0
    source = teachers.find(config)
    assert source is not None and source.place == str(file)


@pytest.mark.slow
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


@pytest.mark.slow
def test_eight_devices_compute_what_one_does(configs, file):
    changes = taught_by(
        file, "optim.learning_rate=0.01", "objective.teacher.dtype=float32"
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


@pytest.mark.slow
def test_micro_batches_see_their_own_part_of_the_teacher(configs, file):
    changes = taught_by(file, "objective.teacher.dtype=float32")
    _, whole = losses(tiny_config(configs, "matching", *changes), jax.devices()[:1], 2)
    changes += ("train.accumulate=4",)
    _, parts = losses(tiny_config(configs, "matching", *changes), jax.devices()[:1], 2)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_the_teacher_computes_what_its_file_does(configs, file):
    images = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
    logits = {}
    for dtype in ("bfloat16", "float32"):
        # Rounding depends on whether the blocks are in a loop, as `load` has them.
        changes = taught_by(file, f"objective.teacher.dtype={dtype}", "model.unroll=1")
        config = tiny_config(configs, "matching", *changes)
        parts = training.build(config, devices=jax.devices()[:1])
        params = parts.state_shapes.params
        objective = merge(parts.graphdef, params, parts.frozen)
        logits[dtype] = np.asarray(objective.teacher({"images": jnp.asarray(images)}))
        model, _ = load(str(file), dtype=dtype)
        # Kernels kept in bfloat16 are those that are rounded when they are used.
        np.testing.assert_array_equal(logits[dtype], model(jnp.asarray(images)))
        kept = tiny.flatten(parts.frozen["teacher"]["model"])
        assert kept["blocks/mlp/hidden/kernel"].dtype == dtype
        assert kept["head/kernel"].dtype == kept["norm/scale"].dtype == "float32"
        alone = training.build(training.tiny_config())
        extra = parts.flops_per_image - alone.flops_per_image
        assert extra == forward_flops(model)
    assert 0 < tiny.error(logits["bfloat16"], logits["float32"]) < 0.05


@pytest.mark.slow
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
        seen[name] = digest.of_tree(parts.frozen)
    # timm keeps as a parameter what a run computes.
    del seen["file"]["teacher.model.position_embedding"]
    assert seen["file"] == seen["run"] != seen["average"]


def stored(path, *changes):
    return (f"objective.teacher.logits={path}", "data.augment.mixup=0.0", *changes)


def test_stored_logits_teach_by_id(configs, tmp_path):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1437, 10)).astype(np.float16)
    ids = rng.permutation(1437)
    np.save(tmp_path / "all.npy", logits)
    np.savez(tmp_path / "shuffled.npz", logits=logits[ids], ids=ids)
    for name in ("all.npy", "shuffled.npz"):
        config = tiny_config(configs, "matching", *stored(tmp_path / name))
        found = teachers.find(config)
        found.check_covers(lambda: 1437)
        some = rng.integers(1437, size=9)
        np.testing.assert_array_equal(
            found.columns["teacher_logits"](some), logits[some]
        )
    parts = training.build(config)
    assert parts.frozen == {} and parts.loaded["teacher"]["digest"]
    loader = setup_data.build_loader(config, parts.mesh, parts.teacher)
    try:
        ids = loader.ids(3, shuffle=True)
        batch = loader.batch(ids, 3 * 16)
    finally:
        loader.close()
    np.testing.assert_array_equal(batch["teacher_logits"], logits[ids])
    with jax.set_mesh(parts.mesh):
        arguments = (parts.init(), parts.frozen, batch, parts.step_key)
        _, metrics = parts.train_step(*arguments)
    # The student's head is zero: it answers 1/10 whatever it sees.
    taught = np.asarray(logits[ids], np.float64) / 2.0
    log_p = taught - np.log(np.exp(taught).sum(-1, keepdims=True))
    expected = 4.0 * (np.exp(log_p) * (log_p - np.log(0.1))).sum(-1).mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


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
    configs, tmp_path, name, arrays, message
):
    if isinstance(arrays, dict):
        np.savez(tmp_path / name, **arrays)
    elif arrays is not None:
        np.save(tmp_path / name, arrays)
    with pytest.raises((ConfigError, DataError, WeightsError), match=message) as found:
        teachers.find(
            tiny_config(configs, "matching", *stored(tmp_path / name))
        ).check_covers(lambda: 1437)
    assert str(found.value).count(chr(10)) == 0


def test_a_teacher_that_does_not_fit(configs, file, tmp_path, capsys):
    workdir = tmp_path / "run"
    np.save(tmp_path / "few.npy", np.ones((9, 10), np.float32))
    for changes, message in {
        (): "objective.teacher.path is not set",
        taught_by("/absent"): "/absent: no such file or folder",
        taught_by(file, "model.num_classes=12"): "is 12, but",
        stored(tmp_path / "few.npy"): "logits of 9 examples, but data.split has 1437",
        taught_by(file, "objective.teacher.logits=x.npy"): "are both set",
        stored("x.npy")[:1]: "are of single images: data.augment.mixup",
        taught_by(file, "objective.token=True"): "must be 'head', not 'none'",
        taught_by(file, "objective.teacher.dtype=int8"): "dtype 'int8' is unknown",
    }.items():
        config = f"--config={configs / 'matching.py'}"
        flags = training.flags("data.name=arrays:digits", *changes)
        assert cli.main(["train", config, f"--workdir={workdir}", *flags]) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error, error
        assert not workdir.exists()


def test_a_plan_counts_a_teacher_without_its_weights():
    flags = [
        f"--config.{key}"
        for key in ("model.width=16", "model.depth=2", "model.num_heads=2")
    ]
    sizes = {}
    for variant in ("mu/16", "Ti/16"):
        config = load_config(
            str(training.ROOT / "configs" / "distill_i1k.py"),
            [*flags, f"--config.objective.teacher.variant={variant}"],
        )
        program = shapes.Program(prepare(config, parse("h100:1x8")))  # no tiles
        sizes[variant] = (
            shapes.memory(program, program.job.config, 8).params * shapes.GIB,
            program.flops_per_image,
        )
    settings = dict(image_size=(224, 224), num_classes=1000, dtype="bfloat16")
    small, large = (
        nnx.eval_shape(
            lambda variant=variant: vit.build(
                variant=variant, **settings, key=jax.random.key(0)
            )
        )
        for variant in sizes
    )
    more = sizes["Ti/16"][1] - sizes["mu/16"][1]
    assert more == forward_flops(large) - forward_flops(small)
    # Two bytes for a number of a kernel, four for the few that stay in float32.
    numbers = sum(
        model * sign
        for model, sign in zip(
            (
                shapes.count(nnx.to_pure_dict(nnx.state(each)))
                for each in (large, small)
            ),
            (1, -1),
            strict=True,
        )
    )
    bytes_more = sizes["Ti/16"][0] - sizes["mu/16"][0]
    assert 2.0 * numbers < bytes_more < 2.2 * numbers
