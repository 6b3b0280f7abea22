"""Conversions between layouts of parameters; each returns views when decoding."""

import functools
import math

import numpy as np

from vit_jax.weights.table import Codec

same = Codec(lambda array: (array,), lambda array: array)

# A dense kernel: torch keeps [out, in].
transposed = Codec(lambda array: (array.T,), lambda array: array.T)

# A convolution's kernel: torch keeps [out, in, height, width].
convolution = Codec(
    lambda array: (array.transpose(2, 3, 1, 0),),
    lambda array: array.transpose(3, 2, 0, 1),
)


def reshaped(ours: tuple[int, ...], theirs: tuple[int, ...]) -> Codec:
    """The same numbers in the same order, in another shape."""
    return Codec(
        lambda array: (_reshape(array, ours),), lambda array: array.reshape(theirs)
    )


def _reshape(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.size != math.prod(shape):
        raise ValueError(f"{array.shape} does not hold {shape}")
    return array.reshape(shape)


def heads_in(num_heads: int) -> Codec:
    """``[heads * head_dim, width]`` and our query, key or value ``[width, H, Dh]``."""
    return packed_heads_in(num_heads, 1)


def heads_bias(num_heads: int) -> Codec:
    """``[heads * head_dim]`` and our ``[H, Dh]``."""
    return packed_heads_bias(num_heads, 1)


def heads_out(num_heads: int) -> Codec:
    """``[width, heads * head_dim]`` and our output projection ``[H, Dh, width]``."""
    return Codec(functools.partial(_split_columns, num_heads), _join_columns)


def packed_heads_in(num_heads: int, parts: int) -> Codec:
    """``[parts * heads * head_dim, width]``: query, key, value packed in this order."""
    return Codec(functools.partial(_split_rows, num_heads, parts), _join_rows)


def packed_heads_bias(num_heads: int, parts: int) -> Codec:
    """``[parts * heads * head_dim]``: biases of query, key, value packed likewise."""
    return Codec(functools.partial(_split_biases, num_heads, parts), _join_biases)


def packed_dense(parts: int) -> Codec:
    """``[parts * out, in]`` dense kernels packed on the first axis, ours ``[in, out]``.

    Also of biases, ``[parts * out]``.
    """
    return Codec(functools.partial(_split_dense, parts), _join_dense)


def _split_columns(num_heads: int, array: np.ndarray) -> tuple[np.ndarray, ...]:
    width, _ = array.shape
    return (array.reshape(width, num_heads, -1).transpose(1, 2, 0),)


def _join_columns(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 0, 1).reshape(kernel.shape[2], -1)


def _split_rows(
    num_heads: int, parts: int, array: np.ndarray
) -> tuple[np.ndarray, ...]:
    _, width = array.shape
    view = array.reshape(parts, num_heads, -1, width)
    return tuple(part.transpose(2, 0, 1) for part in view)


def _join_rows(*kernels: np.ndarray) -> np.ndarray:
    flat = [kernel.transpose(1, 2, 0).reshape(-1, len(kernel)) for kernel in kernels]
    return np.concatenate(flat)


def _split_biases(
    num_heads: int, parts: int, array: np.ndarray
) -> tuple[np.ndarray, ...]:
    (size,) = array.shape
    return tuple(array.reshape(parts, num_heads, size // (parts * num_heads)))


def _join_biases(*biases: np.ndarray) -> np.ndarray:
    return np.concatenate([bias.reshape(-1) for bias in biases])


def _split_dense(parts: int, array: np.ndarray) -> tuple[np.ndarray, ...]:
    view = array.reshape(parts, -1, *array.shape[1:])
    return tuple(part.T for part in view)


def _join_dense(*kernels: np.ndarray) -> np.ndarray:
    return np.concatenate([kernel.T for kernel in kernels])
