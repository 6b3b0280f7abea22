"""Pre-training objectives by name; adding one is a file and an entry here."""

from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.models.vit import ViT
from vit_jax.objectives.base import Objective
from vit_jax.objectives.distillation import Distillation
from vit_jax.objectives.supervised import Supervised

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "supervised": Supervised,
    "distillation": Distillation,
}


def build(section: Mapping[str, Any], *, encoder: ViT) -> Any:
    """Builds the objective that a config's ``objective`` section names.

    Raises:
      ValueError: the name is unknown.
    """
    settings = dict(section)
    name = settings.pop("name")
    if name not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise ValueError(f"objective.name {name!r} is unknown; known: {known}")
    return OBJECTIVES[name](encoder=encoder, **settings)
