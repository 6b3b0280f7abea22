"""Scanned, unrolled and rematerialised stacks are one function."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models import reference, tiny
from vit_jax.models.stack import REMAT

DEPTH = 3
RATES = {"dropout": 0.2, "attention_dropout": 0.2, "drop_path": 0.4}

# (unroll, remat); 2 does not divide the depth.
FORMS = [
    (2, "none"),
    (3, "none"),
    (1, "elementwise"),
    (1, "dots"),
    (1, "attention"),
    (1, "full"),
    (3, "full"),
    (1, "offload"),
]


def make(unroll, remat):
    return tiny.vit_shapes(depth=DEPTH, unroll=unroll, remat=remat, **RATES)


def loss_of(graphdef, images):
    """loss(params, key) -> (scalar, (logits, tokens, intermediates))."""

    def loss(params, key):
        model = nnx.merge(graphdef, params)
        embedded = model.embed(images)
        tokens, blocks = model.encode(embedded, key=key, intermediates=True)
        logits = model.classify(model.pool(tokens))
        return jnp.mean(logits**2), (logits, tokens, blocks)

    return loss


@functools.cache
def results(unroll, remat):
    """Outputs and gradients with one key, and the deterministic outputs."""
    graphdef, shapes = make(unroll, remat)
    params, images = tiny.fill(shapes), tiny.images(batch=8)
    loss = loss_of(graphdef, images)

    @tiny.jit
    def run(params, key):
        grads, random = jax.grad(loss, has_aux=True)(params, key)
        return {"grads": grads, "random": random, "plain": loss(params, None)[1]}

    return jax.tree.map(np.asarray, run(params, jax.random.key(5)))


def assert_close(actual, expected):
    """Equal but for the order of float32 sums, relative to each array's scale."""
    jax.tree.map_with_path(
        lambda path, a, b: np.testing.assert_allclose(
            a, b, rtol=0, atol=2e-6 * max(1.0, np.abs(b).max()), err_msg=str(path)
        ),
        actual,
        expected,
    )


@pytest.mark.parametrize("part", ["plain", "random", "grads"])
@pytest.mark.parametrize(("unroll", "remat"), FORMS)
def test_every_form_gives_the_same(unroll, remat, part):
    assert_close(results(unroll, remat)[part], results(1, "none")[part])


def test_the_comparison_is_of_random_results():
    found = results(1, "none")
    assert tiny.error(found["random"][0], found["plain"][0]) > 1e-2
    for path, leaf in tiny.flatten(found["grads"]).items():
        assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize("unroll", [1, 2, 3])
def test_forms_share_parameters(unroll):
    shapes = make(unroll, "none")[1]
    assert shapes == make(1, "none")[1]


@pytest.mark.parametrize(("unroll", "remat"), [(1, "none"), *FORMS])
@pytest.mark.parametrize("part", ["plain", "random"])
def test_last_intermediate_through_the_norm_is_the_result(unroll, remat, part):
    _, tokens, blocks = results(unroll, remat)[part]
    assert blocks.shape == (DEPTH, 8, 12, 24)
    params = reference.to_float64(tiny.fill(make(1, "none")[1]))
    normed = reference.layer_norm(blocks[-1].astype(np.float64), params["norm"])
    assert tiny.error(tokens, normed) < 1e-5


def test_intermediates_do_not_change_the_result():
    graphdef, shapes = make(1, "none")
    params, images = tiny.fill(shapes), tiny.images(batch=8)

    @tiny.jit
    def run(key):
        model = nnx.merge(graphdef, params)
        return model.encode(model.embed(images), key=key)

    tokens = run(jax.random.key(5))
    assert_close(tokens, jnp.asarray(results(1, "none")["random"][1]))


def kept(remat):
    """Shapes of what the forward pass keeps for the backward pass."""
    graphdef, shapes = tiny.vit_shapes(depth=DEPTH, remat=remat)
    images = tiny.images(batch=8)

    def backward(params):
        def logits(params):
            return nnx.merge(graphdef, params)(images)

        return jax.vjp(logits, params)[1]

    return jax.tree.leaves(jax.eval_shape(backward, shapes))


def saved_bytes(remat):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in kept(remat))


def test_remat_policies_keep_less():
    sizes = [saved_bytes(remat) for remat in REMAT]
    assert list(REMAT) == [
        "none",
        "elementwise",
        "attention",
        "dots",
        "full",
        "offload",
    ]
    assert sizes[:5] == sorted(set(sizes[:5]), reverse=True), sizes


def test_offload_keeps_the_inputs_of_blocks_in_the_host_s_memory():
    """In a program for TPU: they go there in the forward, and back in the backward."""

    def program(remat):
        graphdef, shapes = tiny.vit_shapes(depth=DEPTH, remat=remat)
        loss = loss_of(graphdef, tiny.images(batch=8))
        grads = jax.jit(lambda params: jax.grad(loss, has_aux=True)(params, None))
        return grads.trace(shapes).lower(lowering_platforms=("tpu",)).as_text()

    placed = re.findall(r"_xla_buffer_placement = \"(\w+)\"", program("offload"))
    assert placed == ["pinned_host", "device"]
    assert "_xla_buffer_placement" not in program("full")
    assert saved_bytes("offload") == saved_bytes("full")
