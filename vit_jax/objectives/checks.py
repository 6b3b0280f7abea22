"""What objectives on patch tokens ask of a model."""

import jax

from vit_jax.models.settings import Settings
from vit_jax.models.vit import ViT
from vit_jax.objectives.masking import num_masked


def tokens_alone(name: str, model: Settings) -> list[str]:
    """Why patch tokens of this model cannot be all that an objective trains.

    What follows the tokens would stay at its initial values, and what drops, resizes
    or mixes patches would spoil the mask.
    """
    untrained, mixed = "trains no such part", "needs patches of one size, one by one"
    wrong = {
        "num_classes": (model.num_classes != 0, 0, untrained),
        "pool": (model.pool == "map", "gap", untrained),
        "pre_logits": (model.pre_logits != 0, 0, untrained),
        "final_norm": (model.final_norm != "tokens", "tokens", untrained),
        "patch_dropout": (model.patch_dropout != 0, 0.0, mixed),
        "patch_sizes": (model.patch_sizes != (), (), mixed),
        "stem": (model.stem is not None, None, mixed),
    }
    return [
        f"model.{field} is {getattr(model, field)!r}, but objective {name!r} {reason}; "
        + ("use a variant without one" if wanted is None else f"set it to {wanted!r}")
        for field, (is_wrong, wanted, reason) in wrong.items()
        if is_wrong
    ]


def share_problems(
    field: str, rate: float, *, places: int, what: str = "patches"
) -> list[str]:
    """Whether a mask hides some places, and not all of them."""
    if 0 < rate < 1 and num_masked(places, rate) < places:
        return []
    return [
        f"objective.{field} must be in (0, 1) and leave some of the {places} {what}, "
        f"got {rate!r}"
    ]


def expect_size(images: jax.Array, encoder: ViT) -> None:
    """Images in their own size only, although ``dynamic_size`` would take others.

    Raises:
      ValueError: they have another one; a mask is of one grid.
    """
    if encoder.grid_of(images) != encoder.grid:
        raise ValueError(
            f"images are {images.shape[1:3]}; masks are made for {encoder.image_size} "
            "(height, width), the size the model was built for"
        )
