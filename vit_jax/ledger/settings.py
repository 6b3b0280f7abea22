"""The settings of a config that decide a result, in words."""

from typing import Any

from vit_jax.models import variants

# Optimizers whose decay is scaled by more than the rate.
_TRUSTING = ("lamb", "lars")


def describe(config: Any) -> dict[str, str]:
    """Lines by name, the order as printed."""
    return {
        "model": _model(config.model),
        "data": f"{config.data.name}, {config.data.split}",
        "objective": _pairs(config.objective, skip=("teacher", "chunk")),
        **_teacher(config.objective),
        "batch": f"{config.train.batch_size:,} images"
        + _if(config.train.accumulate > 1, f" in {config.train.accumulate} parts"),
        "length": duration(config.train.duration),
        "peak rate": f"{config.optim.learning_rate:g}",
        "schedule": _schedule(config.schedule),
        "warmup": duration(config.schedule.warmup),
        "weight decay": decay(config.optim),
        "optimizer": _pairs(
            config.optim, skip=("learning_rate", "weight_decay", "decay_mask")
        ),
        "augmentation": _augmentation(config.data.augment),
        "regularisation": _regularisation(config),
        "evaluations": ", ".join(
            f"{name} ({section.name} on {section.split})"
            for name, section in config.evals.items()
        )
        or "none",
    }


def decay(optim: Any) -> str:
    """The weight decay in its convention, and what that is at the peak."""
    if not optim.weight_decay:
        return "none"
    step = optim.weight_decay * optim.learning_rate
    text = (
        f"{optim.weight_decay:g} times the learning rate (AdamW's convention), of "
        f"{optim.decay_mask}"
    )
    if optim.name in _TRUSTING:
        return f"{text}, inside the trust ratio"
    text += f": {step:.3g} of a parameter at a step at the peak"
    if "head_weight_decay" in optim and optim.head_weight_decay:
        text += f"; {optim.head_weight_decay:g} of the head"
    return text


def duration(fields: Any) -> str:
    """In the unit that the config uses."""
    for unit, value in fields.items():
        if value is not None:
            return f"{value:,g} {unit}" if unit == "epochs" else f"{value:,} {unit}"
    return "unset"


def _model(model: Any) -> str:
    size = "x".join(map(str, model.image_size))
    if model.variant == variants.SOURCE:
        return f"that of the weights, at {size} pixels; {model.dtype}"
    full = variants.resolve(**model.to_dict())
    patch = "x".join(map(str, full["patch_size"]))
    parts = [
        f"{model.variant} at {size} pixels",
        f"width {full['width']}, depth {full['depth']}, mlp {full['mlp_dim']}, "
        f"{full['num_heads']} heads, patches {patch}",
        f"pool {model.pool}, position {model.position}, {model.activation}",
    ]
    if model.num_classes:
        bias = _if(model.head_bias, f", head bias {model.head_bias:g}")
        parts.append(f"{model.num_classes:,} classes{bias}")
    elif model.num_classes == 0:
        parts.append("no head")
    if model.pre_logits:
        width = "model width" if model.pre_logits == -1 else model.pre_logits
        parts.append(f"tanh layer of {width} before the head")
    if model.layer_scale:
        parts.append(f"LayerScale {model.layer_scale:g}")
    return "; ".join([*parts, model.dtype])


def _schedule(schedule: Any) -> str:
    text = f"{schedule.name}, to {schedule.final:g} of the peak"
    if schedule.name == "rsqrt":
        text = f"rsqrt, timescale {schedule.timescale:,}"
    cooldown = duration(schedule.cooldown)
    return text + _if(cooldown != "0 steps", f", cooldown of {cooldown}")


def _teacher(objective: Any) -> dict[str, str]:
    if "teacher" not in objective:
        return {}
    teacher = objective.teacher
    found = teacher.path or teacher.logits or "yours: --config.objective.teacher.path"
    return {"teacher": found + _if(teacher.variant, f", planned as {teacher.variant}")}


def _augmentation(augment: Any) -> str:
    least, most = augment.area
    crops: dict[str, str] = {
        "inception": f"inception crop of {least:.0%} to {most:.0%}",
        "random": f"random crop of {augment.resize}",
        "pad": f"random crop after padding by {augment.pad}",
        "simple": f"random crop after padding by {augment.pad}",
    }
    parts = [crops.get(augment.crop, str(augment.crop))]
    parts += ["flip"] if augment.flip else []
    if augment.policy == "randaugment":
        parts.append(
            f"RandAugment({augment.randaugment_layers}, "
            f"{augment.randaugment_magnitude:g})"
        )
    elif augment.policy != "none":
        parts.append(augment.policy)
    for name in ("color_jitter", "mixup", "cutmix", "erase"):
        parts += [f"{name} {augment[name]:g}"] if augment[name] else []
    parts += [f"{augment.repeats} copies an image"] if augment.repeats > 1 else []
    parts += [f"{augment.views} views an image"] if augment.views > 1 else []
    return ", ".join(parts)


def _regularisation(config: Any) -> str:
    names = ("dropout", "attention_dropout", "drop_path", "patch_dropout")
    parts = [f"{name} {config.model[name]:g}" for name in names if config.model[name]]
    if config.train.ema:
        parts.append(f"moving average of parameters {config.train.ema:g}")
    return ", ".join(parts) or "none"


def _pairs(section: Any, *, skip: tuple[str, ...]) -> str:
    """The name, then every value that is set."""
    values = [
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in section.items()
        if key not in ("name", *skip) and value not in (None, (), "")
    ]
    return ", ".join([str(section.name), *values])


def _if(condition: Any, text: str) -> str:
    return text if condition else ""
