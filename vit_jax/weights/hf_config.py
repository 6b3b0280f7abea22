"""What ``config.json`` of a Hugging Face folder says, with the types checked."""

from collections.abc import Mapping
from typing import Any

from vit_jax.weights.arrays import Arrays
from vit_jax.weights.files import WeightsError


class Config:
    """The image encoder's part of ``config.json``; empty where there is none.

    Args:
      arrays: with the config.
    """

    def __init__(self, arrays: Arrays):
        vision = arrays.config.get("vision_config")
        self.values: Mapping[str, Any] = (
            vision if isinstance(vision, dict) else arrays.config
        )
        self.name = arrays.name
        self.there = bool(arrays.config)

    def get(self, key: str, kind: type, default: Any) -> Any:
        """A bool, str, int or float (an int is one too); ``default`` for null.

        Raises:
          WeightsError: it is of another type.
        """
        value = self.values.get(key)
        if value is None:
            return default
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise self._error(key)
        return value

    def size(self, key: str) -> tuple[int, int] | None:
        """A height and width, of which one number is both; None for null.

        Raises:
          WeightsError: it is neither.
        """
        value = self.values.get(key)
        if value is None:
            return None
        pair = [value, value] if type(value) is int else value
        if not isinstance(pair, list) or [type(side) for side in pair] != [int, int]:
            raise self._error(key)
        return pair[0], pair[1]

    def _error(self, key: str) -> WeightsError:
        return WeightsError(f"{self.name}: config.json: {key} is {self.values[key]!r}")


def class_names(arrays: Arrays, num_classes: int) -> tuple[str, ...]:
    """Names of the classes in order; empty where they are only numbered."""
    names = arrays.config.get("id2label")
    if not isinstance(names, dict) or len(names) != num_classes:
        return ()
    ordered = tuple(str(names.get(str(index))) for index in range(num_classes))
    numbered = tuple(f"LABEL_{index}" for index in range(num_classes))
    return () if ordered == numbered else ordered


def labels(num_classes: int, names: tuple[str, ...]) -> dict[str, Any]:
    """``id2label`` and ``label2id`` of a classifier."""
    chosen = names or tuple(f"LABEL_{index}" for index in range(num_classes))
    return {
        "id2label": {str(index): name for index, name in enumerate(chosen)},
        "label2id": {name: index for index, name in enumerate(chosen)},
    }
