"""Masked patch prediction and SimMIM: against numpy, corruption, operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from tests.models import reference, tiny
from tests.objectives import small
from tests.objectives.counting import product_flops
from vit_jax.objectives import masked_patch
from vit_jax.objectives.base import merge

KEY = jax.random.key(7)
CLS = {"cls_token": True, "pool": "cls"}
# Patches of 4 x 8 on a grid of 4 x 3, hidden in squares of 8 x 8: two rows of them.
BLOCKS = {"image_size": (16, 24), "patch_size": (4, 8)}
SIMMIM = {
    "target": "pixels_l1",
    "mask_rate": 0.6,
    "mask_unit": 8,
    "hidden_rate": 1.0,
    "swapped_rate": 0.0,
}
CASES = {
    "mean_colour": (base.masked_patch(), CLS),
    "colours_4x4": (base.masked_patch(target="colours_4x4"), BLOCKS),
    "pixels_l2": (base.masked_patch(target="pixels_l2"), {}),
    "simmim": (base.masked_patch(**SIMMIM), BLOCKS | CLS),
}


def patches_of(array, size):
    """Patches, row by row."""
    array, (height, width) = np.asarray(array, np.float64), size
    return np.stack(
        [
            array[:, y : y + height, x : x + width].reshape(len(array), -1)
            for y in range(0, array.shape[1], height)
            for x in range(0, array.shape[2], width)
        ],
        axis=1,
    )


def drawn(section, model, rows):
    """What happens to each patch with KEY: "", "hidden", "kept", or one that it gets.

    Learned from what corruption makes of embeddings that are the patches' numbers.
    """
    objective = small.make(section, **model)
    number = objective.num_patches
    key = jax.random.split(KEY, 2)[0]
    masked = objective._mask(key, rows)
    width = objective.encoder.width
    objective.mask_token[...] = jnp.full((1, 1, width), -1.0)
    marks = jnp.broadcast_to(jnp.arange(number)[:, None] * 1.0, (rows, number, width))
    marks = objective._corrupt(marks, masked, key)
    return np.asarray(masked), np.asarray(marks)[:, :, 0].astype(int)


def numpy_tokens(params, images, marks, model):
    """Encoded patches of images, corrupted as drawn."""
    model = small.MODEL | model
    cls = model["cls_token"]
    encoder = reference.to_float64(params["encoder"])
    kernel, bias = encoder["embedding"].values()
    if kernel.ndim == 1:
        kernel, bias = bias, kernel
    plain = patches_of(images, model["patch_size"])
    embedded = plain @ kernel.reshape(-1, kernel.shape[-1]) + bias
    corrupted = embedded.copy()
    for row, patch in np.ndindex(marks.shape):
        mark = marks[row, patch]
        corrupted[row, patch] = (
            params["mask_token"][0, 0] if mark == -1 else embedded[row, mark]
        )
    tokens = corrupted + encoder["position_embedding"]
    if cls:
        first = np.repeat(encoder["cls"], len(tokens), axis=0)
        tokens = np.concatenate([first, tokens], axis=1)
    return reference.encode(encoder, tokens, num_heads=3)[0][:, int(cls) :]


def numpy_loss(params, images, masked, marks, section, model):
    """Loss and accuracy over the corrupted patches, one at a time."""
    size = (small.MODEL | model)["patch_size"]
    tokens = numpy_tokens(params, images, marks, model)
    outputs = reference.dense(tokens, reference.to_float64(params["prediction"]))
    patches = patches_of(images, size)
    losses, correct = [], []
    for row, patch in np.argwhere(masked):
        out, pixels = outputs[row, patch], patches[row, patch]
        if section.target == "pixels_l1":
            losses.append(abs(out - pixels).mean())
        elif section.target == "pixels_l2":
            losses.append(((out - pixels) ** 2).mean())
        else:
            side = 4 if section.target == "colours_4x4" else 1
            for part, logits in enumerate(out.reshape(side * side, 512)):
                block = pixels.reshape(side, size[0] // side, side, size[1] // side, 3)
                color = block[part // side, :, part % side].mean((0, 1))
                levels = np.clip((color / 2 + 0.5) * 255 // 32, 0, 7)
                code = int(levels @ [64, 8, 1])
                log_p = logits - np.log(np.exp(logits - logits.max()).sum())
                losses.append(logits.max() - log_p[code])
                correct.append(logits.argmax() == code)
    return np.mean(losses), np.mean(correct) if correct else None


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_that_of_numpy(name):
    section, model = CASES[name]
    graphdef, params = small.filled(section, **model)
    images = tiny.images(batch=3, **model)
    masked, marks = drawn(section, model, 3)
    loss, metrics = tiny.jit(
        lambda params: small.loss_of(graphdef, params, images, KEY)
    )(params)
    expected, accuracy = numpy_loss(params, images, masked, marks, section, model)
    # float32 through two blocks, as in the tests of the encoder.
    np.testing.assert_allclose(loss, expected, rtol=2e-5)
    if accuracy is None:
        assert metrics == {}
    else:
        np.testing.assert_allclose(metrics["colour_accuracy"], accuracy, atol=1e-6)
    wrong, _ = numpy_loss(params, images, ~masked, marks, section, model)
    assert abs(wrong / expected - 1) > 1e-3  # it would notice


def test_the_shares_of_corruption():
    masked, marks = drawn(base.masked_patch(), {}, 1000)
    assert (masked.sum(axis=1) == 6).all()  # half of 12
    own = marks == np.arange(12)
    assert own[~masked].all()
    hidden = (marks == -1)[masked]
    kept = own[masked]
    swapped = ~hidden & ~kept
    for share, found in ((0.8, hidden), (0.1, swapped), (0.1, kept)):
        # Five standard deviations of 6,000 draws.
        assert abs(found.mean() - share) < 5 * (share * (1 - share) / 6000) ** 0.5
    # Every other patch, and never the patch itself: a step of 1 to 11.
    steps = ((marks - np.arange(12)) % 12)[masked][swapped]
    assert set(steps) == set(range(1, 12))
    masked, marks = drawn(base.masked_patch(hidden_rate=0.0, swapped_rate=0.0), {}, 5)
    assert (marks == np.arange(12)).all() and masked.any()


def test_simmim_hides_whole_squares():
    section, model = CASES["simmim"]
    masked, marks = drawn(section, model, 20)
    np.testing.assert_array_equal(marks == -1, masked)
    grid = masked.reshape(20, 2, 2, 3)  # squares of 2 x 1 patches
    assert (grid[:, :, 0] == grid[:, :, 1]).all()
    assert (masked.sum(axis=1) == 2 * 4).all()  # 6 squares, ceil(3.6) hidden


def test_many_logits_are_computed_in_chunks(monkeypatch):
    section, model = CASES["colours_4x4"]
    objective = small.make(section, **model)
    images = tiny.images(batch=2, **model)

    def run():
        return tiny.jit(lambda: objective.loss({"images": images}, key=KEY))()

    whole = run()
    sizes = []
    plain = objective._outputs

    def watched(tokens):
        sizes.append(tokens.shape[1])
        return plain(tokens)

    monkeypatch.setattr(type(objective), "_outputs", staticmethod(watched))
    monkeypatch.setattr(masked_patch, "_OUTPUTS", 16 * 512 * 2)
    chunked = run()
    assert set(sizes) == {2}  # patches of an image at a time
    np.testing.assert_allclose(chunked[0], whole[0], rtol=1e-6)
    assert chunked[1] == whole[1]


@pytest.mark.parametrize("name", ["mean_colour", "simmim"])
def test_every_parameter_gets_a_gradient(name):
    section, model = CASES[name]
    images = tiny.images(batch=3, **model)
    assert small.without_gradient(section, images, **model) == []


@pytest.mark.parametrize(
    ("name", "left"),
    [("mean_colour", 0.1), pytest.param("simmim", 0.25, marks=pytest.mark.slow)],
)
def test_overfits_a_handful_of_images(name, left):
    section, model = CASES[name]
    if name == "simmim":
        model = CLS | {"image_size": (24, 24), "patch_size": (4, 4)}
    images = small.smooth_images(size=model.get("image_size", (12, 20)))
    losses = small.overfit(section, images, steps=300, **model)
    assert losses[-20:].mean() < left * losses[:3].mean()


@pytest.mark.parametrize("name", ["colours_4x4", "simmim"])
def test_reconstructions(name):
    section, model = CASES[name]
    graphdef, params = small.filled(section, **model)
    images = tiny.images(batch=2, **model)
    found = tiny.jit(
        lambda params: merge(graphdef, params, {}).reconstruct(images, KEY)
    )(params)
    masked = np.asarray(small.make(section, **model)._mask(KEY, 2))
    size = (small.MODEL | model)["patch_size"]
    np.testing.assert_array_equal(found["images"], images)
    shown, painted, plain = (
        patches_of(found[name], size) for name in ("masked", "reconstruction", "images")
    )
    assert not shown[masked].any()
    np.testing.assert_array_equal(shown[~masked], plain[~masked])
    np.testing.assert_array_equal(painted[~masked], plain[~masked])
    marks = np.where(masked, -1, np.arange(masked.shape[1]))
    tokens = numpy_tokens(params, images, marks, model)
    outputs = reference.dense(tokens, reference.to_float64(params["prediction"]))
    for row, patch in np.argwhere(masked):
        expected = outputs[row, patch]
        if name == "colours_4x4":
            codes = expected.reshape(4, 4, 512).argmax(-1)
            levels = codes[..., None] // [64, 8, 1] % 8
            colors = ((levels + 0.5) * 32 / 255 - 0.5) / 0.5
            expected = colors.repeat(1, axis=0).repeat(2, axis=1)
        np.testing.assert_allclose(
            painted[row, patch], expected.reshape(-1), rtol=1e-4, atol=1e-5
        )


def test_features_are_those_of_whole_images():
    objective = small.make(base.masked_patch())
    predicted, tokens = tiny.jit(
        lambda images: (objective.predict(images), objective.encoder.tokens(images))
    )(tiny.images())
    assert predicted.keys() == {"features"}
    np.testing.assert_allclose(predicted["features"], tokens.mean(axis=1), rtol=1e-5)


def test_without_a_key_nothing_is_random():
    graphdef, params = small.filled(base.masked_patch(), dropout=0.5, depth=1)
    images = tiny.images()
    fixed = tiny.jit(lambda p: small.loss_of(graphdef, p, images, None)[0])
    drawn = tiny.jit(lambda p, key: small.loss_of(graphdef, p, images, key)[0])
    assert fixed(params) == fixed(params)
    losses = {float(drawn(params, jax.random.key(number))) for number in range(3)}
    assert len(losses | {float(fixed(params))}) == 4


@pytest.mark.parametrize("name", CASES)
def test_operations_are_those_of_the_traced_program(name):
    section, model = CASES[name]
    objective = small.make(section, **model)

    def run(images):
        return objective.loss({"images": images}, key=KEY)[0]

    counted = product_flops(run, tiny.images(batch=3, **model))
    assert objective.train_flops() == 3 * counted / 3


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        ({"target": "mean"}, {}, "known: mean_colour, colours_4x4, pixels_l2, pix"),
        ({"target": "colours_4x4"}, {}, r"sides are multiples of 4, got \(4, 5\)"),
        ({"hidden_rate": 0.95}, {}, "together at most 1"),
        ({"swapped_rate": -0.1}, {}, "each at least 0"),
        ({"mask_rate": 0.0}, {}, r"mask_rate must be in \(0, 1\)"),
        ({"mask_unit": 8}, {}, "mask_unit 8 must be a multiple of the patch size"),
        ({"mask_unit": 8, "mask_rate": 0.9}, BLOCKS, "6 squares of 8 pixels, got 0.9"),
        ({}, {"pre_logits": 5}, "model.pre_logits is 5, but objective 'masked_patch'"),
    ],
    ids=str,
)
def test_what_cannot_be(changes, model, message):
    with pytest.raises(ValueError, match=message):
        small.filled(base.masked_patch(**changes), **model)
