"""Everything wrong with a config, found at once, before anything is compiled."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from vit_jax import optim, schedules
from vit_jax.config_check_augment import check_augmentation
from vit_jax.config_check_evals import check_evals
from vit_jax.config_check_model import (
    check_model,
    num_tokens,
    outside,
    settings_of,
)
from vit_jax.config_check_model import unknown as _unknown
from vit_jax.config_check_objective import check_classifier
from vit_jax.config_file import ConfigError, nearest, resolve_duration
from vit_jax.data.facts import split_size
from vit_jax.models.settings import check_vit
from vit_jax.objectives import OBJECTIVES
from vit_jax.objectives.supervised import LOSSES
from vit_jax.sharding import AXES, BATCH_AXES

# Keywords of an objective or optimizer that the program gives, not the config.
_NOT_CONFIG = {"self", "encoder", "key", "mean", "std", "learning_rate_schedule"}


def check(config: ConfigDict, *, facts: Any, num_devices: int) -> list[str]:
    """See `config.check`."""
    return [
        *_numbers(config),
        *check_model(config.model),
        *_objective(config.objective, config.model),
        *check_classifier(config, facts),
        *_optim(config.optim),
        *_mesh_and_batch(config, num_devices),
        *check_augmentation(config),
        *_durations(config, _num_examples(config, facts)),
        *_data(config, facts),
        *check_evals(config),
    ]


def _numbers(config: ConfigDict) -> list[str]:
    """Ranges of single fields outside the model's section."""
    train, data = config.train, config.data
    watchdog = {
        f"train__watchdog__{key}": train.watchdog[key] for key in train.watchdog
    }
    resizes = {
        f"evals__{name}__resize": section.get("resize")
        for name, section in config.evals.items()
    }
    return [
        *outside(
            lambda value: value >= 2,  # one may be damaged after it was verified
            "at least 2",
            checkpoint__keep=config.checkpoint.keep,
        ),
        *outside(
            lambda value: value >= 1,
            "at least 1",
            train__batch_size=train.batch_size,
            train__accumulate=train.accumulate,
            train__max_nonfinite=train.max_nonfinite,
            train__rollback__window=train.rollback.window,
            data__prefetch=data.prefetch,
            data__max_pixels=data.max_pixels,
            schedule__timescale=config.schedule.timescale,
        ),
        *outside(
            lambda value: 0 <= value < 1,
            "in [0, 1)",
            objective__label_smoothing=config.objective.get("label_smoothing"),
            train__ema=train.ema,
        ),
        *outside(
            lambda value: 0 <= value < math.inf,
            "finite and not negative",
            optim__learning_rate=config.optim.get("learning_rate"),
            optim__weight_decay=config.optim.get("weight_decay"),
            optim__clip_norm=config.optim.get("clip_norm"),
            schedule__final=config.schedule.final,
            data__threads=data.threads,
            data__workers=data.workers,
            data__cache_mb=data.cache_mb,
            data__max_bad=data.max_bad,
            train__rollback__factor=train.rollback.factor,
            train__rollback__max=train.rollback.max,
            **watchdog,
            **resizes,
        ),
        *outside(  # of more bits JAX drops the upper ones: two seeds would be one
            lambda value: 0 <= value < 1 << 32,
            "in 0..4294967295 (32 bits)",
            seed=config.seed,
        ),
    ]


def _objective(section: ConfigDict, model: ConfigDict) -> list[str]:
    name = str(section.get("name"))
    if problems := _unknown("objective.name", name, OBJECTIVES):
        return problems
    problems = _keys("objective", section, OBJECTIVES[name].__init__)
    if name == "supervised" and "loss" in section:
        problems += _unknown("objective.loss", section.loss, LOSSES)
    if name == "supervised" and model.num_classes == 0:
        problems.append("model.num_classes is 0 (no head); 'supervised' needs classes")
    settings = settings_of(model)
    if problems or settings is None or check_vit(settings):
        return problems  # the rest counts with them
    return OBJECTIVES[name].problems(section.to_dict(), settings)


def _optim(section: ConfigDict) -> list[str]:
    name = str(section.get("name"))
    if problems := _unknown("optim.name", name, optim.OPTIMIZERS):
        return problems
    problems = _keys("optim", section, optim.OPTIMIZERS[name])
    for field, known in optim.NAMES.items():
        if field in section:
            problems += _unknown(f"optim.{field}", section[field], known)
    for field, (fits, what) in optim.RANGES.items():
        if field in section:
            problems += outside(fits, what, **{f"optim__{field}": section[field]})
    return problems


_signature = functools.cache(inspect.signature)  # a sweep asks once a trial


def _keys(path: str, section: ConfigDict, build: Callable[..., Any]) -> list[str]:
    """Compares a section's keys with the keywords of what is built from it."""
    keywords = _signature(build).parameters.values()
    open_ended = any(word.kind is word.VAR_KEYWORD for word in keywords)
    known = {word.name: word for word in keywords if word.name not in _NOT_CONFIG}
    required = {
        name
        for name, word in known.items()
        if word.default is word.empty and word.kind is word.KEYWORD_ONLY
    }
    given = set(section) - {"name"}
    unknown = [] if open_ended else sorted(given - known.keys())
    return [
        f"{path}.{key} is not a setting of {section.name!r}{nearest(key, known)}"
        for key in unknown
    ] + [
        f"{path}.{key} is missing; {section.name!r} needs it"
        for key in sorted(required - given)
    ]


def _mesh_and_batch(config: ConfigDict, num_devices: int) -> list[str]:
    sizes = {axis: config.mesh[axis] for axis in AXES}
    text = "mesh (" + ", ".join(f"{axis}={size}" for axis, size in sizes.items()) + ")"
    rest = [axis for axis, size in sizes.items() if size == -1]
    if len(rest) > 1 or any(size < 1 for size in sizes.values() if size != -1):
        return [f"{text}: sizes must be positive, and at most one -1"]
    named = math.prod(size for size in sizes.values() if size != -1)
    if num_devices % named or (not rest and named != num_devices):
        what = "does not divide" if rest else "is not"
        return [f"{text}: {named} {what} the number of devices, {num_devices}"]
    sizes |= {axis: num_devices // named for axis in rest}
    tokens = num_tokens(config.model)
    parts = math.prod(sizes[axis] for axis in BATCH_AXES)
    accumulate, batch_size = config.train.accumulate, config.train.batch_size
    problems = []
    if tokens is not None and sizes["sequence"] > tokens:
        problems.append(
            f"mesh.sequence is {sizes['sequence']}, but an image has {tokens} tokens: "
            "it must be no more"
        )
    if accumulate >= 1 and batch_size % (parts * accumulate):
        also = f" times train.accumulate {accumulate}" if accumulate > 1 else ""
        problems.append(
            f"train.batch_size {batch_size} is not divisible by the mesh's "
            f"slices*data*fsdp {parts}{also}"
        )
    for name, section in config.evals.items():
        size = section.get("batch_size")
        if size is not None and (size < 1 or size % parts):
            problems.append(
                f"evals.{name}.batch_size {size} is not divisible by the mesh's "
                f"slices*data*fsdp {parts}"
            )
    return problems


def _num_examples(config: ConfigDict, facts: Any) -> int | None:
    if facts is None:
        return None
    try:
        return split_size(facts, config.data.split)
    except ValueError:
        return None


def _durations(config: ConfigDict, num_examples: int | None) -> list[str]:
    """Units, signs, and whether warmup and cooldown fit the run."""
    places = {
        "train.duration": config.train.duration,
        "log.every": config.log.every,
        "checkpoint.every": config.checkpoint.every,
        **{
            f"evals.{name}.every": section.every
            for name, section in config.evals.items()
            if "every" in section
        },
        "schedule.warmup": config.schedule.warmup,
        "schedule.cooldown": config.schedule.cooldown,
    }
    problems = _unknown("schedule.name", config.schedule.name, schedules.SCHEDULES)
    steps: dict[str, int] = {}
    for name, fields in places.items():
        try:
            steps[name] = resolve_duration(
                fields,
                batch_size=max(config.train.batch_size, 1),
                num_examples=num_examples or 1,
                name=name,
            )
        except ConfigError as error:
            problems.append(str(error))
        else:
            if not steps[name] and not name.startswith("schedule."):
                problems.append(f"{name} must be positive")
        if fields.get("epochs") is not None and not num_examples:
            steps.pop(name, None)  # valid, but its length is not known
    warmup, cooldown = steps.get("schedule.warmup"), steps.get("schedule.cooldown")
    total = steps.get("train.duration")
    if total and (warmup or 0) + (cooldown or 0) > total:
        problems.append(
            f"schedule.warmup ({warmup or 0} steps) and schedule.cooldown "
            f"({cooldown or 0}) are longer than the run of {total} steps "
            "(train.duration)"
        )
    if config.schedule.name == "wsd" and cooldown == 0:
        problems.append("schedule 'wsd' needs a cooldown; set schedule.cooldown")
    return problems + _profile(config.log.profile, total)


def _profile(profile: Sequence[Any], total: int | None) -> list[str]:
    """The range of steps that are traced; (0, 0) is none."""
    numbers = len(profile) == 2 and all(isinstance(one, int) for one in profile)
    if numbers and tuple(profile) == (0, 0):
        return []
    if numbers and 1 <= profile[0] < profile[1] <= (total or math.inf):
        return []
    end = f"{total}, the length of the run" if total else "the length of the run"
    return [
        f"log.profile is {tuple(profile)}, not (start, stop) with 1 <= start < stop <= "
        f"{end}; the steps after start up to stop are traced, the first one compiles; "
        "(0, 0) is none"
    ]


def _data(config: ConfigDict, facts: Any) -> list[str]:
    """What is asked of the data, and splits and classes against the data set's own."""
    problems = _unknown("data.bad", config.data.bad, ("stop", "skip"))
    if config.data.mix and config.data.name != "mix":
        problems.append(
            f"data.mix is set, but data.name is {config.data.name!r}: set it to 'mix'"
        )
    if config.data.bad == "skip" and config.data.name.startswith("tfrecord:"):
        name = config.data.name.partition(":")[2]
        problems.append(
            "data.bad 'skip' needs random access, which tfrecord has not; convert it "
            f"(vit-jax prepare {name} --convert) and set data.name to {name!r}"
        )
    if facts is None:
        return problems
    splits = {"data.split": config.data.split} | {
        f"evals.{name}.{key}": section[key]
        for name, section in config.evals.items()
        for key in ("train_split", "split")
        if key in section and not section.get("data")  # that has facts of its own
    }
    for field, split in splits.items():
        try:
            split_size(facts, split)
        except ValueError as error:
            problems.append(f"{field}: {error}")
    ours, theirs = config.model.num_classes, facts.num_classes
    if ours is None and theirs is None:
        problems.append(
            f"data set {config.data.name!r} does not say how many classes it has; "
            "set model.num_classes"
        )
    elif ours and theirs is not None and ours != theirs:
        problems.append(
            f"model.num_classes is {ours}, but data set {config.data.name!r} has "
            f"{theirs}"
        )
    return problems
