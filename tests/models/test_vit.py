"""The model against the numpy reference, its errors, randomness and compute dtype."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from tests.models import reference, tiny
from vit_jax.models.vit import ViT, build

# Relative to the largest value; the model computes in float32, the reference in
# float64, and the difference seen is about 1e-6.
TOLERANCE = 1e-5

POOLS = ("cls", "gap", "map")
POSITIONS = ("learned", "learned_cls", "sincos2d")
PRE_LOGITS = 20

# "cls" needs a CLS token to read, and "learned_cls" one to give a position to.
COMBINATIONS = [
    (pool, position, cls_token)
    for pool, position, cls_token in itertools.product(POOLS, POSITIONS, (False, True))
    if cls_token or (pool != "cls" and position != "learned_cls")
]

GEOMETRIES = {
    "tall": {"image_size": (20, 12), "patch_size": (5, 4)},
    "swapped": {"image_size": (20, 12), "patch_size": (4, 6)},
    "grey": {"channels": 1},
    "five_channels": {"channels": 5},
    "one_patch": {"image_size": (4, 5)},
    "one_block": {"depth": 1},
    "one_head": {"num_heads": 1},
    "one_class": {"num_classes": 1},
}


@pytest.fixture(autouse=True)
def highest_precision():
    """Full float32 products on devices whose default is shorter."""
    with jax.default_matmul_precision("highest"):
        yield


def outputs(graphdef, params, images):
    """What the model gives, under the reference's names."""

    def run(params, images):
        model = nnx.merge(graphdef, params)
        embedded = model.embed(images)
        tokens, intermediates = model.encode(embedded, intermediates=True)
        return {
            "embedded": embedded,
            "intermediates": intermediates,
            "tokens": tokens,
            "features": (features := model.pool(tokens)),
            "logits": model.classify(features),
        }

    return jax.tree.map(np.asarray, tiny.jit(run)(params, images))


def expected(params, images, changes, **mistakes):
    """What the reference gives."""
    chosen = tiny.settings(**changes)
    names = ("patch_size", "num_heads", "pool", "position", "cls_token")
    return reference.forward(
        params,
        images,
        **{name: chosen[name] for name in names},
        pre_logits=bool(chosen.get("pre_logits", 0)),
        **mistakes,
    )


@functools.cache
def compared(**changes):
    """Parameters, images and the model's outputs on them."""
    graphdef, shapes = tiny.vit_shapes(**changes)
    params, images = tiny.fill(shapes), tiny.images(**changes)
    return params, images, outputs(graphdef, params, images)


def check(changes):
    params, images, actual = compared(**changes)
    wanted = expected(params, images, changes)
    assert actual.keys() == wanted.keys()
    errors = {name: tiny.error(actual[name], wanted[name]) for name in wanted}
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("pre_logits", [0, PRE_LOGITS])
@pytest.mark.parametrize(("pool", "position", "cls_token"), COMBINATIONS)
def test_equals_the_reference(pool, position, cls_token, pre_logits):
    check(
        {
            "pool": pool,
            "position": position,
            "cls_token": cls_token,
            "pre_logits": pre_logits,
        }
    )


@pytest.mark.parametrize("name", GEOMETRIES)
def test_equals_the_reference_for_other_shapes(name):
    check({"pool": "map", "position": "sincos2d", "cls_token": True} | GEOMETRIES[name])


@pytest.mark.parametrize("pool", POOLS)
def test_call_composes_the_steps(pool):
    changes = {"pool": pool, "position": "learned", "cls_token": True}
    changes |= {"pre_logits": PRE_LOGITS}
    params, images, actual = compared(**changes)
    graphdef, _ = tiny.vit_shapes(**changes)
    model = tiny.jit(lambda images: nnx.merge(graphdef, params)(images))
    assert tiny.error(model(images), actual["logits"]) < TOLERANCE


def test_parameter_paths_and_shapes():
    _, shapes = tiny.vit_shapes(pool="map", cls_token=True, pre_logits=PRE_LOGITS)
    shapes = {path: leaf.shape for path, leaf in tiny.flatten(shapes).items()}

    def attention(*lead):
        projections = {
            f"{name}/{leaf}": (*lead, *shape)
            for name in ("query", "key", "value")
            for leaf, shape in {"kernel": (24, 3, 8), "bias": (3, 8)}.items()
        }
        return projections | {"out/kernel": (*lead, 3, 8, 24), "out/bias": (*lead, 24)}

    def mlp(*lead):
        return {
            "hidden/kernel": (*lead, 24, 40),
            "hidden/bias": (*lead, 40),
            "out/kernel": (*lead, 40, 24),
            "out/bias": (*lead, 24),
        }

    def norm(*lead):
        return {"scale": (*lead, 24), "bias": (*lead, 24)}

    groups = {
        "embedding": {"kernel": (4, 5, 3, 24), "bias": (24,)},
        "blocks/attention_norm": norm(2),
        "blocks/attention": attention(2),
        "blocks/mlp_norm": norm(2),
        "blocks/mlp": mlp(2),
        "norm": norm(),
        "pooling/attention": attention(),
        "pooling/norm": norm(),
        "pooling/mlp": mlp(),
        "pre_logits": {"kernel": (24, 20), "bias": (20,)},
        "head": {"kernel": (20, 7), "bias": (7,)},
    }
    wanted = {
        f"{group}/{k}": v for group, tree in groups.items() for k, v in tree.items()
    }
    wanted |= {
        "cls": (1, 1, 24),
        "position_embedding": (1, 12, 24),
        "pooling/probe": (1, 1, 24),
    }
    assert shapes == wanted


def test_optional_parameters():
    def top(**changes):
        return tiny.vit_shapes(**changes)[1]

    always = {"embedding", "blocks", "norm", "head"}
    assert set(top(position="sincos2d")) == always
    assert set(top(position="learned")) == always | {"position_embedding"}
    cls = top(pool="cls", cls_token=True, position="learned_cls")
    assert set(cls) == always | {"position_embedding", "cls"}
    assert cls["position_embedding"].shape == (1, 13, 24)


# The comparison must be able to fail: each mistake moves the result far beyond the
# tolerance.
FAR = 100 * TOLERANCE


def test_would_notice_exact_gelu():
    changes = {"pool": "map", "cls_token": True, "pre_logits": PRE_LOGITS}
    params, images, actual = compared(**changes)
    # The two forms differ by 5e-4 at most, so the margin is smaller here.
    wrong = expected(params, images, changes, gelu="exact")
    for name in ("intermediates", "tokens", "features", "logits"):
        assert tiny.error(actual[name], wrong[name]) > 5 * TOLERANCE, name


def shrink(params, factor=0.01):
    """The residual stream scaled down, so that LayerNorm's epsilon shows."""
    roots = ("embedding/", "position_embedding", "cls")
    writers = ("attention/out/", "mlp/out/")

    def scale(path, leaf):
        path = "/".join(key.key for key in path)
        small = path.startswith(roots) or any(name in path for name in writers)
        return leaf * np.float32(factor) if small else leaf

    return jax.tree_util.tree_map_with_path(scale, params)


@functools.cache
def shrunk():
    changes = {"pool": "map", "cls_token": True}
    graphdef, shapes = tiny.vit_shapes(**changes)
    params, images = shrink(tiny.fill(shapes)), tiny.images()
    return changes, params, images, outputs(graphdef, params, images)


def test_equals_the_reference_where_epsilon_matters():
    changes, params, images, actual = shrunk()
    wanted = expected(params, images, changes)
    errors = {name: tiny.error(actual[name], wanted[name]) for name in wanted}
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 1e-12])
@pytest.mark.parametrize("norm", reference.NORMS)
def test_would_notice_another_epsilon(norm, eps):
    changes, params, images, actual = shrunk()
    wrong = expected(params, images, changes, eps={norm: eps})
    assert tiny.error(actual["features"], wrong["features"]) > 50 * TOLERANCE


@pytest.mark.parametrize("sincos", ["mae", "rows_first", "transposed"])
def test_would_notice_other_positions(sincos):
    changes = {"pool": "map", "position": "sincos2d", "cls_token": True}
    changes |= {"pre_logits": PRE_LOGITS}
    params, images, actual = compared(**changes)
    wrong = expected(params, images, changes, sincos=sincos)
    for name in ("embedded", "tokens", "features", "logits"):
        assert tiny.error(actual[name], wrong[name]) > FAR, name


def test_would_notice_the_cls_token_in_the_average():
    changes = {"pool": "gap", "position": "learned", "cls_token": True}
    params, _, actual = compared(**changes, pre_logits=0)
    wrong = reference.pool_tokens(
        params, actual["tokens"], pool="gap", cls_token=False, num_heads=3
    )
    assert tiny.error(actual["features"], wrong) > FAR


def test_reference_attention_is_that_of_flax():
    # The layer whose parameters the released checkpoints hold.
    _, shapes = tiny.vit_shapes()
    params = reference.select(tiny.fill(shapes)["blocks"]["attention"], 1)
    generator = np.random.default_rng(3)
    queries = generator.normal(size=(2, 3, 24)).astype(np.float32)
    tokens = generator.normal(size=(2, 5, 24)).astype(np.float32)
    layer = linen.MultiHeadDotProductAttention(num_heads=3)
    flax = tiny.jit(layer.apply)({"params": params}, queries, tokens)
    params = reference.to_float64(params)
    assert tiny.error(flax, reference.attention(queries, tokens, params, 3)) < 1e-5


@pytest.mark.parametrize(("name", "approximate"), [("tanh", True), ("exact", False)])
def test_reference_gelu_is_that_of_jax(name, approximate):
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    gelu = reference.GELU[name](x.astype(np.float64))
    assert tiny.error(jax.nn.gelu(x, approximate=approximate), gelu) < 1e-6


def test_encode_takes_any_tokens_in_any_order():
    # What masked objectives rest on: fewer tokens, and no order beyond the embedding.
    graphdef, shapes = tiny.vit_shapes()
    params = tiny.fill(shapes)
    tokens = np.random.default_rng(4).normal(size=(2, 12, 24)).astype(np.float32)
    encode = tiny.jit(lambda tokens: nnx.merge(graphdef, params).encode(tokens))
    whole, _ = reference.encode(params, tokens, num_heads=3)
    part, _ = reference.encode(params, tokens[:, 2:7], num_heads=3)
    assert tiny.error(encode(tokens), whole) < TOLERANCE
    assert tiny.error(encode(tokens[:, 2:7]), part) < TOLERANCE
    assert tiny.error(encode(tokens[:, ::-1]), whole[:, ::-1]) < TOLERANCE


@pytest.mark.parametrize("attention_dropout", [0.0, 1e-9])
def test_mask_hides_tokens(attention_dropout):
    # True: may be attended to. A rate too small to drop anything takes the other way
    # of computing attention, which must agree.
    graphdef, shapes = tiny.vit_shapes(attention_dropout=attention_dropout)
    params = tiny.fill(shapes)
    tokens = np.random.default_rng(4).normal(size=(2, 12, 24)).astype(np.float32)
    mask = np.broadcast_to(np.arange(12) < 7, (1, 1, 12, 12))

    @tiny.jit
    def encode(tokens, mask, key):
        return nnx.merge(graphdef, params).encode(tokens, mask=mask, key=key)

    key = jax.random.key(0) if attention_dropout else None
    seen, _ = reference.encode(params, tokens[:, :7], num_heads=3)
    assert tiny.error(encode(tokens, mask, key)[:, :7], seen) < TOLERANCE
    whole, _ = reference.encode(params, tokens, num_heads=3)
    assert tiny.error(encode(tokens, None, key), whole) < TOLERANCE


def test_every_parameter_gets_a_gradient():
    graphdef, shapes = tiny.vit_shapes(pool="map", cls_token=True, pre_logits=20)
    params, images = tiny.fill(shapes), tiny.images()

    def loss(params):
        return jnp.sum(nnx.merge(graphdef, params)(images) ** 2)

    grads = tiny.flatten(tiny.jit(jax.grad(loss))(params))
    sizes = {path: float(np.abs(leaf).max()) for path, leaf in grads.items()}
    for path, size in sizes.items():
        if path.endswith("attention/key/bias"):
            # Softmax does not see a constant added to every key's score.
            assert size < 1e-4 * sizes[path.replace("bias", "kernel")], path
        else:
            assert size > 1e-3, path


# Randomness.

RATES = ("dropout", "attention_dropout", "drop_path")


@functools.cache
def with_rates(**rates):
    """A jitted model(images, key) over one fixed set of parameters."""
    graphdef, shapes = tiny.vit_shapes(**rates)
    params = tiny.fill(shapes)
    return tiny.jit(lambda images, key: nnx.merge(graphdef, params)(images, key=key))


def test_no_key_is_deterministic_and_ignores_the_rates():
    images = tiny.images()
    rates = {"dropout": 0.3, "attention_dropout": 0.3, "drop_path": 0.5}
    plain, random = with_rates(), with_rates(**rates)
    first, second = random(images, None), random(images, None)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, plain(images, None), rtol=1e-6, atol=1e-6)


def test_a_key_without_rates_changes_nothing():
    images, plain = tiny.images(), with_rates()
    keyed = plain(images, jax.random.key(0))
    np.testing.assert_allclose(plain(images, None), keyed, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rate", RATES)
def test_the_key_decides_what_is_dropped(rate):
    # 16 images, as drop-path leaves a small batch whole too often.
    images, model = tiny.images(batch=16), with_rates(**{rate: 0.5})
    first = model(images, jax.random.key(0))
    np.testing.assert_array_equal(first, model(images, jax.random.key(0)))
    assert tiny.error(model(images, jax.random.key(1)), first) > 1e-2
    assert tiny.error(model(images, None), first) > 1e-2


@pytest.mark.parametrize("rate", RATES)
def test_images_of_a_batch_are_dropped_independently(rate):
    images = np.repeat(tiny.images(batch=1), 16, axis=0)
    logits = np.asarray(with_rates(**{rate: 0.5})(images, jax.random.key(0)))
    assert len(np.unique(logits.round(4), axis=0)) > 1
    if rate != "drop_path":  # which has four outcomes only
        assert len(np.unique(logits.round(4), axis=0)) == 16


def block_outputs(graphdef, params, tokens):
    """The output of every block, with dropouts drawn from the first key.

    Parameters are arguments: of zeros that were constants of the program, about one
    compilation in fifty made every output NaN (JAX 0.10.2 on a CPU).
    """

    @tiny.jit
    def encode(params, tokens, key):
        model = nnx.merge(graphdef, params)
        return model.encode(tokens, key=key, intermediates=True)[1]

    return np.asarray(encode(params, tokens, jax.random.key(0)))


def test_dropout_scales_what_it_keeps():
    # Kernels of zero leave the bias of each branch, so that a block adds its dropout
    # mask. The first block is left out, as its input may have been dropped as well.
    graphdef, shapes = tiny.vit_shapes(depth=3, dropout=0.25)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    params["blocks"]["mlp"]["out"]["bias"] += 3.0
    tokens = np.zeros((32, 12, 24), np.float32)

    blocks = block_outputs(graphdef, params, tokens)
    added = blocks[1:] - blocks[:-1]
    kept = added > 1.0
    np.testing.assert_allclose(added[kept], 3.0 / 0.75, rtol=1e-5)
    np.testing.assert_allclose(added[~kept], 0.0, atol=1e-5)
    assert abs(kept.mean() - 0.75) < 0.02
    assert (kept[0] != kept[1]).mean() > 0.3


def test_attention_dropout_drops_and_scales_weights():
    # Zero queries attend equally to all 12 tokens. Values of one make a head's output
    # the sum of the kept weights: a whole number of twelfths over 0.75.
    graphdef, shapes = tiny.vit_shapes(depth=2, attention_dropout=0.25)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    params["blocks"]["attention"]["value"]["bias"] += 1.0
    for head in range(3):
        params["blocks"]["attention"]["out"]["kernel"][:, head, 0, head] = 1.0
    tokens = np.zeros((32, 12, 24), np.float32)

    blocks = block_outputs(graphdef, params, tokens)
    added = np.diff(blocks, axis=0, prepend=0)[..., :3]
    count = added * 12 * 0.75
    np.testing.assert_allclose(count, count.round(), atol=1e-4)
    assert abs(added.mean() - 1.0) < 0.02
    for head in range(3):
        # The binomial's spread: 12 * 0.75 * 0.25.
        assert abs(count[..., head].var() - 2.25) < 0.25
    assert (count[0] != count[1]).mean() > 0.5
    assert (count[..., 0] != count[..., 1]).mean() > 0.5


def test_drop_path_rises_with_depth_and_drops_whole_rows():
    # Attention adds 1 to the first half of the width and the MLP to the second.
    depth, rate, batch = 5, 0.4, 4096
    graphdef, shapes = tiny.vit_shapes(depth=depth, drop_path=rate)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    params["blocks"]["attention"]["out"]["bias"][:, :12] = 1.0
    params["blocks"]["mlp"]["out"]["bias"][:, 12:] = 1.0
    tokens = np.zeros((batch, 3, 24), np.float32)

    blocks = block_outputs(graphdef, params, tokens)
    added = np.diff(blocks, axis=0, prepend=0)
    added = added.reshape(depth, batch, 3, 2, 12)
    # One decision per image and branch.
    assert (added == added[:, :, :1, :, :1]).all()
    added = added[:, :, 0, :, 0]
    kept = added > 0
    for index, drop in enumerate(np.linspace(0.0, rate, depth)):
        scale = 1.0 / (1.0 - drop)
        np.testing.assert_allclose(added[index][kept[index]], scale, rtol=1e-5)
        deviation = math.sqrt(drop * (1.0 - drop) / (2 * batch))
        assert abs((1.0 - kept[index].mean()) - drop) <= 4 * deviation, index
    # Skipped exactly, not nearly.
    assert (added[~kept] == 0.0).all()
    # The two branches and the blocks decide independently.
    assert abs((~kept[4, :, 0] & ~kept[4, :, 1]).mean() - 0.4**2) < 0.03
    assert abs((~kept[4, :, 0] & ~kept[3, :, 0]).mean() - 0.4 * 0.3) < 0.03


def test_drop_path_of_a_single_block():
    graphdef, shapes = tiny.vit_shapes(depth=1, drop_path=0.5)
    params, images = tiny.fill(shapes), tiny.images()
    model = tiny.jit(lambda images, key: nnx.merge(graphdef, params)(images, key=key))
    assert np.isfinite(model(images, jax.random.key(0))).all()


# Compute dtype.


def test_bfloat16_computes_short_and_keeps_float32():
    changes = {"pool": "map", "cls_token": True, "pre_logits": PRE_LOGITS}
    params, images, full = compared(**changes)
    graphdef, shapes = tiny.vit_shapes(**changes, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype("float32")}
    half = outputs(graphdef, params, images)
    assert half["logits"].dtype == np.float32
    # bfloat16 keeps 8 bits (0.4 %), rounded in some twenty places on the way.
    assert 1e-4 < tiny.error(half["logits"], full["logits"]) < 5e-2
    assert 1e-4 < tiny.error(half["tokens"], full["tokens"]) < 5e-2

    def loss(params):
        return jnp.mean(nnx.merge(graphdef, params)(images) ** 2)

    grads = jax.eval_shape(jax.grad(loss), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {np.dtype("float32")}


def test_float32_outputs_are_float32():
    _, _, actual = compared(pool="map", cls_token=True, pre_logits=PRE_LOGITS)
    assert {leaf.dtype for leaf in actual.values()} == {np.dtype("float32")}


# Errors.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": (13, 20)}, ("13", "20", "4", "5")),
        ({"image_size": (12, 21)}, ("12", "21", "4", "5")),
        ({"patch_size": (5, 4), "image_size": (20, 18)}, ("20", "18", "5", "4")),
        ({"width": 28}, ("28", "3")),
        ({"pool": "mean"}, ("mean", "cls", "gap", "map")),
        ({"pool": "cls", "cls_token": False}, ("cls_token",)),
        ({"position": "learned_cls", "cls_token": False}, ("cls_token",)),
        ({"dtype": "float8"}, ("float8", "float32", "bfloat16")),
        ({"position": "rope"}, ("rope", "learned", "learned_cls", "sincos2d")),
        ({"remat": "some"}, ("some", "none", "dots", "attention", "full")),
        ({"attention": "flash9"}, ("flash9", "xla")),
    ],
)
def test_wrong_settings_say_what_is_known(changes, words):
    with pytest.raises(ValueError) as raised:
        tiny.vit_shapes(**changes)
    for word in words:
        assert word in str(raised.value)


# Construction by variant.

BUILD = {
    "variant": "mu/16",
    "image_size": (32, 48),
    "channels": 3,
    "num_classes": 5,
    "pool": "cls",
    "position": "learned",
    "pre_logits": 0,
}


def built(**changes):
    return tiny.shapes(lambda key: build(**(BUILD | changes), key=key))[1]


def test_build_takes_the_variant():
    params = built()
    assert params["embedding"]["kernel"].shape == (16, 16, 3, 32)
    assert params["blocks"]["attention"]["query"]["kernel"].shape == (1, 32, 2, 16)
    assert params["blocks"]["mlp"]["hidden"]["kernel"].shape == (1, 32, 128)
    assert params["position_embedding"].shape == (1, 6, 32)
    assert params["head"]["kernel"].shape == (32, 5)


def test_build_replaces_what_is_given():
    params = built(width=48, depth=3, mlp_dim=80, num_heads=4, channels=1)
    assert params["embedding"]["kernel"].shape == (16, 16, 1, 48)
    assert params["blocks"]["attention"]["query"]["kernel"].shape == (3, 48, 4, 12)
    assert params["blocks"]["mlp"]["hidden"]["kernel"].shape == (3, 48, 80)


def test_build_pre_logits_of_minus_one_is_the_width():
    assert built(pre_logits=-1)["pre_logits"]["kernel"].shape == (32, 32)
    assert built(pre_logits=-1, width=48)["pre_logits"]["kernel"].shape == (48, 48)
    assert built(pre_logits=20)["pre_logits"]["kernel"].shape == (32, 20)
    assert "pre_logits" not in built()


def test_build_gives_a_cls_token_to_cls_pooling():
    assert "cls" in built(pool="cls")
    assert "cls" not in built(pool="gap")
    assert "cls" not in built(pool="map")
    assert "cls" in built(pool="gap", cls_token=True)


def test_build_passes_the_rest_on():
    graphdef, shapes = tiny.shapes(
        lambda key: build(
            **BUILD, drop_path=0.0, dropout=0.5, dtype="bfloat16", key=key
        )
    )
    params, images = tiny.fill(shapes), tiny.images(image_size=(32, 48))
    model = tiny.jit(lambda images, key: nnx.merge(graphdef, params)(images, key=key))
    assert tiny.error(model(images, jax.random.key(0)), model(images, None)) > 1e-2


def test_eager_construction_and_call():
    model = ViT(**tiny.settings(depth=1), key=jax.random.key(0))
    logits = model(tiny.images())
    assert logits.shape == (2, 7)
    assert logits.dtype == jnp.float32
