"""What a parameter's path says: which decay, which lie in stacks, how deep they are.

A leaf below ``blocks`` carries the layers of its stack as its first axis. Rules that
look at a whole parameter (a norm, a matrix) look at each layer of it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

# What stands before the blocks; `decoder` has parts of these names that do not.
_INPUTS = {
    *("cls", "distillation", "embedding", "mask_token"),
    *("position_embedding", "registers", "stem"),
}


def map_paths(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Maps ``function(path, leaf, *rest)``, where a path is such as ``head/kernel``."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(
            jax.tree_util.keystr(path, simple=True, separator="/"), *leaves
        ),
        tree,
        *rest,
    )


def is_stacked(path: str) -> bool:
    """Whether the leaf's first axis is that of the layers."""
    return "blocks" in path.split("/")[:-1]


def is_head(path: str) -> bool:
    """Whether the leaf belongs to a classifier."""
    return not {"head", "head_distillation"}.isdisjoint(path.split("/"))


def _is_kernel(path: str, leaf: Any) -> bool:
    """Weights of dense layers, attention and patches (big_vision's ``.*/kernel``)."""
    return path.rpartition("/")[2] == "kernel"


def _is_matrix(path: str, leaf: Any) -> bool:
    """Rank above 1 without the layer axis; biases never, also not ``[heads, dim]``."""
    return path.rpartition("/")[2] != "bias" and leaf.ndim - is_stacked(path) > 1


def _is_any(path: str, leaf: Any) -> bool:
    return True


MASKS: dict[str, Callable[[str, Any], bool]] = {
    "kernels": _is_kernel,
    "matrices": _is_matrix,  # kernels, embeddings and tokens
    "all": _is_any,
}


def mask(name: str, *, field: str = "decay_mask") -> Callable[[Any], Any]:
    """The function from parameters to a tree of bools, True where ``name`` holds.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in MASKS:
        raise ValueError(
            f"optim.{field} {name!r} is unknown; known: {', '.join(MASKS)}"
        )
    chosen = MASKS[name]
    return lambda params: map_paths(chosen, params)


def layer_rates(params: Any, decay: float) -> Any:
    """Each parameter's share of the learning rate, as in BEiT (arXiv 2106.08254).

    With ``depth`` blocks in the encoder: ``decay ** (depth + 1)`` for what makes tokens
    of an image, ``decay ** (depth - i)`` for block i from 0, and 1 for what follows
    (norm, pooling, head, a decoder). In a stack it is an array along the layer axis.

    Raises:
      ValueError: there are no blocks.
    """
    depths: set[int] = set()

    def find_depth(path: str, leaf: Any) -> None:
        if is_stacked(path) and "decoder" not in path.split("/"):
            depths.add(leaf.shape[0])

    map_paths(find_depth, params)
    if len(depths) != 1:
        raise ValueError(
            f"optim.layer_decay needs the blocks of one encoder, found {len(depths)}; "
            "set it to 1.0"
        )
    (depth,) = depths

    def rate(path: str, leaf: Any) -> Any:
        parts = path.split("/")
        if "decoder" in parts:
            return 1.0
        if is_stacked(path):
            rates = decay ** jnp.arange(depth, 0, -1, dtype=jnp.float32)
            return rates.reshape(-1, *(1,) * (leaf.ndim - 1))
        return decay ** (depth + 1) if _INPUTS.intersection(parts) else 1.0

    return map_paths(rate, params)


def scale_by_layer(decay: float) -> optax.GradientTransformation:
    """Multiplies updates by `layer_rates`."""

    def init(params: Any) -> optax.EmptyState:
        layer_rates(params, decay)  # raises now, not in the first step
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        rates = layer_rates(updates, decay)
        return jax.tree.map(jnp.multiply, updates, rates), state

    return optax.GradientTransformation(init, update)
