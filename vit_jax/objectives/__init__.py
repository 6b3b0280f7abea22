"""Pre-training objectives by name; adding one is a file and an entry here."""

import inspect
from collections.abc import Mapping
from typing import Any

from vit_jax.models.vit import ViT
from vit_jax.objectives.autoregressive import Autoregressive
from vit_jax.objectives.base import Objective
from vit_jax.objectives.mae import MAE
from vit_jax.objectives.masked_patch import MaskedPatch
from vit_jax.objectives.supervised import Supervised

OBJECTIVES: dict[str, type[Objective]] = {
    "supervised": Supervised,
    "autoregressive": Autoregressive,
    "mae": MAE,
    "masked_patch": MaskedPatch,
}


def build(section: Mapping[str, Any], *, encoder: ViT, **given: Any) -> Any:
    """Builds the objective that a config's ``objective`` section names.

    Args:
      section: its name and settings.
      encoder: what it trains.
      given: what else the program has to give (``key``, and ``mean`` and ``std`` of
        pixels); an objective gets what its constructor names.

    Raises:
      ValueError: the name is unknown.
    """
    settings = dict(section)
    name = settings.pop("name")
    if name not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise ValueError(f"objective.name {name!r} is unknown; known: {known}")
    objective: Any = OBJECTIVES[name]
    wanted = inspect.signature(objective.__init__).parameters
    given = {key: value for key, value in given.items() if key in wanted}
    return objective(encoder=encoder, **given, **settings)


def mask_of(name: Any) -> str:
    """The kind of attention mask that an objective trains with; unknown names: none."""
    return OBJECTIVES[name].mask if name in OBJECTIVES else "none"
