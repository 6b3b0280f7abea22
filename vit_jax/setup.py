"""From a checked config to the parts of a run: mesh, state, step, data, evaluators.

`train`, `evaluate` and planning build through these functions, so that what is
evaluated or planned is what runs. Nothing here allocates before its shardings exist.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from flax import nnx
from ml_collections import ConfigDict

from vit_jax import evals, objectives, optim, sharding, teachers, train_state
from vit_jax.config import ConfigError, check, resolve_duration
from vit_jax.config_check_model import check_attention
from vit_jax.data import augment, mixing, sources
from vit_jax.data.errors import DataError
from vit_jax.data.facts import DatasetFacts, split_size
from vit_jax.data.pipeline import Deferred, Loader, Source, StreamSource
from vit_jax.evals.base import Evaluator
from vit_jax.models import vit
from vit_jax.models.attention_choice import Hardware
from vit_jax.objectives.base import split
from vit_jax.objectives.labels import resolve_class_weights
from vit_jax.train_state import TrainState
from vit_jax.train_step import TrainStep, build_train_step


@dataclasses.dataclass(frozen=True)
class Steps:
    """Every duration of a config, in steps."""

    total: int
    warmup: int
    cooldown: int
    checkpoint_every: int
    log_every: int
    eval_every: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the loop runs: structure, shapes, shardings and the jitted step."""

    mesh: Any  # a Mesh, or an AbstractMesh that is only planned with
    graphdef: Any
    state_shapes: TrainState  # ShapeDtypeStructs that carry their shardings
    frozen: dict[str, Any]
    train_step: TrainStep
    init: Any  # init() -> TrainState, in its shards
    schedule: Any
    step_key: Any
    flops_per_image: int
    teacher: teachers.Source | None = None
    loaded: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)


def describe_data(config: ConfigDict) -> DatasetFacts:
    """Reads what the data set says of itself; no TensorFlow.

    Raises:
      ConfigError: together with every other problem of the config.
    """
    kind = jax.local_devices()[0].device_kind
    here = check_attention(config.model, Hardware(jax.default_backend(), kind))
    try:
        facts = sources.describe(data_spec(config))
    except DataError as error:
        others = check(config, facts=None, num_devices=jax.device_count())
        raise ConfigError([str(error), *others, *here]) from error
    problems = check(config, facts=facts, num_devices=jax.device_count()) + here
    if problems:
        raise ConfigError(problems)
    return facts


def resolve(config: ConfigDict, facts: DatasetFacts) -> ConfigDict:
    """A copy with what others decide filled in: number of classes, class weights.

    Raises:
      ConfigError: the file of class weights cannot be read, or does not fit.
    """
    config = config.copy_and_resolve_references()
    if config.model.num_classes is None:
        config.model.num_classes = facts.num_classes
    if "class_weights" in config.objective:
        try:
            config.objective.class_weights = resolve_class_weights(
                config.objective.class_weights, config.model.num_classes
            )
        except ValueError as error:
            raise ConfigError(str(error)) from None
    return config.lock()


def resolve_steps(config: ConfigDict, num_examples: int) -> Steps:
    """Turns every duration of a config into steps."""
    steps = functools.partial(
        resolve_duration,
        batch_size=config.train.batch_size,
        num_examples=num_examples,
    )
    return Steps(
        total=steps(config.train.duration),
        warmup=steps(config.schedule.warmup),
        cooldown=steps(config.schedule.cooldown),
        checkpoint_every=max(1, steps(config.checkpoint.every)),
        log_every=max(1, steps(config.log.every)),
        eval_every={
            name: max(1, steps(section.every)) for name, section in config.evals.items()
        },
    )


def build_parts(
    config: ConfigDict,
    steps: Steps,
    *,
    devices: Sequence[Any] | None = None,
    mesh: sharding.AnyMesh | None = None,
    place: bool = True,
    trains: bool = True,
) -> Parts:
    """Shapes, then shardings, then functions that will run on the mesh.

    Args:
      config: a resolved config.
      steps: its durations.
      devices: all of them by default.
      mesh: one that is there, in place of that of ``config.mesh``.
      place: False puts nothing on the devices, which may be no more than a
        description: ``frozen`` and ``step_key`` are shapes then.
      trains: False leaves out what only the loss needs, such as a teacher.

    Raises:
      ConfigError, DataError, WeightsError: there is no such teacher, or it cannot
        teach.
    """
    mesh = mesh or sharding.build_mesh(**config.mesh, devices=devices)
    batch_sharding = sharding.batch_sharding(mesh)
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    settings = {name: value for name, value in config.model.items()}
    del settings["init_from"]  # a matter of the state, not of the model
    source = teachers.find(config, planned=not place) if trains else None
    if source is not None and place:
        source.check_covers(lambda: len(open_source(config, config.data.split)))

    def make_objective(key: jax.Array) -> Any:
        encoder = vit.build(**settings, sharding=batch_sharding, key=key)
        section = dict(config.objective)
        if source is not None:
            section["teacher"] = source.build(key, batch_sharding)
        return objectives.build(section, encoder=encoder)

    tx, schedule = build_optimizer(config, steps)

    def init_params(key: jax.Array) -> tuple[dict, dict]:
        _, params, frozen = split(make_objective(key))
        return params, frozen

    def init_state(key: jax.Array) -> TrainState:
        params, _ = init_params(key)
        return train_state.create(params, tx, with_ema=config.train.ema > 0)

    objective = nnx.eval_shape(lambda: make_objective(init_key))
    graphdef, _, _ = split(objective)
    shapes = jax.eval_shape(init_state, init_key)
    shardings = state_shardings(shapes, mesh)
    _, frozen_shapes = jax.eval_shape(init_params, init_key)
    frozen_shardings = sharding.param_shardings(frozen_shapes, mesh)
    loaded = {}
    if place:
        frozen, loaded = teachers.place(
            source,
            lambda key: init_params(key)[1],
            init_key,
            frozen_shapes,
            frozen_shardings,
        )
        # By a program: a process can put nothing on devices of another.
        step_key = jax.jit(lambda key: key, out_shardings=sharding.replicated(mesh))(
            step_key
        )
    else:
        frozen = with_shardings(frozen_shapes, frozen_shardings)
        step_key = with_shardings(step_key, sharding.replicated(mesh))
    step = build_train_step(
        graphdef,
        tx,
        prepare_batch=build_prepare(config),
        accumulate=config.train.accumulate,
        ema=config.train.ema,
    )
    return Parts(
        mesh=mesh,
        graphdef=graphdef,
        state_shapes=with_shardings(shapes, shardings),
        frozen=frozen,
        train_step=jax.jit(
            step,
            donate_argnums=0,
            out_shardings=(shardings, sharding.replicated(mesh)),
        ),
        init=lambda: train_state.init_sharded(init_state, init_key, shardings),
        schedule=schedule,
        step_key=step_key,
        flops_per_image=objective.train_flops(),
        teacher=source,
        loaded=loaded,
    )


def build_optimizer(
    config: ConfigDict, steps: Steps
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer and its learning rate, with durations in steps."""
    schedule_section = dict(config.schedule)
    del schedule_section["warmup"], schedule_section["cooldown"]
    return optim.build(
        dict(config.optim),
        schedule_section={
            **schedule_section,
            "warmup_steps": steps.warmup,
            "cooldown_steps": steps.cooldown,
        },
        total_steps=steps.total,
    )


def build_prepare(config: ConfigDict) -> mixing.PrepareBatch:
    """What happens to a batch inside the step, before the objective sees it."""
    section = config.data.augment
    return mixing.build_prepare(
        num_classes=config.model.num_classes,
        mean=config.data.mean,
        std=config.data.std,
        flip_images=section.flip,
        mixup_alpha=section.mixup,
        cutmix_alpha=section.cutmix,
        mix_prob=section.mix_prob,
        mix_switch=section.mix_switch,
        mix_per=section.mix_per,
        erase_rate=section.erase,
        erase_fill=section.erase_fill,
    )


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """Shapes that say where they live, as a restore wants them."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        shapes,
        shardings,
    )


def state_shardings(shapes: TrainState, mesh: sharding.AnyMesh) -> TrainState:
    """Where each array of the state lives: parameters by rule, the rest after them."""
    params = sharding.param_shardings(shapes.params, mesh)
    return dataclasses.replace(
        shapes,
        step=sharding.replicated(mesh),
        params=params,
        opt_state=sharding.opt_state_shardings(
            shapes.opt_state, shapes.params, params, mesh
        ),
        ema=params if shapes.ema else {},
    )


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


def build_evaluator(
    config: ConfigDict,
    name: str,
    *,
    parts: Parts,
    beat: Callable[[], None] = lambda: None,
) -> Evaluator:
    """The evaluator of ``config.evals[name]``, reading its own split.

    It calls ``beat`` when a batch arrived and when it was counted.
    """
    section = config.evals[name]
    transform = Deferred(
        augment.eval_transform,
        takes_rng=False,
        image_size=image_size(config),
        channels=config.model.channels,
        resize=section.resize,
        max_pixels=config.data.max_pixels,
    )
    # By threads always: worker processes would sit idle between evaluations.
    loader = Loader(
        open_source(config, section.split),
        transform,
        sharding=sharding.batch_sharding(parts.mesh),
        batch_size=section.batch_size or config.train.batch_size,
        seed=config.seed,
        threads=config.data.threads,
        bad=config.data.bad,
        max_bad=config.data.max_bad,
    )
    return evals.EVALUATORS[section.name](
        loader=loader,
        graphdef=parts.graphdef,
        mean=config.data.mean,
        std=config.data.std,
        beat=beat,
    )


def num_train_examples(config: ConfigDict, facts: DatasetFacts) -> int:
    """Examples of ``config.data.split``."""
    return split_size(facts, config.data.split)
