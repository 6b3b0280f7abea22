"""One cell of the grid: a model at a batch size, and how it is computed."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from vit_jax.models.settings import Settings, check_vit
from vit_jax.models.variants import resolve

POOLS = {"gap": "learned", "cls": "learned_cls"}  # and the positions that timm has


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """What is measured.

    Args:
      model: variant, such as ``"S/16"``.
      batch: images a step, over all devices.
      dtype, attention, remat: as the config's ``model`` section.
      unroll: likewise; 0 is the model's depth, the blocks written out.
      image_size: height and width in pixels.
      num_classes: of the head.
      pool: ``"gap"`` or ``"cls"``.
    """

    model: str
    batch: int
    dtype: str
    attention: str = "xla"
    remat: str = "elementwise"
    unroll: int = 1
    image_size: int = 224
    num_classes: int = 1000
    pool: str = "gap"

    @property
    def settings(self) -> dict[str, Any]:
        """Complete keyword arguments of the ViT, less those that have defaults.

        Raises:
          ValueError: there is no such model, or it cannot be built so.
        """
        chosen = resolve(
            variant=self.model,
            image_size=(self.image_size, self.image_size),
            pool=self.pool,
            position=POOLS[self.pool],
            channels=3,
            num_classes=self.num_classes,
            dtype=self.dtype,
            attention=self.attention,
            remat=self.remat,
        )
        chosen["unroll"] = self.unroll or chosen["depth"]
        if problems := check_vit(Settings(**chosen)):
            raise ValueError("; ".join(problems))
        return chosen

    @property
    def label(self) -> str:
        """In a few characters, for tables and figures."""
        loop = {0: "unrolled", 1: "scan"}.get(self.unroll, f"unroll {self.unroll}")
        words = [self.model, f"x{self.batch}", self.dtype, self.attention, loop]
        if self.remat != "elementwise":
            words.append(f"remat {self.remat}")
        return " ".join(words)


def grid(
    *,
    models: Sequence[str],
    batches: Sequence[int],
    dtypes: Sequence[str],
    attentions: Sequence[str],
    remats: Sequence[str],
    unrolls: Sequence[int],
    **fixed: Any,
) -> Iterator[Cell]:
    """Every combination, the model slowest.

    Raises:
      ValueError: a value is not known to the model.
    """
    for model, batch, dtype, attention, remat, unroll in itertools.product(
        models, batches, dtypes, attentions, remats, unrolls
    ):
        cell = Cell(
            model=model,
            batch=batch,
            dtype=dtype,
            attention=attention,
            remat=remat,
            unroll=unroll,
            **fixed,
        )
        cell.settings  # noqa: B018 - raises before anything is compiled
        yield cell
