"""Every initialiser: its spread, its bounds, and that no two draws are alike."""

import functools
import itertools
import math

import jax
import numpy as np
import pytest
from flax import nnx

from tests.models import tiny
from vit_jax.models.vit import ViT

SEEDS = 64
WIDTH, DEPTH, MLP, HEADS, CLASSES, PRE_LOGITS = 64, 3, 160, 4, 7, 48
CHANGES = {
    "width": WIDTH,
    "depth": DEPTH,
    "mlp_dim": MLP,
    "num_heads": HEADS,
    "num_classes": CLASSES,
    "pool": "map",
    "cls_token": True,
    "pre_logits": PRE_LOGITS,
    "head_bias": -6.9,
}
FAN_IN = 4 * 5 * 3

# Enough numbers that 3 % is at least four standard errors.
TOLERANCE = 0.03


@functools.cache
def draws():
    """{path: [SEEDS, ...]}: the parameters of SEEDS models."""

    def init(key):
        model = ViT(**tiny.settings(**CHANGES), key=key)
        return nnx.to_pure_dict(nnx.split(model)[1])

    keys = jax.random.split(jax.random.key(0), SEEDS)
    return tiny.flatten(jax.tree.map(np.asarray, tiny.jit(jax.vmap(init))(keys)))


def layers(path):
    """The draws of a path by layer: a list of one where there is no layer axis."""
    values = draws()[path]
    if path.startswith("blocks/"):
        assert values.shape[1] == DEPTH
        return [values[:, layer] for layer in range(DEPTH)]
    return [values]


ATTENTION = [
    f"{part}/attention/{name}/kernel"
    for part in ("blocks", "pooling")
    for name in ("query", "key", "value", "out")
]
MLPS = [
    f"{part}/mlp/{name}/kernel"
    for part in ("blocks", "pooling")
    for name in ("hidden", "out")
]
XAVIER = dict.fromkeys(ATTENTION, (WIDTH, WIDTH)) | dict.fromkeys(MLPS, (WIDTH, MLP))
# The initialiser reads shape (1, 1, D) as a 1-wide convolution from 1 to D channels.
XAVIER["pooling/probe"] = (1, WIDTH)


@pytest.mark.parametrize("path", XAVIER)
def test_xavier_uniform(path):
    bound = math.sqrt(6.0 / sum(XAVIER[path]))
    for values in layers(path):
        assert np.abs(values).max() <= bound * (1 + 1e-6)
        assert np.abs(values).max() >= bound * 0.99
        assert abs(values.std() / (bound / math.sqrt(3.0)) - 1.0) < TOLERANCE
        assert abs(values.mean()) < TOLERANCE * bound


@pytest.mark.parametrize(
    ("path", "fan_in"), [("embedding/kernel", FAN_IN), ("pre_logits/kernel", WIDTH)]
)
def test_lecun_normal(path, fan_in):
    values = draws()[path]
    std = math.sqrt(1.0 / fan_in)
    assert abs(values.std() / std - 1.0) < TOLERANCE
    assert abs(values.mean()) < TOLERANCE * std
    # A normal cut at two of its deviations and widened to the right one.
    bound = 2.0 * std / 0.87962566103423978
    assert 0.98 * bound < np.abs(values).max() <= bound * (1 + 1e-6)


@pytest.mark.parametrize("path", [path.replace("kernel", "bias") for path in MLPS])
def test_mlp_biases_are_nearly_zero(path):
    for values in layers(path):
        assert abs(values.std() / 1e-6 - 1.0) < TOLERANCE
        assert abs(values.mean()) < 4 * 1e-6 / math.sqrt(values.size)
        assert np.abs(values).max() > 2.5e-6  # not cut off


def test_learned_position():
    values = draws()["position_embedding"]
    assert abs(values.std() * math.sqrt(WIDTH) - 1.0) < TOLERANCE
    assert np.abs(values).max() > 3.0 / math.sqrt(WIDTH)  # not cut off


def test_learned_cls_position():
    def init(key):
        changes = {"pool": "cls", "cls_token": True, "position": "learned_cls"}
        model = ViT(**tiny.settings(**changes), key=key)
        return nnx.to_pure_dict(nnx.split(model)[1])["position_embedding"]

    values = tiny.jit(jax.vmap(init))(jax.random.split(jax.random.key(1), SEEDS))
    assert values.shape == (SEEDS, 1, 13, 24)
    assert abs(np.std(values) / 0.02 - 1.0) < TOLERANCE  # as the paper's code
    # CLS's row is drawn like the others: 1536 numbers, so four errors are 8 %.
    assert abs(np.std(values[:, :, 0]) / 0.02 - 1.0) < 0.08


ZEROS = [
    "cls",
    "embedding/bias",
    "pre_logits/bias",
    "head/kernel",
    *[path.replace("kernel", "bias") for path in ATTENTION],
    *[f"{norm}/bias" for norm in ("blocks/attention_norm", "blocks/mlp_norm", "norm")],
    "pooling/norm/bias",
]
ONES = [path.replace("bias", "scale") for path in ZEROS if "norm/" in path]


@pytest.mark.parametrize("path", ZEROS)
def test_zeros(path):
    assert (draws()[path] == 0.0).all()


@pytest.mark.parametrize("path", ONES)
def test_ones(path):
    assert (draws()[path] == 1.0).all()


def test_head_bias():
    np.testing.assert_array_equal(draws()["head/bias"], np.float32(-6.9))


def test_every_parameter_is_covered():
    covered = {*XAVIER, *ZEROS, *ONES, *[p.replace("kernel", "bias") for p in MLPS]}
    covered |= {"embedding/kernel", "pre_logits/kernel", "position_embedding"}
    assert set(draws()) == covered | {"head/bias"}


def test_all_parameters_are_float32():
    assert {values.dtype for values in draws().values()} == {np.dtype("float32")}


def test_no_two_draws_are_alike():
    # A key used twice gives two parameters that are multiples of one another.
    random = [p for p in draws() if p not in {*ZEROS, *ONES, "head/bias"}]
    slices = {
        f"{path}[{layer}, seed {seed}]": values[seed].ravel()
        for path in random
        for layer, values in enumerate(layers(path))
        for seed in range(2)
    }
    for (a, x), (b, y) in itertools.combinations(slices.items(), 2):
        if x.size == y.size and x.size >= 64:
            correlation = np.corrcoef(x, y)[0, 1]
            assert abs(correlation) < 6 / math.sqrt(x.size), (a, b)


def test_the_key_alone_decides():
    # Not the form of the stack, the compute dtype, nor the models drawn beside it.
    def init(key):
        changes = CHANGES | {"unroll": DEPTH, "remat": "full", "dtype": "bfloat16"}
        model = ViT(**tiny.settings(**changes), key=key)
        return nnx.to_pure_dict(nnx.split(model)[1])

    key = jax.random.split(jax.random.key(0), SEEDS)[0]
    params = tiny.flatten(tiny.jit(init)(key))
    for path, values in draws().items():
        np.testing.assert_allclose(params[path], values[0], rtol=1e-6, err_msg=path)
