"""Next-patch prediction: against numpy, causal, trainable, and what it draws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import base
from tests.models import reference, tiny
from tests.objectives import small
from tests.objectives.counting import product_flops
from vit_jax.objectives.autoregressive import prefix_mask

PATCHES = 12  # 3 x 4 of 4 x 5 pixels
MODEL = {"num_classes": 0, "position": "sincos2d_mae"}
FRONT = {"cls_token": True, "registers": 2}  # three tokens before the patches
DEPTH = 3


def section(**changes):
    """The objective's part of a config, with a tiny MLP."""
    sizes = {"decoder_width": 20, "decoder_depth": DEPTH}
    return base.autoregressive(**(sizes | changes))


def make(changes=(), **model):
    """make(key) -> objective."""
    return lambda key: small.build(section(**dict(changes)), key=key, **(MODEL | model))


@functools.cache
def built(changes=(), **model):
    """Structure and random parameters."""
    graphdef, shapes = tiny.shapes(make(changes, **model))
    return graphdef, tiny.fill(shapes)


def call(function, *arguments, changes=(), **model):
    """function(objective, *arguments), compiled."""
    graphdef, params = built(changes, **model)
    run = tiny.jit(lambda params, *rest: function(nnx.merge(graphdef, params), *rest))
    return jax.tree.map(np.asarray, run(params, *arguments))


# --- The numpy form: an image and a patch at a time, in float64.


def numpy_patches(image):
    """Flattened patches, row by row."""
    image = np.asarray(image, np.float64)
    patches = []
    for row in range(3):
        for column in range(4):
            patch = image[4 * row : 4 * row + 4, 5 * column : 5 * column + 5]
            patches.append(patch.reshape(-1))
    return patches


def numpy_targets(image, norm_pixels):
    patches = numpy_patches(image)
    if not norm_pixels:
        return patches
    return [
        (patch - patch.mean()) / math.sqrt(patch.var(ddof=1) + 1e-6)
        for patch in patches
    ]


def numpy_attention(tokens, params, seen):
    """Each query over the tokens that it may see, and no others."""
    result = []
    for query, keys in zip(tokens, seen, strict=True):
        row = reference.attention(
            query[None, None], tokens[keys][None], params, num_heads=3
        )
        result.append(row[0, 0])
    return np.stack(result)


def numpy_encode(params, tokens, seen):
    for layer in range(len(params["blocks"]["mlp_norm"]["scale"])):
        block = reference.select(params["blocks"], layer)
        normed = reference.layer_norm(tokens, block["attention_norm"])
        tokens = tokens + numpy_attention(normed, block["attention"], seen)
        normed = reference.layer_norm(tokens, block["mlp_norm"])
        tokens = tokens + reference.mlp(normed, block["mlp"])
    return reference.layer_norm(tokens, params["norm"])


def numpy_decode(params, token):
    x = reference.dense(token, params["embedding"])
    for layer in range(DEPTH):
        block = reference.select(params["blocks"], layer)
        x = x + reference.mlp(reference.layer_norm(x, block["norm"]), block["mlp"])
    return reference.dense(
        reference.layer_norm(x, params["norm"]), params["prediction"]
    )


def numpy_loss(params, images, prefixes, *, norm_pixels, front):
    params = reference.to_float64(params)
    encoder, errors = params["encoder"], []
    positions = reference.sincos2d_mae(3, 4, 24)
    for image, prefix in zip(images, prefixes, strict=True):
        patches = reference.embed(
            encoder,
            image[None],
            patch_size=(4, 5),
            position="sincos2d",
            cls_token=False,
            sincos="mae",
        )[0]
        before = [encoder["cls"][0], encoder["registers"][0]] if front else []
        tokens = np.concatenate([*before, patches])
        given = front + int(prefix)
        # A token sees those before it and itself, and all that are given.
        seen = [range(max(place + 1, given)) for place in range(len(tokens))]
        tokens = numpy_encode(encoder, tokens, seen)[front:] + positions
        targets = numpy_targets(image, norm_pixels)
        for number in range(int(prefix), PATCHES):
            predicted = numpy_decode(params["decoder"], tokens[number - 1])
            errors.append(np.mean((predicted - targets[number]) ** 2))
    return np.mean(errors)


@pytest.mark.parametrize(
    ("norm_pixels", "chunk", "model"),
    [(True, 0, {}), (False, 0, FRONT), (True, 5, FRONT)],
    ids=["plain", "pixels", "chunks"],
)
def test_the_loss_is_that_of_numpy(norm_pixels, chunk, model):
    changes = (("norm_pixels", norm_pixels), ("chunk", chunk))
    images, key = tiny.images(batch=4), jax.random.key(3)

    def run(objective, images):
        prefix = objective.draw_prefix(jax.random.split(key)[0], len(images))
        return objective.loss({"images": images}, key=key)[0], prefix

    loss, prefixes = call(run, images, changes=changes, **model)
    assert len(set(prefixes.tolist())) > 1
    _, params = built(changes, **model)
    expected = numpy_loss(
        params,
        np.asarray(images),
        prefixes,
        norm_pixels=norm_pixels,
        front=3 if model else 0,
    )
    # float32 through two blocks and the MLP, against float64.
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_the_mask_by_hand():
    mask = np.asarray(prefix_mask(jnp.array([1, 3]), 4))
    assert mask.shape == (2, 1, 4, 4)
    assert mask[0, 0].tolist() == np.tri(4, dtype=bool).tolist()
    assert mask[1, 0].astype(int).tolist() == [
        [1, 1, 1, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 1],
    ]


def test_prefixes_are_uniform_from_one_to_all_but_one():
    def draw(objective):
        rows = 11_000
        return objective.draw_prefix(jax.random.key(0), rows)

    counts = np.bincount(call(draw), minlength=PATCHES + 1)
    assert counts[0] == counts[PATCHES] == 0
    # 11 values of 1,000 draws each: 5 deviations of a binomial are 151.
    assert np.abs(counts[1:PATCHES] - 1000).max() < 151
    assert call(lambda one: one.draw_prefix(None, 3)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("model", [{}, FRONT], ids=["plain", "front"])
def test_no_prediction_depends_on_what_is_behind_it(model):
    """Bitwise: in row j of a batch patch j is another one, in the last row none is."""
    prefix = 5
    image = np.asarray(tiny.images(batch=1))[0]
    rows = np.stack([image] * (PATCHES + 1))
    for number in range(PATCHES):
        top, left = 4 * (number // 4), 5 * (number % 4)
        rows[number, top : top + 4, left : left + 5] += 3.0

    def run(objective, images):
        return objective.predict_next(images, jnp.full(len(images), prefix))

    predicted = call(run, jnp.asarray(rows), **model)
    changed = (predicted[:-1] != predicted[-1]).any(axis=-1)  # [patch, source]
    for number in range(PATCHES):
        for source in range(PATCHES - 1):  # which predicts patch source + 1
            sees = number <= source or (number < prefix)
            assert changed[number, source] == sees, (number, source)


def test_features_are_of_all_patches():
    """After training every patch sees all: the encoder's own bidirectional pass."""
    images = tiny.images()
    features = call(lambda one, images: one.predict(images), images)["features"]
    expected = call(lambda one, images: one.encoder(images), images)
    np.testing.assert_array_equal(features, expected)


def test_remat_unrolling_and_chunks_change_nothing():
    def grads(objective, images):
        graphdef, params = nnx.split(objective)

        def loss(params):
            merged = nnx.merge(graphdef, params)
            return merged.loss({"images": images}, key=jax.random.key(5))[0]

        return jax.value_and_grad(loss)(params)

    images = tiny.images(batch=3)
    expected = call(grads, images)
    changes, model = (("chunk", 4),), {"remat": "full", "unroll": 2}
    found = call(grads, images, changes=changes, **model)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    leaves = zip(*map(jax.tree.leaves, (found[1], expected[1])), strict=True)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected[1]))
    for left, right in leaves:  # the same sums in another order
        np.testing.assert_allclose(left, right, atol=2e-6 * scale)


def test_gradients_reach_every_parameter_of_every_layer():
    model = MODEL | FRONT
    assert small.without_gradient(section(), tiny.images(batch=4), **model) == []


def test_it_learns_a_handful_of_images_by_heart():
    """Four images, of which the first patch alone says what follows."""
    losses = small.overfit(
        section(decoder_width=40), small.smooth_images(), steps=150, **MODEL
    )
    # 1 is the error of predicting each patch's mean.
    assert 0.9 < losses[0] < 5.0
    assert losses[-10:].mean() < 0.05


# --- Pictures.


def test_forced_patches_are_drawn_with_the_true_mean_and_deviation():
    images = tiny.images(batch=2)
    prefix = 7

    def run(objective, images):
        given = jnp.full(len(images), prefix)
        return objective.forced(images, prefix), objective.predict_next(images, given)

    forced, predicted = call(run, images)
    for image, drawn, patches in zip(images, forced, predicted, strict=True):
        true, found = numpy_patches(image), numpy_patches(drawn)
        for number in range(PATCHES):
            expected = true[number]
            if number >= prefix:
                mean, std = expected.mean(), math.sqrt(expected.var(ddof=1) + 1e-6)
                expected = patches[number - 1] * std + mean
            np.testing.assert_allclose(found[number], expected, rtol=1e-4, atol=1e-5)


RAW = (("norm_pixels", False),)


def test_completions_are_made_patch_by_patch_from_what_was_made():
    """And from nothing else: the second image shares the first one's four patches."""
    prefix = 4
    images = np.array(tiny.images(batch=2))
    images[1, :4] = images[0, :4]

    def complete(objective, images):
        return objective.complete(images, prefix)

    completed = call(complete, jnp.asarray(images), changes=RAW)
    np.testing.assert_array_equal(completed[0], completed[1])
    np.testing.assert_array_equal(completed[:, :4], images[:, :4])

    graphdef, params = built(RAW)

    @tiny.jit
    def predict(params, images):
        given = jnp.full(len(images), prefix)
        return nnx.merge(graphdef, params).predict_next(images, given)

    canvas = images.copy()
    for number in range(prefix, PATCHES):
        top, left = 4 * (number // 4), 5 * (number % 4)
        patches = np.asarray(predict(params, jnp.asarray(canvas)))[:, number - 1]
        canvas[:, top : top + 4, left : left + 5] = patches.reshape(2, 4, 5, 3)
    np.testing.assert_allclose(completed, canvas, rtol=1e-4, atol=1e-5)
    assert (np.abs(completed - images)[:, 4:] > 1e-3).any()


def test_normalised_completions_borrow_mean_and_contrast_alone():
    """And go on from what was made, as those of plain pixels do."""
    prefix = 4
    images = np.array(tiny.images(batch=2))
    patches = np.stack([numpy_patches(image) for image in images])
    mean = patches.mean(axis=-1, keepdims=True)
    std = np.sqrt(patches.var(axis=-1, ddof=1, keepdims=True) + 1e-6)

    def complete(objective, images):
        return objective.complete(images, prefix, borrow=True)

    completed = call(complete, jnp.asarray(images))
    graphdef, params = built()

    @tiny.jit
    def predict(params, images):
        given = jnp.full(len(images), prefix)
        return nnx.merge(graphdef, params).predict_next(images, given)

    canvas = images.copy()
    canvas[:, 4:] = 7.0  # of patches that are not made yet nothing is used
    for number in range(prefix, PATCHES):
        top, left = 4 * (number // 4), 5 * (number % 4)
        made = np.asarray(predict(params, jnp.asarray(canvas)))[:, number - 1]
        made = made * std[:, number] + mean[:, number]
        canvas[:, top : top + 4, left : left + 5] = made.reshape(2, 4, 5, 3)
    np.testing.assert_allclose(completed, canvas, rtol=1e-4, atol=1e-5)
    # Other pixels of the same mean and contrast are the same to it.
    turned = images.copy()
    turned[:, 4:8, :5] = images[:, 4:8, :5][:, ::-1]
    again = call(complete, jnp.asarray(turned))
    np.testing.assert_allclose(again, completed, rtol=1e-4, atol=1e-5)


def test_noise_is_drawn_around_the_prediction():
    image, last = tiny.images(batch=1, seed=2), PATCHES - 1
    images = jnp.repeat(image, 400, axis=0)

    def run(objective, images):
        key = jax.random.key(7)
        return (
            objective.complete(images[:1], last),
            objective.complete(images, last, noise=0.5, key=key),
        )

    still, drawn = call(run, images, changes=RAW)
    difference = drawn - still
    assert not difference[:, :8].any()  # of three rows of patches the first two
    made = difference[:, 8:, 15:]
    # 400 x 60 draws: a deviation is known to 0.5 %, a mean to 0.003.
    assert made.std() == pytest.approx(0.5, rel=0.02)
    assert abs(made.mean()) < 0.015


def test_reconstructions_begin_with_what_is_given():
    images = tiny.images()

    def run(one, images):
        return one.reconstruct(images, jax.random.key(0))

    normed, raw = call(run, images), call(run, images, changes=RAW)
    for rows in (normed, raw):
        assert set(rows) == {"images", "masked", "reconstruction", "completion"}
        np.testing.assert_array_equal(rows["images"], images)
        for name, row in rows.items():
            found = [numpy_patches(image) for image in row]
            for image, patches in zip(images, found, strict=True):
                true = numpy_patches(image)
                np.testing.assert_allclose(patches[:6], true[:6], atol=1e-5)
                if name == "masked":
                    assert not np.any(patches[6:])


# --- Counting, and what is refused.


@pytest.mark.parametrize("depth", [0, 3])
@pytest.mark.parametrize("model", [{}, FRONT], ids=["plain", "front"])
def test_operations_are_those_of_the_program(model, depth):
    graphdef, params = tiny.shapes(make((("decoder_depth", depth),), **model))
    images = jax.ShapeDtypeStruct((1, 12, 20, 3), "float32")

    def loss(params, images):
        return nnx.merge(graphdef, params).loss({"images": images}, key=None)[0]

    forward = product_flops(loss, params, images)
    objective = nnx.eval_shape(
        lambda: make((("decoder_depth", depth),), **model)(jax.random.key(0))
    )
    assert objective.train_flops() == 3 * forward > 0


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        ({}, {"num_classes": 3}, "model.num_classes is 3"),
        ({}, {"pool": "map"}, "model.pool is 'map'"),
        ({}, {"patch_dropout": 0.5}, "model.patch_dropout is 0.5"),
        (
            {"decoder_depth": -1},
            {},
            "objective.decoder_depth must be at least 0, got -1",
        ),
        ({"decoder_width": 0}, {}, "objective.decoder_width must be at least 1, got 0"),
        ({"chunk": -2}, {}, "objective.chunk must be at least 0, got -2"),
        ({}, {"patch_size": (12, 20)}, "needs two patches or more"),
        ({}, {"patch_size": (1, 1), "channels": 1}, "patches of a single value"),
        (
            {},
            {"position": "learned", "width": 21},
            "model.width 21 must be a multiple of 4",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(changes, model, message):
    with pytest.raises(ValueError, match=message):
        nnx.eval_shape(lambda: make(changes.items(), **model)(jax.random.key(0)))


def test_pictures_that_cannot_be_drawn_are_refused():
    images = tiny.images()
    normed, raw = make()(jax.random.key(0)), make(RAW)(jax.random.key(0))
    for prefix in (0, 12):
        with pytest.raises(ValueError, match=f"1 to 11 of 12 patches, got {prefix}"):
            raw.complete(images, prefix)
        with pytest.raises(ValueError, match=f"1 to 11 of 12 patches, got {prefix}"):
            normed.forced(images, prefix)
    with pytest.raises(ValueError, match="no brightness to go on from"):
        normed.complete(images, 3)
    with pytest.raises(ValueError, match=r"noise of 0\.1 needs a key"):
        raw.complete(images, 3, noise=0.1)
