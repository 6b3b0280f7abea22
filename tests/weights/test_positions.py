import numpy as np
import pytest

from tests.models import tiny
from vit_jax.models.position import sincos2d, sincos2d_mae
from vit_jax.weights.base import complete
from vit_jax.weights.positions import cls_token, laid_out, position_table

PREFIX = {"cls_token": True, "distillation": "token", "registers": 2}


def _model(**changes):
    settings = complete(tiny.settings(**changes))
    _, shapes = tiny.vit_shapes(**changes)
    return settings, tiny.flatten(tiny.fill(shapes))


def _front(params):
    """The prefix tokens in their order."""
    names = ("cls", "distillation", "registers")
    return np.concatenate([params[name] for name in names if name in params], axis=1)


@pytest.mark.parametrize("position", ["learned", "learned_cls", "learned_prefix"])
@pytest.mark.parametrize("prefix_rows", [0, 1, 2, 4])
def test_tokens_and_positions_add_up_to_the_same(position, prefix_rows):
    settings, params = _model(position=position, **PREFIX)
    laid = laid_out(settings, params, prefix_rows=prefix_rows)
    table, own = laid["position_embedding"], params["position_embedding"]
    assert table.shape == (1, prefix_rows + 12, 24)
    np.testing.assert_array_equal(table[0, prefix_rows:], own[0, -12:])
    expected, actual = _front(params).copy(), _front(laid).copy()
    rows = own.shape[1] - 12
    expected[:, :rows] += own[:, :rows]
    actual[:, :prefix_rows] += table[:, :prefix_rows]
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert laid["blocks/mlp/out/bias"] is params["blocks/mlp/out/bias"]


def test_the_models_own_arrays_are_left_as_they_are():
    settings, params = _model(position="learned_cls", cls_token=True)
    before = params["cls"].copy()
    folded = cls_token(settings, params, prefix_rows=0)
    np.testing.assert_array_equal(params["cls"], before)
    own = params["position_embedding"][:, :1]
    np.testing.assert_array_equal(folded, before + own)
    kept = cls_token(settings, params, prefix_rows=1)
    np.testing.assert_array_equal(kept, before)


@pytest.mark.parametrize(
    ("position", "fixed"), [("sincos2d", sincos2d), ("sincos2d_mae", sincos2d_mae)]
)
def test_fixed_positions_are_computed(position, fixed):
    settings, params = _model(position=position, cls_token=True)
    table = position_table(settings, params, prefix_rows=1)
    assert not table[0, 0].any()
    np.testing.assert_allclose(table[0, 1:], fixed(3, 4, 24), atol=1e-6)


def test_no_positions_are_zeros():
    settings, params = _model(position="none")
    table = position_table(settings, params, prefix_rows=0)
    np.testing.assert_array_equal(table, np.zeros((1, 12, 24), np.float32))
