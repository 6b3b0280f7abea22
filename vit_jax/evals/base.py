"""What an evaluator is."""

from typing import Any, Protocol, runtime_checkable

from vit_jax.data.rows import BadExample


@runtime_checkable
class Evaluator(Protocol):
    """Measures a set of parameters; exact on any number of devices."""

    def run(self, params: dict[str, Any], frozen: dict[str, Any]) -> dict[str, float]:
        """Returns named numbers, such as ``{"accuracy": 0.97}``."""
        ...

    def take_bad(self) -> list[BadExample]:
        """Damaged examples that were left out, since the last call."""
        ...

    def close(self) -> None:
        """Frees threads and files."""
        ...
