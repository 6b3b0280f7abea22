"""Options under scan, remat, gradients, a mesh and bfloat16: one function always."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models import options, tiny
from tests.models.test_stack import assert_close
from vit_jax import sharding

DEPTH = 2
RATES = {"dropout": 0.2, "attention_dropout": 0.2, "drop_path": 0.4}
FORMS = [
    ("modern", 2, "none"),
    ("modern", 1, "attention"),
    ("modern", 1, "full"),
    ("dinov3", 2, "full"),
    ("dinov3", 1, "dots"),
]


@functools.cache
def results(name, unroll, remat):
    """Logits and gradients with a key, and logits without."""
    changes = options.MIXED[name] | RATES | {"patch_dropout": 0.4}
    graphdef, shapes = tiny.vit_shapes(
        **changes, depth=DEPTH, unroll=unroll, remat=remat
    )
    params, images = tiny.fill(shapes), tiny.images(batch=8)

    def loss(params, key):
        logits = nnx.merge(graphdef, params)(images, key=key)
        return jnp.mean(logits**2), logits

    @tiny.jit
    def run(params, key):
        grads, random = jax.grad(loss, has_aux=True)(params, key)
        return {"grads": grads, "random": random, "plain": loss(params, None)[1]}

    return jax.tree.map(np.asarray, run(params, jax.random.key(5)))


@pytest.mark.parametrize(("name", "unroll", "remat"), FORMS)
def test_every_form_gives_the_same(name, unroll, remat):
    wanted = results(name, 1, "none")
    assert_close(results(name, unroll, remat), wanted)
    assert tiny.error(wanted["random"], wanted["plain"]) > 1e-2


@pytest.mark.parametrize("name", options.MIXED)
def test_every_parameter_gets_a_gradient(name):
    graphdef, shapes = tiny.vit_shapes(**options.MIXED[name])
    params, images = tiny.fill(shapes), tiny.images()

    def loss(params):
        return jnp.sum(nnx.merge(graphdef, params)(images) ** 2)

    for path, leaf in tiny.flatten(tiny.jit(jax.grad(loss))(params)).items():
        # Softmax does not see a constant added to every key's score.
        if not path.endswith(("attention/key/bias", "key_norm/bias")):
            assert np.abs(leaf).max() > 1e-4, path


def test_a_hybrid_trains_from_the_root_on():
    changes = {"stem": (1,), "patch_size": (4, 8), "image_size": (8, 16)}
    graphdef, shapes = tiny.vit_shapes(**changes)
    params, images = tiny.fill(shapes), tiny.images(**changes)

    def loss(params):
        return jnp.sum(nnx.merge(graphdef, params)(images) ** 2)

    grads = tiny.flatten(tiny.jit(jax.grad(loss))(params))
    assert "stem/block1/unit1/conv3_norm/scale" in grads
    for path in (path for path in grads if path.startswith(("stem/", "embedding/"))):
        assert np.abs(grads[path]).max() > 0, path


@pytest.mark.parametrize("name", options.MIXED)
def test_sharded_equals_one_device(name):
    if len(jax.devices()) < 8:
        pytest.skip("needs eight devices")
    mesh = sharding.build_mesh(
        slices=1, data=2, fsdp=2, tensor=2, sequence=1, devices=jax.devices()[:8]
    )
    rows = sharding.batch_sharding(mesh)
    changes = options.MIXED[name] | {"patch_dropout": 0.4}
    changes |= {"num_heads": 2, "num_classes": 8}  # the mesh divides these
    graphdef, shapes = tiny.vit_shapes(**changes)
    params, images = tiny.fill(shapes), tiny.images(batch=8)

    def gradient(graphdef, params, images):
        def loss(params):
            key = jax.random.key(2)
            return jnp.mean(nnx.merge(graphdef, params)(images, key=key) ** 2)

        return jax.grad(loss)(params)

    where = sharding.param_shardings(shapes, mesh)
    wanted = tiny.jit(functools.partial(gradient, graphdef))(params, images)
    with jax.set_mesh(mesh):
        got = jax.jit(
            functools.partial(gradient, graphdef),
            in_shardings=(where, rows),
            out_shardings=where,
            compiler_options=tiny.FAST,
        )(params, images)
    split = [leaf for leaf in jax.tree.leaves(where) if not leaf.is_fully_replicated]
    assert len(split) > 8
    assert_close(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, wanted))


@pytest.mark.parametrize("name", options.MIXED)
def test_bfloat16_computes_short_and_keeps_float32(name):
    logits = {}
    for dtype in ("float32", "bfloat16"):
        graphdef, shapes = tiny.vit_shapes(**options.MIXED[name], dtype=dtype)
        assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype("float32")}
        params, images = tiny.fill(shapes), tiny.images()

        @tiny.jit
        def run(params, images, graphdef=graphdef):
            model = nnx.merge(graphdef, params)
            tokens = model.tokens(images)
            return tokens, model.logits(tokens)

        tokens, logits[dtype] = run(params, images)
        assert tokens.dtype == dtype
        assert logits[dtype].dtype == np.float32
    assert 1e-4 < tiny.error(logits["bfloat16"], logits["float32"]) < 5e-2
