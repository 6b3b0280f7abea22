"""From a checked config to the parts of a run: mesh, state, step, data, evaluators.

`train`, `evaluate` and planning build through these functions, so that what is
evaluated or planned is what runs. Nothing here allocates before its shardings exist.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax
from flax import nnx
from ml_collections import ConfigDict

from vit_jax import objectives, optim, sharding, teachers, train_state
from vit_jax.config import ConfigError, check, resolve_duration
from vit_jax.config_check_model import check_attention
from vit_jax.data import mixing, sources
from vit_jax.data.errors import DataError
from vit_jax.data.facts import DatasetFacts
from vit_jax.models import vit
from vit_jax.models.attention_choice import Hardware
from vit_jax.objectives.base import split
from vit_jax.objectives.labels import resolve_class_weights
from vit_jax.setup_data import check_evaluated, data_spec, open_source
from vit_jax.train_state import TrainState
from vit_jax.train_step import TrainStep, build_train_step

# Folded into the key of initialisation for what an objective adds to its encoder, which
# takes smaller numbers.
_OBJECTIVE = 100


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
    here = check_attention(
        config.model,
        Hardware(jax.default_backend(), kind),
        mask=objectives.mask_of(config.objective.get("name")),
    )
    here += check_evaluated(config)
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
        has_logits = objectives.OBJECTIVES[config.objective.name].has_logits
        config.model.num_classes = facts.num_classes if has_logits else 0
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
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    settings = {name: value for name, value in config.model.items()}
    del settings["init_from"]  # a matter of the state, not of the model
    source = teachers.find(config, planned=not place) if trains else None
    if source is not None and place:
        source.check_covers(lambda: len(open_source(config, config.data.split)))

    def make_objective(key: jax.Array) -> Any:
        encoder = vit.build(**settings, key=key)
        section = dict(config.objective)
        if source is not None:
            section["teacher"] = source.build(key)
        return objectives.build(
            section,
            encoder=encoder,
            key=jax.random.fold_in(key, _OBJECTIVE),
            mean=config.data.mean,
            std=config.data.std,
        )

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
