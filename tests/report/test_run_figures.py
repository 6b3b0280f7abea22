"""The figures of a run: drawn at its end, from what its last step saw."""

import contextlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests import training
from vit_jax import config as configs
from vit_jax import metrics, setup
from vit_jax import train as training_loop
from vit_jax.data import mixing
from vit_jax.data.mixing import normalize
from vit_jax.evaluate import evaluate
from vit_jax.report import run_figures
from vit_jax.report.grids import rendered
from vit_jax.run import Run

AIM = str(training.ROOT / "configs" / "aim_digits.py")
NAMES = {"batch", "filters", "positions", "attention_distance", "attention"}


def tiny_config(*changes):
    """The tiny run of next-patch prediction."""
    flags = [
        flag
        for flag in training.flags("objective.decoder_width=8", *changes)
        if "evals." not in flag
    ]
    return configs.load(AIM, flags)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of four steps with figures, and what was said."""
    folder, said = tmp_path_factory.mktemp("figures") / "run", []
    config = tiny_config(
        "train.duration.steps=4", "log.figures=True", "log.tensorboard=True"
    )
    training_loop.train(config, str(folder), say=said.append)
    return folder, "\n".join(map(str, said))


def test_a_run_leaves_its_figures(finished):
    folder, said = finished
    assert "no figures" not in said
    found = {path.stem for path in (folder / "figures").glob("*.png")}
    assert found == NAMES | {"curves", "reconstruction"}
    for name in found:
        with Image.open(folder / "figures" / f"{name}.png") as image:
            assert min(image.size) > 200
            assert len(np.unique(np.asarray(image.convert("L")))) > 8, name


def test_tensorboard_has_them_too(finished):
    folder, _ = finished
    events = b"".join(path.read_bytes() for path in folder.rglob("*tfevents*"))
    for name in NAMES | {"reconstruction"}:
        assert f"figures/{name}".encode() in events


def test_completions_of_other_images_are_drawn_afterwards(finished):
    """`vit-jax evaluate reconstruction`: image, what is given, forced, completed."""
    folder, _ = finished
    flags = [
        f"--config.evals.reconstruction.{each}" for each in ("images=3", "resize=0")
    ]
    flags.append("--config.evals.reconstruction.split=test")
    step, results = evaluate(
        str(folder), names=["reconstruction"], overrides=flags, say=lambda line: None
    )
    assert step == 4 and set(results) == {"reconstruction/mse"}
    with Image.open(folder / "figures" / "reconstruction-00000004.png") as image:
        picture = np.asarray(image)
    assert picture.shape == (3 * 66 - 2, 4 * 66 - 2, 3)
    for row in range(3):
        columns = [picture[66 * row :, 66 * column :][:64, :64] for column in range(4)]
        for column in columns[1:]:  # the first half of the patches is given
            np.testing.assert_array_equal(column[:32], columns[0][:32])
        assert (columns[1][32:] == 128).all()
        assert (columns[2][32:] != columns[3][32:]).any()


def test_what_cannot_be_drawn_ends_no_run(monkeypatch):
    said = []
    run = object.__new__(Run)  # of which this needs two parts
    run.life = types.SimpleNamespace(during=lambda phase: contextlib.nullcontext())
    run.progress = types.SimpleNamespace(say=said.append)

    def fail(*arguments):
        raise ValueError("no ink\nat all")

    monkeypatch.setattr(run_figures, "draw", fail)
    training_loop.draw(run, None, {})
    assert said == ["no figures: ValueError: no ink"]


def arrays(config, devices, shape=(8, 8, 1)):
    """What the figures are drawn from, of a fresh state, and its batch."""
    parts = training.build(config, devices=devices)
    batch = training.batch(parts, shape=shape)
    prepare = setup.build_prepare(config)
    key = jax.random.fold_in(parts.step_key, 3)

    def everything(params, frozen, batch):
        prepared = prepare(batch, jax.random.split(key)[0])
        plain = normalize(batch["image"][:8], config.data.mean, config.data.std)
        return run_figures.compute(
            *(parts.graphdef, params, frozen, prepared, key),
            attended={"images": plain, "label": batch["label"][:8]},
            seen=16,
            shown=8,
        )

    with jax.set_mesh(parts.mesh):
        state = parts.init()
        return training.host(jax.jit(everything)(state.params, parts.frozen, batch)), (
            training.host(batch)
        )


@pytest.mark.slow
def test_a_mesh_computes_what_one_device_does():
    changes = ("mesh.data=1", "mesh.fsdp=4", "mesh.tensor=2")
    single, _ = arrays(tiny_config(), jax.devices()[:1])
    meshed, _ = arrays(tiny_config(*changes), jax.devices()[:8])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        single,
        meshed,
    )


def test_the_batch_is_drawn_as_the_model_sees_it():
    config = training.tiny_config("data.augment.mixup=0.0", "data.augment.pad=0")
    found, batch = arrays(config, jax.devices()[:1])
    expected = normalize(jnp.asarray(batch["image"]), config.data.mean, config.data.std)
    np.testing.assert_allclose(found["images"], expected, atol=1e-6)
    assert found["reconstruction"] == {}
    drawn = dict(
        run_figures.figures(found, mean=config.data.mean, std=config.data.std, step=4)
    )
    assert set(drawn) == NAMES
    picture = rendered(drawn["batch"])
    for pixel in (int(batch["image"].min()), int(batch["image"].max())):
        assert (picture == pixel).all(axis=2).any()
    words = [text.get_text() for text in drawn["batch"].texts]
    assert words[0] == "images as the model saw them in step 4"
    titles = [axes.get_title() for axes in drawn["batch"].axes]
    assert titles == [str(label) for label in batch["label"]]


def test_the_batch_drawn_is_that_of_the_last_step(tmp_path, monkeypatch):
    prepared, drawn, build = [], [], mixing.build_prepare

    def listening(**settings):
        prepare = build(**settings)

        def run(batch, key):
            found = prepare(batch, key)
            jax.debug.callback(lambda i: prepared.append(np.array(i)), found["images"])
            return found

        return run

    monkeypatch.setattr(mixing, "build_prepare", listening)
    monkeypatch.setattr(
        run_figures, "figures", lambda arrays, **_: drawn.append(arrays)
    )
    config = training.tiny_config("train.duration.steps=3", "log.figures=True")
    training_loop.train(config, str(tmp_path / "run"), say=lambda line: None)
    jax.effects_barrier()
    # Three steps, and again for the figures.
    *_, last, again = prepared
    assert len(prepared) == 4
    np.testing.assert_array_equal(again, last)
    np.testing.assert_array_equal(drawn[0]["images"], last)
    assert np.abs(prepared[1] - last).max() > 0.1


@pytest.mark.parametrize(
    "kind", [training.tiny_config, tiny_config], ids=["supervised", "autoregressive"]
)
def test_attention_is_over_images_as_loaded(kind):
    """Neither mixed nor masked: a model that learns from a part sees all of it here."""
    config = kind("data.augment.mixup=0.8", "model.image_size=(8, 6)")
    found, batch = arrays(config, jax.devices()[:1], shape=(8, 6, 1))
    mean, std = config.data.mean, config.data.std
    expected = normalize(jnp.asarray(batch["image"][:8]), mean, std)
    np.testing.assert_allclose(found["attended"]["images"], expected, atol=1e-6)
    assert np.abs(found["images"][:8] - expected).max() > 0.01  # those are mixed
    maps = found["attention"]
    assert maps.shape == (8, 4, 3)
    # No CLS: all that goes into the mean of the tokens comes from the patches.
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1.0, atol=1e-5)
    assert maps.std(axis=(1, 2)).min() > 1e-6
    drawn = dict(run_figures.figures(found, mean=mean, std=std, step=4))["attention"]
    assert drawn.texts[0].get_text() == "attention rollout, training images in step 4"
    titles = [axes.get_title() for axes in drawn.axes[:-1:2]]
    labels = [str(label) for label in batch["label"][:8]]
    assert titles == (labels if config.model.num_classes else [""] * 8)
    for axes, each in zip(drawn.axes[1:-1:2], maps, strict=True):
        over = axes.images[1].get_array()
        np.testing.assert_allclose(over, (each - each.min()) / np.ptp(each), atol=1e-6)
        assert axes.images[1].get_extent() == [-0.5, 5.5, 7.5, -0.5]


def test_a_label_may_be_several():
    assert run_figures._numbers(np.int32(0)) == "0"
    assert run_figures._numbers(np.array([3, 1, -1])) == "3, 1"


def test_classes_of_a_batch_in_words():
    rows = np.eye(4)[[2, 0]]
    mixed = 0.75 * rows[0] + 0.25 * rows[1]
    assert run_figures._caption(rows[0]) == "2"
    assert run_figures._caption(mixed) == "75% 2 + 25% 0"
    assert run_figures._caption(np.zeros(0)) == ""


@pytest.mark.parametrize(
    ("devices", "batch_size", "expected"),
    [(1, 128, 32), (1, 8, 8), (8, 128, 32), (64, 128, 64), (12, 96, 36)],
)
def test_every_device_has_as_many_rows(devices, batch_size, expected):
    mesh = jax.sharding.AbstractMesh(
        (1, devices, 1, 1, 1), ("slices", "data", "fsdp", "tensor", "sequence")
    )
    assert run_figures.num_rows(mesh, batch_size, 32) == expected


def test_metrics_are_as_without(finished):
    folder, _ = finished
    steps = [row["step"] for row in metrics.read_rows(folder / "metrics.jsonl")]
    assert max(steps) == 4
