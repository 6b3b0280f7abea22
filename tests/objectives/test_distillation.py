"""Distillation: losses against numpy, who learns and who does not, the teacher's view."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models import tiny
from tests.objectives import classify, small
from tests.objectives.counting import product_flops
from vit_jax.models.flops import forward_flops
from vit_jax.objectives.base import merge, split
from vit_jax.objectives.distillation import Distillation, match_teacher
from vit_jax.objectives.supervised import Supervised
from vit_jax.objectives.teachers import STORED, Applied, Stored, Teacher, between

DEIT = dict(
    match="hard",
    alpha=0.3,
    temperature=1.0,
    token=True,
    loss="softmax",
    label_smoothing=0.1,
)
MATCHING = DEIT | dict(match="soft", alpha=1.0, temperature=2.0, token=False)


def distillation(settings=DEIT, *, student=None, teacher=None, **changes):
    heads = classify.HEADS if settings["token"] else {}
    return Distillation(
        encoder=student or classify.encoder(**heads),
        teacher=classify.encoder(seed=7) if teacher is None else teacher,
        **(settings | changes),
    )


def numpy_match(logits, taught, match, temperature):
    if match == "hard":
        choice = np.asarray(taught).argmax(-1)
        return -classify.log_softmax(logits)[np.arange(len(choice)), choice]
    p = np.exp(classify.log_softmax(np.asarray(taught, np.float64) / temperature))
    q = np.exp(classify.log_softmax(np.asarray(logits, np.float64) / temperature))
    return temperature**2 * (p * np.log(p / q)).sum(-1)


@pytest.mark.parametrize(
    ("match", "temperature"), [("hard", 1.0), ("soft", 1.0), ("soft", 3.0)]
)
def test_the_distance_is_that_of_numpy(match, temperature):
    logits, taught = np.random.default_rng(0).normal(size=(2, 5, 7)) * 3
    found = match_teacher(
        jnp.asarray(logits, jnp.float32),
        jnp.asarray(taught, jnp.float32),
        match=match,
        temperature=temperature,
    )
    expected = numpy_match(logits, taught, match, temperature)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_a_student_like_its_teacher_has_nothing_to_learn():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(5, 7)), jnp.float32)

    def distance(given):
        return match_teacher(given, logits, match="soft", temperature=3.0).mean()

    value, gradient = jax.value_and_grad(distance)(logits)
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    np.testing.assert_allclose(gradient, np.zeros((5, 7)), atol=1e-6)


@pytest.mark.parametrize("match", ["hard", "soft"])
def test_deit_teaches_the_token_and_labels_the_class(match):
    temperature = 1.0 if match == "hard" else 3.0
    objective = distillation(match=match, temperature=temperature)
    batch = classify.batch()
    loss, metrics = objective.loss(batch, key=None)
    model = objective.encoder
    tokens = model.tokens(batch["images"])
    class_logits = model.head(tokens[:, 0])
    token_logits = model.head_distillation(tokens[:, 1])
    taught = objective.teacher.model(batch["images"])
    labels = 0.9 * np.asarray(batch["labels"]) + 0.1 / 7
    of_labels = classify.softmax_loss(class_logits, labels).mean()
    of_teacher = numpy_match(token_logits, taught, match, temperature).mean()
    np.testing.assert_allclose(metrics["label_loss"], of_labels, rtol=1e-5)
    np.testing.assert_allclose(metrics["teacher_loss"], of_teacher, rtol=1e-5)
    np.testing.assert_allclose(loss, 0.7 * of_labels + 0.3 * of_teacher, rtol=1e-5)
    answer = np.asarray(class_logits + token_logits) / 2
    predicted = objective.predict(batch["images"])
    np.testing.assert_allclose(predicted["logits"], answer, rtol=1e-5, atol=1e-6)
    same = (answer.argmax(-1) == np.asarray(taught).argmax(-1)).mean()
    np.testing.assert_allclose(metrics["agreement"], same)


def test_function_matching_uses_no_label():
    objective, batch = distillation(MATCHING), classify.batch()
    loss, metrics = objective.loss(batch, key=None)
    logits = objective.encoder(batch["images"])
    taught = objective.teacher.model(batch["images"])
    expected = numpy_match(logits, taught, "soft", 2.0).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert "label_loss" not in metrics
    other, _ = objective.loss(batch | {"labels": batch["labels"][::-1]}, key=None)
    assert other == loss


@pytest.mark.parametrize("settings", [DEIT, MATCHING], ids=["deit", "matching"])
def test_every_layer_of_the_student_learns_and_nothing_of_the_teacher(settings):
    objective = distillation(settings)
    _, params, frozen = split(objective)
    assert params.keys() == {"encoder"} and frozen.keys() == {"teacher"}
    student, teacher = classify.gradients(objective, classify.batch())
    assert small.unreached(student) == []
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(teacher))
    assert jax.tree.structure(teacher) == jax.tree.structure(frozen)


@pytest.mark.parametrize("settings", [DEIT, MATCHING], ids=["deit", "matching"])
def test_a_handful_of_images_is_learned_by_heart(settings):
    objective = distillation(settings, label_smoothing=0.0)
    batch = classify.batch(rows=6)
    taught = objective.teacher(batch)
    batch["labels"] = jax.nn.one_hot(taught.argmax(-1), 7)
    losses, metrics = classify.by_heart(objective, batch)
    assert losses[-1] < 0.02 * losses[0]
    assert metrics["agreement"][-1] == metrics["accuracy"][-1] == 1.0


@pytest.mark.parametrize(
    ("settings", "grown"),
    [(DEIT, {}), (MATCHING, {"pool": "map"}), (MATCHING, {"unroll": 2})],
    ids=["deit", "map", "unrolled"],
)
def test_operations_are_the_products_of_the_program(settings, grown):
    heads = classify.HEADS if settings["token"] else {}
    student = classify.encoder(**heads, **grown)
    teacher = classify.encoder(seed=7, depth=3, width=16, num_heads=2, mlp_dim=56)
    objective = distillation(settings, student=student, teacher=teacher)
    graphdef, params, frozen = split(objective)
    batch = classify.batch(rows=1)

    def step(params, frozen, batch):
        def loss(params):
            return merge(graphdef, params, frozen).loss(batch, key=None)[0]

        return jax.grad(loss)(params)

    # With the gradient of the images, which the compiler leaves out.
    assert objective.train_flops() == product_flops(step, params, frozen, batch)
    assert objective.train_flops() == 3 * forward_flops(student) + forward_flops(
        teacher
    )


def test_a_teacher_of_another_size_and_normalisation_sees_the_same_image():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    scale, offset = between(mean=mean, std=std, other_mean=(0.5,), other_std=(0.25,))
    model = classify.encoder(seed=7, image_size=(8, 10))
    teacher = Teacher(model, image_size=(8, 10), scale=scale, offset=offset)
    pixels = np.random.default_rng(0).random((4, 12, 20, 3)).astype(np.float32)
    images = (pixels - np.array(mean)) / np.array(std)
    found = teacher({"images": jnp.asarray(images, jnp.float32)})
    resized = jax.image.resize(jnp.asarray(pixels), (4, 8, 10, 3), "bilinear")
    expected = model((resized - 0.5) / 0.25)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_any_function_teaches():
    batch = classify.batch()
    weights = np.random.default_rng(0).normal(size=(720, 7)).astype(np.float32)

    def linear(params, images):
        return images.reshape(len(images), -1) @ params["layer"]["w"] + params["b"]

    params = {"layer": {"w": jnp.asarray(weights)}, "b": jnp.arange(7.0)}
    taught = linear(params, batch["images"])
    expected = None
    for teacher in (
        lambda images: linear(params, images),
        Applied(linear, params),
        Stored(),
    ):
        objective = distillation(MATCHING, teacher=teacher)
        loss, _ = objective.loss(batch | {STORED: taught}, key=None)
        expected = loss if expected is None else expected
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        _, student, frozen = split(objective)
        assert student.keys() == {"encoder"}
        leaves = jax.tree.leaves(frozen)
        assert len(leaves) == (2 if isinstance(teacher, Applied) else 0)
    with pytest.raises(ValueError, match=r"no 'teacher_logits'; it has images, labels"):
        objective.loss(batch, key=None)


def test_a_patch_size_is_drawn_for_the_student_alone():
    changes = {"patch_size": (4, 4), "image_size": (12, 20), "patch_sizes": (2, 4)}
    student = classify.encoder(**changes, position="none")
    objective = distillation(MATCHING, student=student)
    batch = classify.batch()
    run = tiny.jit(lambda key: objective.loss(batch, key=key)[0])
    losses = {round(float(run(jax.random.key(seed))), 4) for seed in range(8)}
    assert len(losses) == 2
    assert round(float(objective.loss(batch, key=None)[0]), 4) in losses


def test_without_a_teacher_there_are_predictions_only():
    section = {"path": "", "dtype": "bfloat16"}
    objective = Distillation(encoder=classify.encoder(), teacher=section, **MATCHING)
    batch = classify.batch()
    supervised = Supervised(
        encoder=objective.encoder, loss="softmax", label_smoothing=0.0
    )
    np.testing.assert_array_equal(
        objective.predict(batch["images"])["logits"],
        supervised.predict(batch["images"])["logits"],
    )
    assert objective.train_flops() == supervised.train_flops()
    assert split(objective)[2] == {}
    with pytest.raises(ValueError, match="built without a teacher"):
        objective.loss(batch, key=None)
    with pytest.raises(TypeError, match="a Teacher or a function of images, got 3"):
        Distillation(encoder=objective.encoder, teacher=3, **MATCHING)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            DEIT | {"match": "harder"},
            "objective.match 'harder' is unknown; known: hard",
        ),
        (DEIT | {"alpha": 0.0}, r"objective.alpha must be in \(0, 1\], got 0.0"),
        (DEIT | {"temperature": 2.0}, "objective.temperature must be 1.0, got 2.0"),
        (MATCHING | {"temperature": 0.0}, "temperature must be finite and positive"),
        (DEIT | {"alpha": 1.0}, "the class head would learn nothing"),
        (MATCHING | {"token": True, "alpha": 0.5}, "must be 'head', not 'none'"),
    ],
)
def test_settings_that_exclude_each_other(settings, message):
    heads = classify.HEADS if settings["match"] != "soft" else {}
    with pytest.raises(ValueError, match=message):
        Distillation(encoder=classify.encoder(**heads), teacher=None, **settings)


def test_teachers_and_students_have_the_same_classes():
    objective = distillation(MATCHING, teacher=classify.encoder(num_classes=3))
    with pytest.raises(
        ValueError, match=r"logits are \(5, 3\), the student's \(5, 7\)"
    ):
        objective.loss(classify.batch(), key=None)


def test_a_module_that_teaches_keeps_its_parameters_apart():
    objective = distillation(MATCHING)
    assert isinstance(objective.teacher, Teacher)
    assert isinstance(objective.teacher.model, nnx.Module)
    _, params, frozen = split(objective)
    assert "head/kernel" in tiny.flatten(frozen["teacher"]["model"])
    assert not any("teacher" in path for path in tiny.flatten(params))
