"""From a checked config to the data that training and evaluation read."""

import dataclasses

import jax
from ml_collections import ConfigDict

from vit_jax import sharding, teachers
from vit_jax.data import augment, sources
from vit_jax.data.errors import DataError
from vit_jax.data.facts import DatasetFacts, split_size
from vit_jax.data.pipeline import Deferred, Loader, Source, StreamSource


def check_evaluated(config: ConfigDict) -> list[str]:
    """What is wrong with the data sets of evaluations that have one of their own."""
    problems = []
    for name, section in config.evals.items():
        if not section.get("data"):
            continue
        labels = section.get("label_key") or ""
        spec = evaluated_spec(config, data=section.data, label_key=labels)
        try:
            facts = sources.describe(spec)
            for field in ("train_split", "split"):
                if field in section:
                    split_size(facts, section[field])
        except DataError as error:
            problems.append(f"evals.{name}: {error}")
    return problems


def data_spec(config: ConfigDict) -> sources.DataSpec:
    """Where the examples come from."""
    data = config.data
    return sources.DataSpec(
        name=data.name,
        dir=data.dir or None,
        image_key=data.image_key,
        label_key=data.label_key,
        cache_bytes=data.cache_mb << 20,
        tolerant=data.bad == "skip",
        mix=data.mix,
        mix_classes=data.mix_classes,
        image_shape=(*image_size(config), config.model.channels),
        num_classes=config.model.num_classes or None,
    )


def evaluated_spec(
    config: ConfigDict, *, data: str = "", label_key: str = "", many: bool = False
) -> sources.DataSpec:
    """What an evaluation reads: the run's data set, or another, maybe other labels."""
    other = {"name": data, "mix": ()} if data else {}
    labels = {"label_key": label_key} if label_key else {}
    return dataclasses.replace(data_spec(config), many=many, **other, **labels)


def open_source(config: ConfigDict, expression: str) -> Source | StreamSource:
    """The examples of one split of the configured data set."""
    return sources.open_source(data_spec(config), expression)


def image_size(config: ConfigDict) -> tuple[int, int]:
    """Height and width; one value means a square."""
    size = config.model.image_size
    return (size[0], size[-1])


def build_loader(
    config: ConfigDict,
    mesh: jax.sharding.Mesh,
    source: teachers.Source | None = None,
) -> Loader:
    """The training split, augmented on the host, with what a teacher adds to it."""
    section = config.data.augment
    transform = Deferred(
        augment.train_transform,
        takes_sound=True,
        image_size=image_size(config),
        channels=config.model.channels,
        crop=section.crop,
        area=section.area,
        resize=section.resize,
        pad=section.pad,
        policy=section.policy,
        randaugment_layers=section.randaugment_layers,
        randaugment_magnitude=section.randaugment_magnitude,
        color_jitter=section.color_jitter,
        views=section.views,
        max_pixels=config.data.max_pixels,
    )
    return Loader(
        open_source(config, config.data.split),
        transform,
        sharding=sharding.batch_sharding(mesh),
        batch_size=config.train.batch_size,
        seed=config.seed,
        columns=None if source is None else source.columns,
        threads=config.data.threads,
        workers=config.data.workers,
        repeats=section.repeats,
        bad=config.data.bad,
        max_bad=config.data.max_bad,
        batches=config.data.prefetch + 3,  # in the making, and in use by two steps
    )


def num_train_examples(config: ConfigDict, facts: DatasetFacts) -> int:
    """Examples of ``config.data.split``."""
    return split_size(facts, config.data.split)
