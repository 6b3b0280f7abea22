"""The weights of attention against numpy, and against what the model does with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models import reference, tiny
from vit_jax.models import attention_maps

TOLERANCE = 1e-5

OPTIONS = {
    "plain": {},
    "cls": {"pool": "cls", "cls_token": True, "position": "learned_cls"},
    "qk_norm": {"qk_norm": True},
    "rms": {"norm": "rms", "qk_norm": True},
    "rope": {"rope": "axial", "cls_token": True, "registers": 2},
    "dinov3": {"rope": "dinov3", "position": "none", "qk_norm": True},
    "parallel": {"parallel_blocks": True, "layer_scale": 0.5, "mlp": "swiglu"},
    "map": {"pool": "map", "cls_token": True},
    "one_block": {"depth": 1},
}


@pytest.fixture(autouse=True)
def highest_precision():
    """Full float32 products on devices whose default is shorter."""
    with jax.default_matmul_precision("highest"):
        yield


@functools.cache
def built(name, **more):
    """Parameters, model and images."""
    changes = OPTIONS[name] | more
    graphdef, shapes = tiny.vit_shapes(**changes)
    params = tiny.fill(shapes)
    return params, nnx.merge(graphdef, params), tiny.images(**changes)


def run(function, model, images):
    """function(model, images), compiled."""
    graphdef, state = nnx.split(model)

    def call(state, images):
        return function(nnx.merge(graphdef, state), images)

    return jax.tree.map(np.asarray, tiny.jit(call)(state, images))


def weights_of(queries, tokens, params):
    """Softmax weights [B, A, Q, N] in float64, head by head, with norms if any."""
    heads = []
    for head in range(params["query"]["kernel"].shape[1]):
        q = queries @ params["query"]["kernel"][:, head] + params["query"]["bias"][head]
        k = tokens @ params["key"]["kernel"][:, head] + params["key"]["bias"][head]
        if "query_norm" in params:
            q = reference.layer_norm(q, params["query_norm"])
            k = reference.layer_norm(k, params["key_norm"])
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        heads.append(reference.softmax(scores))
    return np.stack(heads, axis=1)


def block_inputs(model, images):
    """Tokens into every block, float64."""

    def collect(model, images):
        embedded = model.embed(images)
        return embedded, model.encode(embedded, intermediates=True)[1]

    embedded, outputs = run(collect, model, images)
    return np.concatenate([embedded[None], outputs[:-1]]).astype(np.float64)


def rolled_out(weights):
    """The rollout of arXiv 2005.00928, image by image and layer by layer."""
    result = []
    for image in range(weights.shape[1]):
        total = np.eye(weights.shape[-1])
        for layer in weights[:, image]:
            mixed = 0.5 * layer.mean(axis=0) + 0.5 * np.eye(len(total))
            total = mixed / mixed.sum(axis=-1, keepdims=True) @ total
        result.append(total)
    return np.stack(result)


@pytest.mark.parametrize("name", ["plain", "cls", "qk_norm", "one_block"])
def test_weights_equal_the_reference(name):
    params, model, images = built(name)
    actual = run(attention_maps.attention_weights, model, images)
    blocks = reference.to_float64(params["blocks"])
    expected = []
    for layer, tokens in enumerate(block_inputs(model, images)):
        block = reference.select(blocks, layer)
        normed = reference.layer_norm(tokens, block["attention_norm"])
        expected.append(weights_of(normed, normed, block["attention"]))
    assert tiny.error(actual, np.stack(expected)) < TOLERANCE
    assert actual.std(axis=-1).mean() > 1e-3  # no uniform rows, which always agree


@pytest.mark.parametrize("name", OPTIONS)
def test_weights_are_those_the_model_uses(name):
    """Values mixed with them give what the block's own attention gives."""
    _, model, images = built(name)
    inputs = jnp.asarray(block_inputs(model, images), jnp.float32)

    def mix(model, images):
        weights = attention_maps.attention_weights(model, images)
        rotate = model._rotation(weights.shape[-1] - model.num_prefix, None, None)
        graphdef, layers = nnx.split(model.blocks)

        def one(layer, tokens, weights):
            block = nnx.merge(graphdef, layer)
            normed = block.attention_norm(tokens)
            values = block.attention.value(normed)
            mixed = block.attention.out(jnp.einsum("bats,bsad->btad", weights, values))
            return mixed, block.attention(normed, rotate=rotate)

        return jax.vmap(one)(layers, inputs, weights)

    mixed, expected = run(mix, model, images)
    assert tiny.error(mixed, expected) < TOLERANCE


@pytest.mark.parametrize("name", ["rope", "map"])
def test_rows_sum_to_one(name):
    _, model, images = built(name)
    weights = run(attention_maps.attention_weights, model, images)
    rolled = run(attention_maps.attention_rollout, model, images)
    for rows in (weights, rolled):
        assert rows.dtype == np.float32 and rows.min() > 0
        np.testing.assert_allclose(rows.sum(axis=-1), 1.0, atol=1e-5)


@pytest.mark.parametrize("name", ["cls", "dinov3", "one_block"])
def test_rollout_equals_the_reference(name):
    _, model, images = built(name)
    weights = run(attention_maps.attention_weights, model, images)
    expected = rolled_out(weights.astype(np.float64))
    at_once = tiny.jit(attention_maps.rollout)(weights)
    assert tiny.error(at_once, expected) < TOLERANCE
    by_layer = run(attention_maps.attention_rollout, model, images)
    assert tiny.error(by_layer, expected) < TOLERANCE


@pytest.mark.parametrize("name", ["plain", "cls", "rope", "map"])
def test_the_map_of_an_image_equals_the_reference(name):
    """CLS's row, else the patches' mean, or the MAP probe's; 3 x 4 patches, not square."""
    _, model, images = built(name)
    actual = run(attention_maps.content_map, model, images)
    assert actual.shape == (len(images), 3, 4)
    if name == "map":
        expected = run(attention_maps.pooling_weights, model, images).mean(axis=1)
    else:
        weights = run(attention_maps.attention_weights, model, images)
        rolled = rolled_out(weights.astype(np.float64))
        expected = rolled[:, 0] if model.num_prefix else rolled.mean(axis=1)
    expected = expected[:, model.num_prefix :].reshape(actual.shape)
    assert tiny.error(actual, expected) < TOLERANCE
    assert np.ptp(actual) > 1e-4


@pytest.mark.parametrize("name", ["plain", "rope"])
def test_maps_under_scan_and_unrolled(name):
    _, looped, images = built(name, unroll=1)
    _, written_out, _ = built(name, unroll=2)
    maps = [
        run(attention_maps.content_map, model, images)
        for model in (looped, written_out)
    ]
    assert tiny.error(*maps) < TOLERANCE


def test_rollout_by_hand():
    """One token looks at the other in the first layer, the other back in the second."""
    first, second = [[0.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]
    weights = jnp.asarray([first, second])[:, None, None]
    expected = [[[0.5, 0.5], [0.25, 0.75]]]
    np.testing.assert_allclose(attention_maps.rollout(weights), expected)


def test_probe_weights_equal_the_reference_and_the_model():
    params, model, images = built("map")
    actual = run(attention_maps.pooling_weights, model, images)
    tokens = run(lambda model, images: model.tokens(images), model, images)
    head = reference.to_float64(params["pooling"])
    probe = np.repeat(head["probe"], len(tokens), axis=0)
    expected = weights_of(probe, tokens.astype(np.float64), head["attention"])[:, :, 0]
    assert tiny.error(actual, expected) < TOLERANCE
    assert actual.std(axis=-1).mean() > 1e-3

    def mix(model, tokens):
        head = model.pooling
        values = head.attention.value(tokens)
        mixed = jnp.einsum("bas,bsad->bad", actual, values)
        mixed = head.attention.out(mixed[:, None])
        return (mixed + head.mlp(head.norm(mixed)))[:, 0], model.pool(tokens)

    assert tiny.error(*run(mix, model, tokens)) < TOLERANCE


def test_only_map_heads_have_a_probe():
    _, model, images = built("plain")
    with pytest.raises(ValueError, match="'gap'; only 'map' has a probe"):
        attention_maps.pooling_weights(model, images)


def test_images_of_another_size():
    """A model of any size looks at its own grid, as rotary embeddings must know."""
    changes = {"dynamic_size": True, "image_size": (16, 15)}
    _, model, _ = built("rope", dynamic_size=True)
    images = tiny.images(**changes)
    weights = run(attention_maps.attention_weights, model, images)
    assert weights.shape == (2, 2, 3, 15, 15)  # 3 of the prefix, 4 x 3 patches

    _, fitting, _ = built("rope", **changes, position="none")
    _, other, _ = built("rope", dynamic_size=True, position="none")
    expected = run(attention_maps.attention_weights, fitting, images)
    actual = run(attention_maps.attention_weights, other, images)
    assert tiny.error(actual, expected) < TOLERANCE


def test_weights_are_float32_in_bfloat16():
    _, model, images = built("cls", dtype="bfloat16")
    weights = run(attention_maps.attention_weights, model, images)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-5)
    _, exact, _ = built("cls")
    expected = run(attention_maps.attention_weights, exact, images)
    assert np.abs(weights - expected).max() < 0.05


@pytest.mark.parametrize("name", ["cls", "rope", "one_block"])
def test_distances_equal_the_reference(name):
    """By loops: the prefix left out on both sides, pixels along both axes."""
    _, model, images = built(name)
    actual = run(attention_maps.attention_distance, model, images)
    weights = run(attention_maps.attention_weights, model, images).astype(np.float64)
    prefix, expected = model.num_prefix, np.zeros(actual.shape)
    for layer, head in np.ndindex(*actual.shape):
        distances = []
        for image, query in np.ndindex(len(images), 12):
            row = weights[layer, image, head, prefix + query, prefix:]
            far = [
                np.hypot(4 * (query // 4 - key // 4), 5 * (query % 4 - key % 4))
                for key in range(12)
            ]
            distances.append(np.average(far, weights=row))
        expected[layer, head] = np.mean(distances)
    assert tiny.error(actual, expected) < TOLERANCE
    assert np.ptp(actual) > 1e-3
