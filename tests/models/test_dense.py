"""The product of dense layers: its values and gradients, and their type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from tests.models import tiny
from vit_jax.models import dense

# (inputs, kernel, contracted axes of the inputs): a linear layer, heads, heads' output.
SHAPES = [
    ((2, 5, 6), (6, 7), (2,)),
    ((2, 5, 6), (6, 3, 4), (2,)),
    ((2, 5, 3, 4), (3, 4, 6), (2, 3)),
    ((5, 6), (6, 7), (1,)),
]


def numbers(axes):
    return ((axes, tuple(range(len(axes)))), ((), ()))


def draw(inputs, kernel, dtype):
    keys = jax.random.split(jax.random.key(0))
    return (
        jax.random.normal(keys[0], inputs).astype(dtype),
        jax.random.normal(keys[1], kernel),
    )


@pytest.mark.parametrize("dot", [dense.dot_general, dense.dot_general_float32])
@pytest.mark.parametrize(("inputs", "kernel", "axes"), SHAPES)
def test_values_and_gradients_are_those_of_lax(inputs, kernel, axes, dot):
    given = draw(inputs, kernel, jnp.float32)

    def results(dot):
        def loss(inputs, kernel):
            out = dot(inputs, kernel, numbers(axes))
            return (out * jnp.sin(jnp.arange(out.size).reshape(out.shape))).sum(), out

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(*given)

    got, wanted = tiny.jit(lambda: results(dot))(), results(lax.dot_general)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gradient_dtype", dense.GRADIENT_DTYPES)
def test_the_type_that_gradients_are_computed_in(gradient_dtype):
    """In bfloat16, 257 ones add up to 256 or 258; in float32 to 257."""
    layer = nnx.Linear(
        1,
        1,
        dtype=jnp.bfloat16,
        use_bias=False,
        rngs=nnx.Rngs(0),
        **dense.options(gradient_dtype),
    )
    grads = nnx.grad(lambda layer: layer(jnp.ones((257, 1))).sum().astype(jnp.float32))
    found = grads(layer)["kernel"][...]
    assert layer(jnp.ones((1, 1))).dtype == jnp.bfloat16
    assert found.dtype == jnp.float32
    assert (found.item() == 257) == (gradient_dtype == "float32")


def test_the_kernel_is_cast_and_not_what_it_is_kept_in():
    """As Flax's own layer computes in bfloat16, to the bit."""
    ours = nnx.Linear(
        6, 7, dtype=jnp.bfloat16, rngs=nnx.Rngs(0), **dense.options("compute")
    )
    flax = nnx.Linear(6, 7, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    inputs = jax.random.normal(jax.random.key(1), (3, 6))
    np.testing.assert_array_equal(ours(inputs), flax(inputs))
    assert ours.kernel[...].dtype == jnp.float32
