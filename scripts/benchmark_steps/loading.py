"""Batches of real data for the benchmark, through the package's own loader."""

import contextlib
from collections.abc import Generator
from typing import Any

from benchmark_steps.cells import Cell
from vit_jax.data import augment, sources
from vit_jax.data.facts import DatasetFacts
from vit_jax.data.pipeline import Deferred, Loader, train_batches

KINDS = ("folder:", "arrays:", "synthetic:")


def describe(name: str) -> DatasetFacts:
    """What the data set says of itself.

    Raises:
      DataError: it is not there.
    """
    return sources.describe(sources.DataSpec(name=name))


def open_batches(
    name: str, split: str, threads: int, cell: Cell, place: Any
) -> Generator[dict[str, Any]]:
    """Endless shuffled batches: decoded, cropped as an inception crop, on the devices.

    Raises:
      DataError: there is no such data or split.
    """
    spec = sources.DataSpec(
        name=name,
        image_shape=(cell.image_size, cell.image_size, 3),
        num_classes=cell.num_classes,
    )
    transform = Deferred(
        augment.train_transform,
        takes_sound=True,
        image_size=(cell.image_size, cell.image_size),
        channels=3,
        crop="inception",
        area=(0.05, 1.0),
        resize=None,
        pad=0,
        policy="none",
        randaugment_layers=0,
        randaugment_magnitude=0,
        color_jitter=0.0,
        views=1,
    )
    loader = Loader(
        sources.open_source(spec, split),
        transform,
        sharding=place,
        batch_size=cell.batch,
        seed=0,
        threads=threads,
    )
    with contextlib.closing(loader):
        batches = train_batches(loader, start=0, stop=10**9, shuffle=True, depth=2)
        with contextlib.closing(batches):
            yield from batches
