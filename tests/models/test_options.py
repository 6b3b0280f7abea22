"""Every option of the model, alone and mixed, against the numpy reference."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models import options, reference_options, tiny
from vit_jax.models.vit import ViT

TOLERANCE = 1e-5

CASES = options.SINGLE | options.MIXED


@pytest.fixture(autouse=True)
def highest_precision():
    """Full float32 products on devices whose default is shorter."""
    with jax.default_matmul_precision("highest"):
        yield


@functools.cache
def compared(name):
    """A case's parameters, images, and what the model makes of them."""
    graphdef, shapes = tiny.vit_shapes(**CASES[name])
    params, images = tiny.fill(shapes), tiny.images()

    def run(params, images):
        model = nnx.merge(graphdef, params)
        embedded = model.embed(images)
        tokens, intermediates = model.encode(embedded, intermediates=True)
        return {
            "embedded": embedded,
            "intermediates": intermediates,
            "tokens": tokens,
            "features": model.pool(tokens),
            "logits": model.logits(tokens),
        }, model(images)

    return params, images, *jax.tree.map(np.asarray, tiny.jit(run)(params, images))


def expected(name, **changes):
    params, images, *_ = compared(name)
    settings = tiny.settings(**CASES[name])
    return reference_options.forward(params, images, settings | changes)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference(name):
    *_, actual, logits = compared(name)
    wanted = expected(name)
    errors = {part: tiny.error(actual[part], wanted[part]) for part in wanted}
    assert max(errors.values()) < TOLERANCE, errors
    assert tiny.error(logits, wanted["logits"]) < TOLERANCE


# What a setting was before: the comparison must see the difference.
NOTICED = {
    "qk_norm": {"qk_norm": False},
    "layer_scale": {"layer_scale": 0.0},
    "swiglu": {"mlp": "dense"},
    "gelu": {"activation": "gelu_tanh"},
    "norm_epsilon": {"norm_epsilon": 1e-6},
    "rope_axial": {"rope": "dinov3"},
    "rope_dinov3": {"rope": "none"},
    "rope_base": {"rope_base": 100.0},
    "sincos2d_mae": {"position": "sincos2d"},
    "parallel": {"activation": "gelu"},
}


@pytest.mark.parametrize("name", NOTICED)
def test_would_notice(name):
    *_, actual, _ = compared(name)
    wrong = expected(name, **NOTICED[name])
    # The two GELUs differ by 5e-4 at most.
    assert tiny.error(actual["tokens"], wrong["tokens"]) > 5 * TOLERANCE


def test_distilled_logits_are_the_mean_of_both_heads():
    params, _, actual, _ = compared("distilled")
    model = nnx.merge(tiny.vit_shapes(**CASES["distilled"])[0], params)
    tokens = jnp.asarray(actual["tokens"])
    first = model.classify(model.pool(tokens))
    second = model.head_distillation(tokens[:, 1])
    np.testing.assert_allclose(model.logits(tokens), (first + second) / 2, rtol=1e-5)
    assert tiny.error(first, second) > 0.1


def test_without_a_head_features_come_out():
    *_, actual, logits = compared("no_head")
    np.testing.assert_allclose(logits, actual["features"], rtol=1e-6)
    assert logits.dtype == np.float32
    params, *_ = compared("no_head_pre_logits")
    assert "head" not in params and "pre_logits" in params


# Parameters.

SHAPES = {
    "registers": {"registers": (1, 3, 24)},
    "distillation_token": {"distillation": (1, 1, 24)},
    "distillation_head": {
        "distillation": (1, 1, 24),
        "head_distillation/kernel": (24, 7),
        "head_distillation/bias": (7,),
    },
    "qk_norm": {
        f"blocks/attention/{which}_norm/{leaf}": (2, 8)
        for which, leaf in itertools.product(("query", "key"), ("scale", "bias"))
    },
    "layer_scale": {"blocks/attention_scale": (2, 24), "blocks/mlp_scale": (2, 24)},
    "swiglu": {"blocks/mlp/gate/kernel": (2, 24, 40), "blocks/mlp/gate/bias": (2, 40)},
    "both_norms": {"head_norm/scale": (24,), "head_norm/bias": (24,)},
    "norm_of_features": {"head_norm/scale": (24,), "head_norm/bias": (24,)},
}
GONE = {
    "rms": {"blocks/attention_norm/bias", "blocks/mlp_norm/bias", "norm/bias"},
    "norm_of_features": {"norm/scale", "norm/bias"},
    "no_position": {"position_embedding"},
    "sincos2d_mae": {"position_embedding"},
    "parallel": {"blocks/mlp_norm/scale", "blocks/mlp_norm/bias"},
    "no_head": {"head/kernel", "head/bias"},
    "no_head_pre_logits": {"head/kernel", "head/bias"},
}
RESHAPED = {
    "cls_gap": {"head/kernel": (48, 7)},
    "learned_cls": {"position_embedding": (1, 13, 24)},
    "learned_prefix": {"position_embedding": (1, 15, 24)},
}


@pytest.mark.parametrize("name", options.SINGLE)
def test_parameters_that_come_and_go(name):
    def shapes(**changes):
        params = tiny.flatten(tiny.vit_shapes(**changes)[1])
        return {path: leaf.shape for path, leaf in params.items()}

    wanted = shapes() | SHAPES.get(name, {}) | RESHAPED.get(name, {})
    wanted = {p: shape for p, shape in wanted.items() if p not in GONE.get(name, ())}
    changes = CASES[name]
    if changes.get("cls_token"):
        wanted["cls"] = (1, 1, 24)
    if changes.get("registers"):
        wanted["registers"] = (1, changes["registers"], 24)
    if "pre_logits" in changes:
        wanted |= {"pre_logits/kernel": (24, 20), "pre_logits/bias": (20,)}
    assert shapes(**changes) == wanted


def test_norms_of_queries_and_keys_follow_the_kind():
    shapes = tiny.flatten(tiny.vit_shapes(**CASES["modern"])[1])
    assert "blocks/attention/query_norm/scale" in shapes
    assert "blocks/attention/query_norm/bias" not in shapes


# Alone and all together: what is shared starts bitwise as without the option.
INITIAL = options.SINGLE | {
    "stem": {"stem": (1, 1), "patch_size": (8, 16), "image_size": (24, 64)},
    "everything": options.MIXED["modern"]
    | {"cls_token": True, "distillation": "head", "pool": "map"},
}


@functools.cache
def initial(**changes):
    def init(key):
        return nnx.to_pure_dict(nnx.state(ViT(**tiny.settings(**changes), key=key)))

    params = init(jax.random.key(3))
    return {path: np.asarray(leaf) for path, leaf in tiny.flatten(params).items()}


@pytest.mark.parametrize("name", INITIAL)
def test_shared_parameters_start_the_same(name):
    changes = INITIAL[name]
    needed = ("pool", "cls_token", "pre_logits", "image_size", "patch_size")
    plain = {key: changes[key] for key in needed if key in changes}
    if plain.get("pool") == "cls_gap":
        del plain["pool"]
    plain, found = initial(**plain), initial(**changes)
    other = {"stem": {"embedding/kernel"}}.get(name, set())
    if "position" in changes:
        other |= {"position_embedding"}
    if changes.get("pool") == "cls_gap":
        other |= {"head/kernel"}
    same = plain.keys() & found.keys() - other
    assert {"blocks/mlp/out/kernel", "blocks/attention/query/kernel"} <= same
    for path in same:
        np.testing.assert_array_equal(found[path], plain[path], err_msg=path)


def test_initial_values_of_what_is_new():
    found = initial(**INITIAL["everything"], width=240, num_heads=3)
    sizes = {"registers": 720, "distillation": 240, "position_embedding": 17 * 240}
    for path, size in sizes.items():
        assert found[path].size == size
        assert abs(found[path].std() / 0.02 - 1.0) < 4 / np.sqrt(2 * size), path
    for path in ("blocks/attention_scale", "blocks/mlp_scale"):
        np.testing.assert_array_equal(found[path], np.float32(0.5))
    np.testing.assert_array_equal(found["head_distillation/kernel"], 0)
    np.testing.assert_array_equal(found["blocks/attention/key_norm/scale"], 1)
    gate, bound = found["blocks/mlp/gate/kernel"], np.sqrt(6 / (240 + 40))
    assert 0.99 * bound < np.abs(gate).max() <= bound * (1 + 1e-6)
    hidden = found["blocks/mlp/hidden/kernel"]
    for a, b in ((gate[0], gate[1]), (gate[0], hidden[0])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 6 / np.sqrt(a.size)


def test_the_distilled_heads_start_at_the_head_bias():
    model = ViT(
        **tiny.settings(**options.SINGLE["distillation_head"], head_bias=-4.5),
        key=jax.random.key(0),
    )
    np.testing.assert_allclose(model(tiny.images()), -4.5, rtol=1e-6)
