"""Everything wrong with the settings of objectives that classify, and of a teacher."""

from typing import Any

from ml_collections import ConfigDict

from vit_jax.config_check_model import is_size, unknown
from vit_jax.models.settings import DTYPES
from vit_jax.objectives.distillation import check_distillation
from vit_jax.objectives.labels import class_weight_problems, file_of
from vit_jax.objectives.supervised import LOSSES

CLASSIFIERS = ("supervised", "distillation")


def check_classifier(config: ConfigDict, facts: Any) -> list[str]:
    """What is wrong with an objective of ``CLASSIFIERS``; nothing with others.

    Args:
      config: a loaded config.
      facts: of its data set, or None.
    """
    section, model = config.objective, config.model
    name = section.get("name")
    if name not in CLASSIFIERS:
        return []
    problems = []
    weights = section.get("class_weights", ())
    if file_of(weights) is None:
        known = model.num_classes or (None if facts is None else facts.num_classes)
        problems += class_weight_problems(weights, known)
    if section.get("threshold") is not None and section.get("loss") == "softmax":
        problems.append(
            "objective.threshold makes labels 0 or 1, which is for objective.loss "
            "'sigmoid', not 'softmax'"
        )
    if name == "distillation":
        problems += _distillation(config)
    return problems


def _distillation(config: ConfigDict) -> list[str]:
    section = config.objective
    given = {
        key: section[key]
        for key in ("match", "alpha", "temperature", "token")
        if key in section
    }
    problems = []
    if "loss" in section:
        problems += unknown("objective.loss", section.loss, LOSSES)
    if config.model.num_classes == 0:
        problems.append(
            "model.num_classes is 0 (no head); 'distillation' needs classes"
        )
    if len(given) == 4:  # else it is said what is missing
        problems += check_distillation(**given, distillation=config.model.distillation)
    if "teacher" not in section:
        return problems
    teacher, augment = section.teacher, config.data.augment
    problems += unknown("objective.teacher.dtype", teacher.dtype, DTYPES)
    if teacher.image_size is not None and not is_size(teacher.image_size):
        problems.append(
            "objective.teacher.image_size must be (height, width) in pixels, got "
            f"{teacher.image_size!r}"
        )
    if teacher.path and teacher.logits:
        problems.append(
            "objective.teacher.path and objective.teacher.logits are both set; one of "
            "them teaches"
        )
    if teacher.logits and (augment.mixup or augment.cutmix):
        problems.append(
            "objective.teacher.logits are of single images: data.augment.mixup and "
            "cutmix must be 0.0; a teacher in objective.teacher.path sees the mix"
        )
    return problems
