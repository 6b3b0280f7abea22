"""A stack is so many layers: norms, factors and matrices are each layer's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.optim import trees
from vit_jax.optim import paths
from vit_jax.optim.muon import dimension_numbers

START, *GRADIENTS = [trees.random_flat(seed, trees.SMALL) for seed in (0, 1, 2)]


@pytest.mark.parametrize("name", trees.NAMES)
def test_a_stack_is_updated_as_its_layers_alone(name):
    changes = {"adafactor": dict(clip_rms=0.5), "lars": dict(learning_rate=2.0)}
    tx = trees.build(trees.section(name, **changes.get(name, {})))
    whole, _ = trees.steps_of(tx, START, GRADIENTS)
    whole = trees.in_layers(whole)
    alone, _ = trees.steps_of(
        tx, trees.in_layers(START), [trees.in_layers(g) for g in GRADIENTS]
    )
    assert whole.keys() == alone.keys()
    for path in whole:
        # The same operations in another order of summation.
        np.testing.assert_allclose(
            whole[path], alone[path], rtol=2e-6, atol=2e-6, err_msg=path
        )


def test_the_layer_axis_is_never_factored():
    tx = trees.build(trees.section("adafactor", min_factored=2))
    state = jax.eval_shape(tx.init, trees.nest(trees.random_flat(0)))
    shapes = {
        path[len("1/") :]: leaf.shape
        for path, leaf in trees.flatten(state).items()
        if path.startswith("1/")
    }
    depth = trees.DEPTH
    for path, wanted in {
        "v_row/encoder/blocks/attention/query/kernel": (depth, 2, 5),
        "v_col/encoder/blocks/attention/query/kernel": (depth, 6, 2),
        "v/encoder/blocks/attention/query/kernel": (depth, 1),
        "v/encoder/blocks/attention_norm/scale": (depth, 6),
        "v_row/encoder/blocks/attention_norm/scale": (depth, 1),
        "v_row/encoder/head/kernel": (6,),
        "v_col/encoder/head/kernel": (7,),
    }.items():
        assert shapes[path] == wanted, path


def test_layer_rates_by_hand():
    """BEiT's layer numbers with 3 blocks: inputs 0, blocks 1 to 3, the rest 4."""
    shapes = {path: jnp.zeros(shape) for path, shape in trees.SHAPES.items()}
    shapes["encoder/registers"] = shapes["encoder/mask_token"] = jnp.zeros(2)
    shapes["encoder/stem/root/kernel"] = jnp.zeros((3, 3, 3, 8))
    shapes["decoder/blocks/mlp/out/kernel"] = jnp.zeros((2, 8, 6))
    shapes["decoder/embedding/kernel"] = jnp.zeros((6, 4))
    rates = trees.flatten(paths.layer_rates(trees.nest(shapes), 0.5))
    for path, shape in shapes.items():
        if path.startswith("encoder/blocks/"):
            assert rates[path].shape == (3, *(1,) * (shape.ndim - 1)), path
            assert rates[path].ravel().tolist() == [0.125, 0.25, 0.5], path
    assert {path: rate for path, rate in rates.items() if "/blocks/" not in path} == {
        "encoder/cls": 0.0625,
        "encoder/registers": 0.0625,
        "encoder/mask_token": 0.0625,
        "encoder/position_embedding": 0.0625,
        "encoder/embedding/kernel": 0.0625,
        "encoder/embedding/bias": 0.0625,
        "encoder/stem/root/kernel": 0.0625,
        "encoder/pooling/mlp/hidden/kernel": 1.0,
        "encoder/norm/scale": 1.0,
        "encoder/head/kernel": 1.0,
        "encoder/head/bias": 1.0,
        "decoder/embedding/kernel": 1.0,
    }
    assert rates["decoder/blocks/mlp/out/kernel"] == 1.0


def test_layer_decay_without_blocks():
    tx = trees.build(trees.section("sgd", layer_decay=0.5))
    with pytest.raises(ValueError, match=r"layer_decay needs the blocks .* found 0"):
        tx.init({"head": {"kernel": jnp.zeros((2, 3))}})


def test_which_parameters_muon_takes():
    taken = {
        path: tuple(axes)
        for path in trees.SHAPES
        if (axes := dimension_numbers(path)) is not None
    }
    assert taken == {
        "encoder/blocks/attention/query/kernel": ((1,), (2, 3)),
        "encoder/blocks/attention/out/kernel": ((1, 2), (3,)),
        "encoder/blocks/mlp/hidden/kernel": ((1,), (2,)),
        "encoder/blocks/mlp/out/kernel": ((1,), (2,)),
        "encoder/pooling/mlp/hidden/kernel": ((0,), (1,)),
    }


def test_muon_makes_every_layer_about_orthogonal():
    settings = trees.section("muon", weight_decay=0.0, learning_rate=1.0, rms=0.0)
    params, _ = trees.steps_of(trees.build(settings), START, GRADIENTS[:1])
    path = "encoder/blocks/attention/query/kernel"
    for update in (params[path] - START[path]).reshape(trees.DEPTH, 6, 10):
        values = np.linalg.svd(update / np.sqrt(10 / 6), compute_uv=False)
        assert (values > 0.6).all() and (values < 1.3).all()  # the iteration's band
