"""The product of a dense layer: its kernel's gradient in one product, in a chosen type.

Devices that share a batch sum their parts of a kernel's gradient in the type in which
the product gives it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vit_jax.models.attention_choice import hardware

GRADIENT_DTYPES = ("compute", "float32")


def options(gradient_dtype: str) -> dict[str, Any]:
    """Keyword arguments of `nnx.Linear` and `nnx.LinearGeneral`.

    Args:
      gradient_dtype: ``"compute"``, the type that the layer computes in, or
        ``"float32"``, which rounds nothing before devices and rows are summed, and
        sends twice as much as bfloat16. Of kernels; biases and norms are small.
    """
    dots = {"compute": dot_general, "float32": dot_general_float32}
    return {"promote_dtype": _keep_kernel, "dot_general": dots[gradient_dtype]}


def _keep_kernel(arrays: Sequence[Any], *, dtype: Any = None, **_: Any) -> tuple:
    """Inputs and bias in the type of the computation; the product casts the kernel."""
    inputs, kernel, bias = arrays
    dtype = dtype or jnp.promote_types(inputs.dtype, kernel.dtype)
    return inputs.astype(dtype), kernel, None if bias is None else bias.astype(dtype)


def dot_general(
    inputs: jax.Array, kernel: ArrayLike, dimension_numbers: Any, *_: Any, **__: Any
) -> jax.Array:
    """``lax.dot_general`` without batch axes; the kernel is cast to the inputs' type.

    The kernel's contracted axes come first. There is no forward-mode derivative.
    """
    (axes, _), _ = dimension_numbers
    return _product(inputs, jnp.asarray(kernel), tuple(axes), None)


def dot_general_float32(
    inputs: jax.Array, kernel: ArrayLike, dimension_numbers: Any, *_: Any, **__: Any
) -> jax.Array:
    """As `dot_general`, with the kernel's gradient in float32."""
    (axes, _), _ = dimension_numbers
    return _product(inputs, jnp.asarray(kernel), tuple(axes), jnp.float32)


def _plain(inputs: jax.Array, kernel: jax.Array, axes: tuple, wide: Any) -> jax.Array:
    contracted = axes, tuple(range(len(axes)))
    return lax.dot_general(inputs, kernel.astype(inputs.dtype), (contracted, ((), ())))


_product = jax.custom_vjp(_plain, nondiff_argnums=(2, 3))


def _forward(inputs: jax.Array, kernel: jax.Array, axes: tuple, wide: Any) -> tuple:
    # Not by `_product`: a remat policy sees the product then, and not what holds it.
    return _plain(inputs, kernel, axes, wide), (inputs, kernel)


def _backward(axes: tuple, wide: Any, kept: tuple, grads: jax.Array) -> tuple:
    inputs, kernel = kept
    shape, num_rows = inputs.shape, inputs.ndim - len(axes)
    if _on_one_cpu():
        # With rows on several axes the compiler copies what it sums over them: 1.3
        # times the step of configs/digits.py.
        inputs, grads = _merge_rows(inputs, num_rows), _merge_rows(grads, num_rows)
        num_rows = 1
    rows = tuple(range(num_rows))
    features = tuple(range(num_rows, grads.ndim))
    outputs = tuple(range(len(axes), kernel.ndim))
    to_inputs = lax.dot_general(
        grads, kernel.astype(inputs.dtype), ((features, outputs), ((), ()))
    )
    # Not as `lax.dot_general` differentiates itself, by a product that is transposed:
    # for that, XLA copies large arrays on a CPU.
    to_kernel = lax.dot_general(
        inputs, grads, ((rows, rows), ((), ())), preferred_element_type=wide
    )
    return to_inputs.reshape(shape), to_kernel.astype(kernel.dtype)


def _on_one_cpu() -> bool:
    """One: merged rows would have to be cut along two axes of a mesh at once."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.size <= 1 and hardware().platform == "cpu"


def _merge_rows(array: jax.Array, num_rows: int) -> jax.Array:
    return array.reshape(-1, *array.shape[num_rows:])


_product.defvjp(_forward, _backward)
