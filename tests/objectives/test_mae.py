"""Masked autoencoder: against numpy, what it sees and trains, operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from tests.models import reference, tiny
from tests.objectives import small
from tests.objectives.counting import product_flops
from vit_jax.models.tokens import take
from vit_jax.objectives.base import merge
from vit_jax.objectives.masking import num_masked, random_shuffle

SECTION = base.mae(mask_rate=0.6, decoder_width=20, decoder_depth=2, decoder_heads=5)
KEY = jax.random.key(7)
CLS = {"cls_token": True, "pool": "cls"}


def mask_of(rows, patches=12, rate=0.6):
    """True where patches are hidden with KEY."""
    key = jax.random.split(KEY, 2)[0]
    mask = random_shuffle(key, rows, patches, num_masked(patches, rate))
    return np.asarray(mask.masked)


def numpy_patches(images):
    """Patches of 4 x 5 pixels, row by row."""
    images = np.asarray(images, np.float64)
    return np.stack(
        [
            images[:, y : y + 4, x : x + 5].reshape(len(images), -1)
            for y in range(0, 12, 4)
            for x in range(0, 20, 5)
        ],
        axis=1,
    )


def numpy_predictions(params, images, masked, *, cls):
    """Pixels of all patches, an image at a time and its patches in their order."""
    embedded = reference.embed(
        params["encoder"], images, patch_size=(4, 5), position="learned", cls_token=cls
    )
    decoder = reference.to_float64(params["decoder"])
    positions = reference.sincos2d_mae(3, 4, 20)
    predictions = []
    for tokens, hidden in zip(embedded, masked, strict=True):
        seen = tokens[int(cls) :][~hidden]
        encoded, _ = reference.encode(
            params["encoder"],
            np.concatenate([tokens[: int(cls)], seen])[None],
            num_heads=3,
        )
        encoded = reference.dense(encoded[0], decoder["embedding"])
        patches = np.zeros((12, 20))
        patches[hidden] = decoder["mask_token"][0, 0]
        patches[~hidden] = encoded[int(cls) :]
        full = np.concatenate([encoded[: int(cls)], patches + positions])[None]
        decoded, _ = reference.encode(decoder, full, num_heads=5)
        predictions.append(
            reference.dense(decoded[0, int(cls) :], decoder["prediction"])
        )
    return np.stack(predictions)


def numpy_loss(predicted, images, masked, *, norm):
    targets = numpy_patches(images)
    if norm:
        mean = targets.mean(-1, keepdims=True)
        variance = ((targets - mean) ** 2).sum(-1, keepdims=True) / 59
        targets = (targets - mean) / np.sqrt(variance + 1e-6)
    errors = [
        np.mean((predicted[row, patch] - targets[row, patch]) ** 2)
        for row, patch in np.argwhere(masked)
    ]
    return np.mean(errors)


@pytest.mark.parametrize(
    ("model", "norm"), [(CLS, True), ({}, False)], ids=["cls", "pixels"]
)
def test_the_loss_is_that_of_numpy(model, norm):
    section = SECTION.copy_and_resolve_references()
    section.norm_pixels = norm
    graphdef, params = small.filled(section, **model)
    images = tiny.images(batch=3)
    loss, metrics = tiny.jit(
        lambda params: small.loss_of(graphdef, params, images, KEY)
    )(params)
    masked = mask_of(3)
    predicted = numpy_predictions(params, images, masked, cls=bool(model))
    expected = numpy_loss(predicted, images, masked, norm=norm)
    assert metrics == {}
    # float32 through four blocks, as in the tests of encoder and decoder.
    np.testing.assert_allclose(loss, expected, rtol=2e-5)
    wrong = numpy_loss(predicted, images, ~masked, norm=norm)
    assert abs(wrong / expected - 1) > 1e-3  # it would notice


def test_only_visible_patches_are_seen():
    graphdef, params = small.filled(SECTION, **CLS)
    images, masked = tiny.images(batch=3), mask_of(3)
    hidden = masked.reshape(3, 3, 1, 4, 1, 1)
    grid = np.broadcast_to(hidden, (3, 3, 4, 4, 5, 1)).reshape(3, 12, 20, 1)
    changed = jnp.where(grid, images + 1.0, images)

    @tiny.jit
    def predict(images):
        return merge(graphdef, params, {})._run(images, KEY)[0]

    np.testing.assert_array_equal(predict(images), predict(changed))
    changed = images.at[0].add(jnp.where(grid[0], 0.0, 1.0))
    found = predict(changed)
    assert tiny.error(found[0], predict(images)[0]) > 1e-2
    np.testing.assert_array_equal(found[1:], predict(images)[1:])


def test_reconstructions():
    graphdef, params = small.filled(SECTION, **CLS)
    images, masked = tiny.images(batch=3), mask_of(3)
    found = tiny.jit(
        lambda params: merge(graphdef, params, {}).reconstruct(images, KEY)
    )(params)
    np.testing.assert_array_equal(found["images"], images)
    patches = numpy_patches(images)
    shown = numpy_patches(found["masked"])
    np.testing.assert_array_equal(shown[~masked], patches.astype(np.float32)[~masked])
    assert not shown[masked].any()
    predicted = numpy_predictions(params, images, masked, cls=True)
    spread = patches.std(-1, keepdims=True, ddof=1)
    expected = predicted * spread + patches.mean(-1, keepdims=True)
    painted = numpy_patches(found["reconstruction"])
    np.testing.assert_array_equal(painted[~masked], shown[~masked])
    assert tiny.error(painted[masked], expected[masked]) < 2e-5


def test_rotary_positions_are_those_of_the_visible_patches():
    # As in a whole grid of which the hidden patches may not be attended to.
    objective = small.make(SECTION, rope="axial", position="none", registers=2)
    encoder, masked = objective.encoder, mask_of(3)
    images = tiny.images(batch=3)

    @tiny.jit
    def run(images):
        key = jax.random.split(KEY, 2)[0]
        kept = random_shuffle(key, 3, 12, objective.num_masked).kept
        tokens = encoder.embed(images)
        seen = jnp.pad(~masked, ((0, 0), (2, 0)), constant_values=True)
        whole = encoder.encode(tokens, mask=seen[:, None, None])
        return take(whole, kept, 2), encoder.encode(take(tokens, kept, 2), indices=kept)

    whole, visible = run(images)
    assert tiny.error(visible, whole) < 2e-5


def test_every_parameter_gets_a_gradient():
    model = CLS | {"registers": 2}
    assert small.without_gradient(SECTION, tiny.images(batch=3), **model) == []


def test_overfits_a_handful_of_images():
    losses = small.overfit(SECTION, small.smooth_images(), steps=300, **CLS)
    assert losses[0] > 0.9
    # 59 / 60 is what the mean of each patch gives.
    assert losses[-20:].mean() < 0.1


def test_features_are_those_of_whole_images():
    objective = small.make(SECTION, **CLS)
    images = tiny.images()
    predicted, tokens = tiny.jit(
        lambda images: (objective.predict(images), objective.encoder.tokens(images))
    )(images)
    assert predicted.keys() == {"features"}
    np.testing.assert_array_equal(predicted["features"], tokens[:, 0])


def test_without_a_key_nothing_is_random():
    graphdef, params = small.filled(SECTION, dropout=0.5, depth=1)
    images = tiny.images()
    fixed = tiny.jit(lambda p: small.loss_of(graphdef, p, images, None)[0])
    drawn = tiny.jit(lambda p, key: small.loss_of(graphdef, p, images, key)[0])
    assert fixed(params) == fixed(params)
    losses = {float(drawn(params, jax.random.key(number))) for number in range(3)}
    assert len(losses | {float(fixed(params))}) == 4


@pytest.mark.parametrize("model", [CLS, {"mlp": "swiglu"}], ids=["cls", "swiglu"])
def test_operations_are_those_of_the_traced_program(model):
    objective = small.make(SECTION, **model)

    def run(images):
        return objective.loss({"images": images}, key=KEY)[0]

    for rows in (1, 3):
        counted = product_flops(run, tiny.images(batch=rows))
        assert objective.train_flops() == 3 * counted / rows


def test_hidden_patches_are_no_work_for_the_encoder():
    decoder = dict(decoder_width=4, decoder_depth=1, decoder_heads=1)
    few = small.make(base.mae(**decoder))
    many = small.make(base.mae(mask_rate=0.25, **decoder))
    assert (few.num_masked, many.num_masked) == (9, 3)
    assert few.train_flops() < 0.5 * many.train_flops()


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        ({"mask_rate": 1.0}, {}, r"mask_rate must be in \(0, 1\) and leave some of"),
        ({"mask_rate": 0.99}, {}, "leave some of the 12 patches, got 0.99"),
        ({"decoder_heads": 3}, {}, "decoder_heads 3 does not divide"),
        ({"decoder_depth": 0}, {}, "decoder_depth must be at least 1, got 0"),
        ({"decoder_width": 10}, {}, "decoder_width 10 must be a multiple of 4"),
        ({"decoder_position": "learnt"}, {}, "known: sincos2d_mae, learned"),
        ({}, {"num_classes": 7}, "num_classes is 7, but objective 'mae' trains no"),
        ({}, {"pool": "map"}, "model.pool is 'map'.*set it to 'gap'"),
        ({}, {"final_norm": "both"}, "model.final_norm is 'both'"),
        ({}, {"patch_dropout": 0.5}, "model.patch_dropout is 0.5.*one by one"),
        ({}, {"patch_sizes": (2,)}, r"model.patch_sizes is \(2,\)"),
    ],
    ids=str,
)
def test_what_cannot_be(changes, model, message):
    section = base.mae(**dict(SECTION) | changes)
    with pytest.raises(ValueError, match=message):
        small.filled(section, **model)


def test_images_of_another_size():
    objective = small.make(SECTION, dynamic_size=True)
    with pytest.raises(ValueError, match=r"images are \(12, 25\); masks are made for"):
        objective.loss({"images": tiny.images(image_size=(12, 25))}, key=None)
