"""Images of other sizes, other patches, a stem in front, and fewer tokens."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models import options, reference_options, tiny
from vit_jax.models.resample import pi_resize, resize_positions

TOLERANCE = 1e-5
BIG = {"image_size": (20, 30)}  # grid 5 x 6 instead of 3 x 4


@pytest.fixture(autouse=True)
def highest_precision():
    """Full float32 products on devices whose default is shorter."""
    with jax.default_matmul_precision("highest"):
        yield


@functools.cache
def made(**changes):
    graphdef, shapes = tiny.vit_shapes(**changes)
    return graphdef, tiny.fill(shapes)


def model(**changes):
    graphdef, params = made(**changes)
    return nnx.merge(graphdef, jax.tree.map(jnp.asarray, params))


def call(function, *arguments, **changes):
    """function(model, *arguments), jitted."""
    graphdef, params = made(**changes)
    run = tiny.jit(lambda params, *rest: function(nnx.merge(graphdef, params), *rest))
    return jax.tree.map(np.asarray, run(params, *arguments))


# Other image sizes.


@pytest.mark.parametrize(
    "changes",
    [
        {"position": "sincos2d_mae", "rope": "dinov3"},
        {"position": "sincos2d", "rope": "axial"},
        {"position": "learned"},
        {"position": "learned_prefix", "rope": "axial"},
    ],
    ids=str,
)
def test_another_size_is_that_of_a_model_built_for_it(changes):
    changes = changes | options.PREFIX
    images = tiny.images(**BIG)
    logits = call(lambda m, x: m(x), images, **changes, dynamic_size=True)
    params = dict(made(**changes)[1])
    if "position_embedding" in params:
        params["position_embedding"] = np.asarray(
            resize_positions(params["position_embedding"], (3, 4), (5, 6))
        )
    wanted = reference_options.forward(params, images, tiny.settings(**changes, **BIG))
    assert tiny.error(logits, wanted["logits"]) < TOLERANCE


def test_its_own_size_is_unchanged_by_dynamic_size():
    images = tiny.images()
    fixed = call(lambda m, x: m(x), images)
    np.testing.assert_array_equal(
        call(lambda m, x: m(x), images, dynamic_size=True), fixed
    )


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"images are \(20, 30, 3\).*\(12, 20, 3\)"):
        model().embed(tiny.images(**BIG))
    dynamic = model(dynamic_size=True)
    with pytest.raises(ValueError, match=r"\(4, 5\) does not divide .*\(20, 31\)"):
        dynamic(tiny.images(image_size=(20, 31)))
    with pytest.raises(ValueError, match=r"images are \(12, 20, 1\)"):
        dynamic(tiny.images(channels=1))


def test_rope_must_know_where_patches_are():
    rotary = model(rope="axial", position="none", dynamic_size=True)
    tokens = rotary.embed(tiny.images(**BIG))
    with pytest.raises(ValueError, match="30 patch tokens, but 12 places"):
        rotary.encode(tokens)
    assert rotary.encode(tokens, grid=(5, 6)).shape == (2, 30, 24)


@pytest.mark.parametrize("rope", ["axial", "dinov3"])
def test_indices_say_which_patches_are_left(rope):
    # Patches that nobody may attend to are as good as absent.
    changes = {"rope": rope, **options.PREFIX}
    kept = np.stack([[0, 3, 4, 7, 11], [1, 2, 8, 9, 10]])
    images = tiny.images()

    def some(m, images, kept):
        tokens = m.embed(images)
        patches = jnp.take_along_axis(tokens[:, 3:], kept[:, :, None], axis=1)
        tokens = jnp.concatenate([tokens[:, :3], patches], axis=1)
        return m.encode(tokens, indices=kept)

    def masked(m, images, mask):
        return m.encode(m.embed(images), mask=mask)

    seen = np.zeros((2, 1, 1, 15), bool)
    seen[..., :3] = True
    for row in range(2):
        seen[row, ..., 3 + kept[row]] = True
    wanted = call(masked, images, np.broadcast_to(seen, (2, 1, 15, 15)), **changes)
    got = call(some, images, kept, **changes)
    for row in range(2):
        places = [0, 1, 2, *(3 + kept[row])]
        assert tiny.error(got[row], wanted[row, places]) < TOLERANCE


# Other patch sizes.


def test_resized_patches_are_those_of_a_resized_kernel():
    images = tiny.images(**BIG)
    tokens = call(lambda m, x: m.embed(x, patch_size=(10, 10)), images, **BIG)
    params = dict(made(**BIG)[1])
    kernel = pi_resize(params["embedding"]["kernel"], (10, 10))
    params["embedding"] = params["embedding"] | {"kernel": np.asarray(kernel)}
    params["position_embedding"] = np.asarray(
        resize_positions(params["position_embedding"], (5, 6), (2, 3))
    )
    settings = tiny.settings(**BIG, patch_size=(10, 10))
    wanted = reference_options.forward(params, images, settings)
    assert tiny.error(tokens, wanted["embedded"]) < TOLERANCE


FLEXIBLE = {"image_size": (12, 24), "patch_size": (4, 4), "patch_sizes": (2, 4, 6)}


@pytest.mark.parametrize("extra", [{}, {"rope": "axial", **options.PREFIX}], ids=str)
def test_a_key_draws_a_patch_size(extra):
    changes, images = FLEXIBLE | extra, tiny.images(**FLEXIBLE)

    def with_patches(m, images):
        return jnp.stack(
            [
                m.logits(m.tokens(images, patch_size=(side, side)))
                for side in FLEXIBLE["patch_sizes"]
            ]
        )

    sizes = call(with_patches, images, **changes)
    keys = jax.random.split(jax.random.key(0), 48)
    drawn = call(
        lambda m, x, keys: jax.lax.map(lambda key: m(x, key=key), keys),
        images,
        keys,
        **changes,
    )
    errors = np.abs(drawn[:, None] - sizes).max(axis=(2, 3))  # [keys, sizes]
    assert errors.min(axis=1).max() < 1e-4
    counts = np.bincount(errors.argmin(axis=1), minlength=3)
    assert (counts > 6).all(), counts  # of 16 expected each
    np.testing.assert_allclose(
        call(lambda m, x: m(x), images, **changes), sizes[1], rtol=1e-5, atol=1e-5
    )


def test_drawn_patch_sizes_have_gradients():
    graphdef, params = made(**FLEXIBLE)

    def loss(params, key):
        return jnp.sum(nnx.merge(graphdef, params)(tiny.images(**FLEXIBLE), key=key))

    grads = tiny.flatten(tiny.jit(jax.grad(loss))(params, jax.random.key(1)))
    for path in ("embedding/kernel", "position_embedding", "blocks/mlp/out/kernel"):
        assert np.abs(grads[path]).max() > 1e-3


# A stem.

HYBRID = {"stem": (1, 1), "patch_size": (16, 8), "image_size": (32, 24)}


def test_a_hybrid_cuts_its_stems_output_into_patches():
    # A stride of 8: patches of 2 x 1 of the stem's 4 x 3 positions.
    images = tiny.images(**HYBRID)
    found = call(lambda m, x: (m.stem(x), m(x)), images, **HYBRID)
    features, logits = found
    assert features.shape == (2, 4, 3, 512)
    _, params = made(**HYBRID)
    assert params["embedding"]["kernel"].shape == (2, 1, 512, 24)
    assert params["position_embedding"].shape == (1, 6, 24)
    settings = tiny.settings(patch_size=(2, 1))
    wanted = reference_options.forward(params, features, settings)
    assert tiny.error(logits, wanted["logits"]) < TOLERANCE


def test_a_hybrid_has_one_patch_size():
    with pytest.raises(ValueError, match=r"\(8, 8\) is not available.*\(16, 8\)"):
        model(**HYBRID).embed(tiny.images(**HYBRID), patch_size=(8, 8))


# Patch dropout.

DROPPED = {"patch_dropout": 0.4, **options.PREFIX}  # int(12 * 0.6) = 7 of 12 stay


@pytest.mark.parametrize(("rate", "kept"), [(0.4, 7), (0.9, 1), (0.99, 1), (0.0, 12)])
def test_the_prefix_and_a_share_of_the_patches_are_kept(rate, kept):
    changes = options.PREFIX | {"patch_dropout": rate}
    graphdef, params = made(**changes)
    images = tiny.images()

    def count(key):
        return nnx.merge(graphdef, params).tokens(images, key=key)

    assert jax.eval_shape(count, jax.random.key(0)).shape == (2, 3 + kept, 24)
    assert jax.eval_shape(count, None).shape == (2, 15, 24)


@pytest.mark.parametrize("rope", ["none", "axial"])
def test_kept_patches_are_a_random_subset_in_order(rope):
    # Blocks that add nothing show which tokens went through; with other parameters the
    # result is that of these tokens at their places.
    changes = DROPPED | {"rope": rope}
    graphdef, params = made(**changes)
    still = dict(params, blocks=jax.tree.map(np.zeros_like, params["blocks"]))
    images, key = tiny.images(batch=16), jax.random.key(3)

    @tiny.jit
    def run(params, key, indices):
        m = nnx.merge(graphdef, params)
        tokens = m.embed(images)
        if indices is not None:
            patches = jnp.take_along_axis(tokens[:, 3:], indices[:, :, None], axis=1)
            tokens = jnp.concatenate([tokens[:, :3], patches], axis=1)
        return m.encode(tokens, key=key, indices=indices)

    passed, every = run(still, key, None), run(still, None, None)
    np.testing.assert_allclose(passed[:, :3], every[:, :3], atol=1e-6)
    equal = np.abs(passed[:, 3:, None] - every[:, None, 3:]).max(axis=-1) < 1e-5
    assert (equal.sum(axis=2) == 1).all()
    indices = equal.argmax(axis=2)  # [16, 7]
    assert (np.diff(indices, axis=1) > 0).all()
    assert len(np.unique(indices, axis=0)) > 10  # each image its own
    np.testing.assert_allclose(np.bincount(indices.ravel()).sum(), 16 * 7)
    assert (np.bincount(indices.ravel(), minlength=12) > 2).all()
    assert tiny.error(run(params, key, None), run(params, None, indices)) < TOLERANCE


def test_patch_dropout_of_what_an_objective_left():
    kept = np.broadcast_to(np.asarray([0, 2, 5, 7, 11]), (2, 5))
    changes = DROPPED | {"rope": "axial"}

    def run(m, images, kept):
        tokens = m.embed(images)
        tokens = jnp.concatenate([tokens[:, :3], tokens[:, 3:][:, kept[0]]], axis=1)
        return m.encode(tokens, key=jax.random.key(0), indices=kept)

    assert call(run, tiny.images(), kept, **changes).shape == (2, 3 + 3, 24)


def test_patch_dropout_refuses_a_mask():
    dropping = model(**DROPPED)
    tokens = dropping.embed(tiny.images())
    mask = jnp.ones((1, 1, 15, 15), bool)
    with pytest.raises(ValueError, match=r"mask and model\.patch_dropout exclude"):
        dropping.encode(tokens, mask=mask, key=jax.random.key(0))
    assert dropping.encode(tokens, mask=mask).shape == (2, 15, 24)


# Intermediates.


@pytest.mark.parametrize("where", ["tokens", "features"])
def test_intermediates_by_layer(where):
    changes = {"depth": 3, "final_norm": where, "rope": "axial", **options.PREFIX}
    images = tiny.images()
    wanted = reference_options.forward(
        made(**changes)[1], images, tiny.settings(**changes)
    )
    plain = call(
        lambda m, x: m.intermediates(x, (0, -1), norm=False), images, **changes
    )
    assert plain.shape == (2, 2, 15, 24)
    assert tiny.error(plain, wanted["intermediates"][[0, 2]]) < TOLERANCE
    last = call(lambda m, x: m.intermediates(x, [-1]), images, **changes)
    assert tiny.error(last[0], wanted["tokens"]) < TOLERANCE


def test_intermediates_of_another_size():
    changes = {"dynamic_size": True, "rope": "dinov3", "position": "none"}
    outputs = call(lambda m, x: m.intermediates(x, [1]), tiny.images(**BIG), **changes)
    assert outputs.shape == (1, 2, math.prod((5, 6)), 24)


@pytest.mark.parametrize("layer", [2, -3])
def test_intermediates_that_do_not_exist(layer):
    with pytest.raises(ValueError, match=rf"layers \[{layer}\] do not exist.* 0 to 1"):
        model().intermediates(tiny.images(), [0, layer])
