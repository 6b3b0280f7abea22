"""Pictures of what an objective makes of images that it sees in part."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from vit_jax.data.mixing import normalize
from vit_jax.evals.base import Context, OnSplits, Params, Range, Settings, at_least
from vit_jax.objectives.base import merge
from vit_jax.sharding import BATCH_AXES, replicated

GAP = 2  # white pixels between pictures
SMALLEST = 64  # side of a picture; smaller images are enlarged


class Reconstruction(OnSplits):
    """A row an image, a column for each that ``objective.reconstruct`` returns.

    Those are, left to right, the image, what the model saw of it, and what it makes of
    that (and, of a model that can, what it draws on its own). The same images and the
    same masks every time, so that pictures of different steps can be compared.

    Args:
      context: of the run.
      data: another data set than the run's, or "".
      split: whose first images are shown.
      images: how many.
      resize: of images, for `context.open`.
    """

    RANGES: ClassVar[Mapping[str, Range]] = {"images": at_least(1)}
    needs_reconstruct: ClassVar[bool] = True

    def __init__(
        self, context: Context, *, data: str, split: str, images: int, resize: int
    ):
        parts = math.prod(context.mesh.shape[axis] for axis in BATCH_AXES)
        rows = -(-images // parts) * parts
        opened = context.open(split, data=data, batch_size=rows, resize=resize)
        super().__init__(context, [opened])
        self._split, self._images = opened, images
        self._pictures: dict[str, np.ndarray] = {}

        def reconstruct(params: Params, frozen: Params, images: jax.Array) -> Any:
            objective = merge(context.graphdef, params, frozen)
            pixels = normalize(images, context.mean, context.std)
            shown = objective.reconstruct(pixels, jax.random.key(context.seed))
            return {name: each.astype(jnp.float32) for name, each in shown.items()}

        self._reconstruct = jax.jit(reconstruct, out_shardings=replicated(context.mesh))
        self._mask = jax.jit(lambda mask: mask, out_shardings=replicated(context.mesh))

    @classmethod
    def results(cls, settings: Settings) -> tuple[str, ...]:
        """How far the reconstructions are from the images."""
        return ("mse",)

    def run(self, params: Params, frozen: Params) -> dict[str, float]:
        """Draws the pictures; returns ``mse`` over all normalised pixels shown."""
        with self.context.batches(self._split.loader) as batches:
            batch = next(batches)
            self.context.beat()
            shown = self._reconstruct(params, frozen, batch["image"])
            good = np.flatnonzero(np.asarray(self._mask(batch["mask"])))[: self._images]
            self.context.beat()
        if not len(good):
            raise self.error(
                f"none of the first {self._images} examples of {self._split.name} is "
                "good"
            )
        chosen = {name: np.asarray(each)[good] for name, each in shown.items()}
        mean, std = self.context.mean, self.context.std
        columns = [to_pixels(each, mean, std) for each in _in_order(chosen)]
        self._pictures = {"": grid(columns)}
        difference = chosen["reconstruction"] - chosen["images"]
        return {"mse": float(np.square(difference, dtype=np.float64).mean())}

    def take_images(self) -> dict[str, np.ndarray]:
        """The picture of the last `run`, without a name of its own."""
        taken, self._pictures = self._pictures, {}
        return taken


def _in_order(shown: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The columns that every objective has, then what it has besides (jit sorts)."""
    first = [name for name in ("images", "masked", "reconstruction") if name in shown]
    return [shown[name] for name in (*first, *sorted(shown.keys() - set(first)))]


def to_pixels(
    images: np.ndarray, mean: Sequence[float], std: Sequence[float]
) -> UInt8[np.ndarray, "N H W 3"]:
    """Normalised images as bytes; gray becomes three channels."""
    values = images * np.asarray(std, np.float32) + np.asarray(mean, np.float32)
    pixels = np.clip(np.nan_to_num(values) * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))


def grid(
    columns: Sequence[UInt8[np.ndarray, "N H W 3"]],
) -> UInt8[np.ndarray, "height width 3"]:
    """Pictures side by side, a row for each image."""
    count, height, width, _ = columns[0].shape
    zoom = max(1, -(-SMALLEST // min(height, width)))
    high, wide = height * zoom + GAP, width * zoom + GAP
    sheet = np.full((count * high - GAP, len(columns) * wide - GAP, 3), 255, np.uint8)
    for x, column in enumerate(columns):
        for y, picture in enumerate(column):
            large = picture.repeat(zoom, axis=0).repeat(zoom, axis=1)
            top, left = y * high, x * wide
            sheet[top : top + height * zoom, left : left + width * zoom] = large
    return sheet
