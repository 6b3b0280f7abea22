"""What an objective is: a module that owns the encoder and says what the loss is."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from vit_jax.models.settings import Settings

Batch = dict[str, jax.Array]
Params = dict[str, Any]


class Objective(nnx.Module):
    """An encoder with whatever else is trained, and the loss over them.

    A subclass names its untrained parts in ``frozen``: top-level attributes that stay
    out of the gradient and the optimizer. One without parameters may be among them.

    Without ``has_logits`` it trains no head: the model has no classes then, and no
    evaluator may ask for logits. ``mask`` is the kind of attention mask it trains with
    (models/attention_choice.py): not every kernel takes every one.
    """

    frozen: ClassVar[tuple[str, ...]] = ()
    has_logits: ClassVar[bool] = True
    mask: ClassVar[str] = "none"

    @classmethod
    def problems(cls, settings: Mapping[str, Any], model: Settings) -> list[str]:
        """What a config cannot ask of it, a line each.

        Args:
          settings: the section ``objective``, complete.
          model: of the encoder.
        """
        return []

    def loss(
        self, batch: Batch, *, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
        """Mean loss over a prepared batch, and scalar metrics; no key: no dropout."""
        raise NotImplementedError(f"{type(self).__name__} does not define loss")

    def predict(self, images: Float[Array, "B H W C"]) -> dict[str, jax.Array]:
        """``features`` ``[B, D]``, and ``logits`` ``[B, K]`` where there are any."""
        raise NotImplementedError(f"{type(self).__name__} does not define predict")

    def train_flops(self) -> int:
        """Floating-point operations of one image's forward and backward pass."""
        raise NotImplementedError(f"{type(self).__name__} does not define train_flops")


def split(objective: Objective) -> tuple[nnx.GraphDef, Params, Params]:
    """Takes an objective apart: structure, trained parameters, frozen parameters.

    Both parameter trees are plain nested dicts with stable paths, such as
    ``encoder/blocks/attention/query/kernel``.
    """
    graphdef, state = nnx.split(objective)
    params = nnx.to_pure_dict(state)
    frozen = {name: params.pop(name) for name in objective.frozen if name in params}
    return graphdef, params, frozen


def merge(graphdef: nnx.GraphDef, params: Params, frozen: Params) -> Any:
    """Puts an objective together again; the inverse of `split`."""
    return nnx.merge(graphdef, params | frozen)
