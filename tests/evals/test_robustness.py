"""Robustness sets by name, on small sets like those of TFDS: which guess is right."""

import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_generated_pb2

from tests import training
from tests.evals import imagenet_like, small
from vit_jax import config as configs
from vit_jax import setup, setup_evals, sharding
from vit_jax.config import ConfigError
from vit_jax.config_file import shipped_base
from vit_jax.data import sources
from vit_jax.data.errors import DataError
from vit_jax.evals.class_maps import chosen_classes
from vit_jax.objectives.base import split as take_apart
from vit_jax.train_state import TrainState

SIZE = 21
CONFIG = """
from configs import base

def get_config(arg=None):
    config = base.get_config()
    config.model.variant = "mu/2"
    config.model.image_size = (4, 4)
    config.model.channels = 1
    config.data.name = "imagenet2012"
    config.data.mean = (0.4,)
    config.data.std = (0.3,)
    config.train.batch_size = 16
    config.evals = {name: base.robustness(name, resize=0) for name in base.robustness_sets()}
    config.checkpoint.best = "imagenet_a/accuracy"
    return config
"""


class Thousand(small.Linear):
    """Logits of 1,000 classes from the pixels of 4 x 4."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(11)
        head = rng.normal(size=(small.WIDTH, 1000))
        self.head.set_value(jax.numpy.asarray(head, "float32"))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (SIZE, 4, 4), np.uint8)


@pytest.fixture(scope="module")
def logits(images):
    _, params, _ = take_apart(Thousand())
    return small.features(images) @ np.asarray(params["head"], np.float64)


@pytest.fixture
def made(tmp_path):
    """Builds and runs an evaluation of the config by name; a data directory."""
    imagenet_like.write(tmp_path, "imagenet2012", "train", [])
    file = tmp_path / "configs" / "trial.py"
    file.parent.mkdir()
    file.write_text(CONFIG)

    def run(name, devices=8, **changes):
        texts = [f"evals.{name}.{key}={value}" for key, value in changes.items()]
        overrides = [f"--config.{text}" for text in (f"data.dir={tmp_path}", *texts)]
        config = configs.load(str(file), overrides)
        config.model.num_classes = 1000
        mesh = small.mesh(devices)
        graphdef, params, frozen = take_apart(Thousand())
        nothing = TrainState(step=0, params={}, opt_state=(), ema={})
        parts = setup.Parts(mesh, graphdef, nothing, {}, print, None, None, None, 0)
        evaluator = setup_evals.build_evaluator(config, name, parts=parts)
        params = jax.device_put(params, sharding.replicated(mesh))
        try:
            with jax.set_mesh(mesh):
                return evaluator.run(params, frozen)
        finally:
            evaluator.close()

    return types.SimpleNamespace(run=run, root=tmp_path, file=file)


def examples(images, labels, key="label"):
    return [
        {"image": image, key: label}
        for image, label in zip(images, labels, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "data", "config", "classes"),
    [
        ("imagenet_v2", "imagenet_v2", "matched-frequency", 1000),
        ("imagenet_a", "imagenet_a", "", 200),
        ("imagenet_r", "imagenet_r", "", 200),
        ("imagenet_sketch", "imagenet_sketch", "", 1000),
    ],
)
def test_guesses_are_among_the_classes_of_the_set(
    made, images, logits, name, data, config, classes
):
    allowed = np.arange(1000)
    if classes == 200:
        allowed = np.flatnonzero(chosen_classes(name, 1000, None, allowed))
    order = allowed[np.argsort(-logits[:, allowed], axis=1)]
    # The first guesses of eight images, the third of eight, and others.
    labels = np.concatenate([order[:8, 0], order[8:16, 2], order[16:, 100]])
    # Those that a guess among all classes would get wrong.
    among_all = (logits.argmax(axis=1) == labels).mean()
    assert (among_all < 8 / SIZE) == (classes == 200)
    imagenet_like.write(
        made.root, data, "test", examples(images, labels), config=config
    )
    result = made.run(name)
    chosen = logits[:, allowed]
    chance = np.exp(chosen) / np.exp(chosen).sum(axis=1, keepdims=True)
    own = chance[np.arange(SIZE), np.searchsorted(allowed, labels)]
    assert result["accuracy"] == 8 / SIZE
    assert result["top5"] == 16 / SIZE
    assert result["examples"] == SIZE
    assert result["loss"] == pytest.approx(-np.log(own).mean(), rel=1e-5)
    hits = np.arange(SIZE) < 8
    rates = [hits[labels == label].mean() for label in np.unique(labels)]
    assert result["class_accuracy"] == pytest.approx(np.mean(rates), abs=1e-12)


def test_real_has_sets_of_right_classes(made, images, logits):
    order = np.argsort(-logits, axis=1)
    sets = [[int(row[0]), int(row[50])] for row in order]
    for number in (3, 11, 20):
        sets[number] = []  # left out
    for number in (4, 5):
        sets[number] = order[number, [9, 2, 30]].tolist()  # right among the first five
    sets[6] = order[6, [9]].tolist()  # wrong
    imagenet_like.write(
        made.root,
        "imagenet2012_real",
        "validation",
        examples(images, sets, key="real_label"),
    )
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    loss = np.mean(
        [-np.log(chance[n, labels].sum()) for n, labels in enumerate(sets) if labels]
    )
    for devices in (1, 8):
        result = made.run("imagenet_real", devices)
        assert result["examples"] == 18
        assert result["accuracy"] == 15 / 18
        assert result["top5"] == 17 / 18
        assert result["loss"] == pytest.approx(loss, rel=1e-5)
        assert "class_accuracy" not in result


def test_a_set_without_any_label(made, images):
    sets = examples(images, [[]] * SIZE, key="real_label")
    imagenet_like.write(made.root, "imagenet2012_real", "validation", sets)
    with pytest.raises(DataError, match="'validation' has a label"):
        made.run("imagenet_real")


def test_labels_outside_the_subset(made, images):
    labels = [
        *np.flatnonzero(chosen_classes("imagenet_a", 1000, None, np.arange(1000)))
    ]
    labels = [*labels[: SIZE - 2], 0, 1]  # tench and goldfish are not in ImageNet-A
    imagenet_like.write(made.root, "imagenet_a", "test", examples(images, labels))
    with pytest.raises(DataError, match="2 labels of imagenet_a 'test' are not among"):
        made.run("imagenet_a")


def test_a_set_that_is_not_prepared_is_said_before_anything_runs(made, images):
    imagenet_like.write(
        made.root, "imagenet_sketch", "test", examples(images, range(SIZE))
    )
    config = configs.load(str(made.file), [f"--config.data.dir={made.root}"])
    with pytest.raises(ConfigError) as caught:
        setup.describe_data(config)
    text = str(caught.value)
    assert (
        "evals.imagenet_r: data set 'imagenet_r' is not prepared in "
        f"{made.root}; run: vit-jax prepare imagenet_r --data_dir={made.root}" in text
    )
    assert "evals.imagenet_sketch" not in text


def test_an_unknown_set():
    with pytest.raises(ValueError, match="'imagenet_z' is unknown; known: imagenet_v2"):
        shipped_base().robustness("imagenet_z")


def test_a_set_of_one_label_an_example_has_not_many(made):
    with pytest.raises(
        DataError, match="in ArrayRecord, such as imagenet2012_real, and from arrays"
    ):
        made.run("imagenet_real", data="synthetic:99")


SERIALISE = """
import sys
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.datasets.imagenet2012 import imagenet_common

names = imagenet_common.label_names_file()
one = tfds.features.ClassLabel(names_file=names)
features = tfds.features.FeaturesDict({
    "image": tfds.features.Image(shape=(4, 4, 3)),
    "original_label": one,
    "real_label": tfds.features.Sequence(tfds.features.ClassLabel(names_file=names)),
})
features.save_config(sys.argv[1])
features.save_metadata(sys.argv[1], feature_name=None)
image = np.zeros((4, 4, 3), np.uint8)
for number, labels in enumerate(([3, 999], [])):
    example = {"image": image, "original_label": 3, "real_label": labels}
    record = features.serialize_example(features.encode_example(example))
    with open(f"{sys.argv[1]}/{number}", "wb") as file:
        file.write(record)
"""


@pytest.mark.slow
def test_the_sets_here_are_like_those_of_tfds(tmp_path):
    subprocess.run(
        [sys.executable, "-c", SERIALISE, str(tmp_path)],
        env=training.environment(),
        check=True,
        capture_output=True,
    )
    example = {"image": np.zeros((4, 4, 3), np.uint8), "original_label": 3}
    made = tmp_path / "made"
    imagenet_like.write(made, "x", "test", [example | {"real_label": [3, 999]}])
    folder = made / "x" / "1.0.0"
    for name in ("original_label.labels.txt", "real_label.labels.txt"):
        assert (folder / name).read_text().split() == (
            (tmp_path / name).read_text().split()
        )
    described = sources.describe(
        sources.DataSpec("x", dir=str(made), label_key="real_label")
    )
    assert described.num_classes == 1000

    def parsed(record):
        fields = tf_example_generated_pb2.Example.FromString(record).features.feature
        return {key: list(fields[key].int64_list.value) for key in sorted(fields)}

    for number, labels in enumerate(([3, 999], [])):
        ours = imagenet_like.record(example | {"real_label": labels})
        assert parsed((tmp_path / str(number)).read_bytes()) == parsed(ours)
