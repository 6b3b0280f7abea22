"""From the entries of a config's `evals` to evaluators and the splits they read."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax import evals, setup, setup_data, sharding
from vit_jax.data import augment, sources
from vit_jax.data.pipeline import Deferred, Loader
from vit_jax.evals.base import Split

# A training crop for the linear probe: MAE's, of torchvision's default share.
PROBE_AREA = (0.08, 1.0)


def build_evaluator(
    config: ConfigDict,
    name: str,
    *,
    parts: setup.Parts,
    beat: Callable[[], None] = lambda: None,
    compiling: Callable[[bool], None] = lambda begins: None,
) -> evals.Evaluator:
    """The evaluator of ``config.evals[name]``, reading its own splits.

    It calls ``beat`` when a batch arrived and when it was counted, and ``compiling``
    around what it compiles after the first batch.

    Raises:
      DataError: what it reads cannot be evaluated with this model.
    """
    settings = dict(config.evals[name])
    build = evals.EVALUATORS[settings.pop("name")]
    del settings["every"]
    context = evals.Context(
        name=name,
        graphdef=parts.graphdef,
        mean=config.data.mean,
        std=config.data.std,
        num_classes=config.model.num_classes or 0,
        class_names=sources.describe(setup_data.data_spec(config)).class_names,
        mesh=parts.mesh,
        seed=config.seed,
        open=functools.partial(open_split, config, parts.mesh),
        beat=beat,
        compiling=compiling,
    )
    return build(context, **settings)


def open_split(
    config: ConfigDict,
    mesh: jax.sharding.Mesh,
    split: str,
    *,
    batch_size: int | None,
    resize: int,
    augment: bool = False,
    **chosen: Any,
) -> Split:
    """Opens a split, in order, as the model sees it.

    ``chosen`` is for `setup_data.evaluated_spec`.
    """
    spec = setup_data.evaluated_spec(config, **chosen)
    facts = sources.describe(spec)
    num_classes = facts.num_classes
    if num_classes is None and not chosen.get("data"):
        num_classes = config.model.num_classes or None
    # By threads always: worker processes would sit idle between evaluations.
    loader = Loader(
        sources.open_source(spec, split),
        _training_crop(config) if augment else _central_crop(config, resize),
        sharding=sharding.batch_sharding(mesh),
        batch_size=batch_size or config.train.batch_size,
        seed=config.seed,
        threads=config.data.threads,
        bad=config.data.bad,
        max_bad=config.data.max_bad,
    )
    return Split(loader, f"{facts.name} {split!r}", num_classes, facts.class_names)


def _central_crop(config: ConfigDict, resize: int) -> Deferred:
    return Deferred(
        augment.eval_transform,
        takes_rng=False,
        image_size=setup_data.image_size(config),
        channels=config.model.channels,
        resize=resize,
        max_pixels=config.data.max_pixels,
    )


def _training_crop(config: ConfigDict) -> Deferred:
    return Deferred(
        augment.train_transform,
        takes_sound=True,
        image_size=setup_data.image_size(config),
        channels=config.model.channels,
        crop="inception",
        area=PROBE_AREA,
        resize=None,
        pad=0,
        policy="none",
        randaugment_layers=0,
        randaugment_magnitude=0.0,
        color_jitter=0.0,
        views=1,
        max_pixels=config.data.max_pixels,
    )
