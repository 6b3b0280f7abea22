"""Everything wrong with a config's `evals`, and with `checkpoint.best`."""

from typing import Any

from ml_collections import ConfigDict

from vit_jax.config_check_model import outside, unknown
from vit_jax.config_file import nearest, shipped_base
from vit_jax.evals import EVALUATORS
from vit_jax.objectives import OBJECTIVES


def check_evals(config: ConfigDict) -> list[str]:
    """Names, keys, ranges, what objective and model must have; `checkpoint.best`."""
    base, problems, sound = shipped_base(), [], []
    for name, section in config.evals.items():
        found = _section(name, section, base) or _needs(name, section, config)
        problems += found
        if not found:
            sound.append(name)
        if name.removesuffix("_ema") in config.evals and name.endswith("_ema"):
            problems.append(
                f"evals.{name}: {name!r} names the averaged parameters' results of "
                f"{name.removesuffix('_ema')!r}; take another name"
            )
    return problems + _best(config, sound)


def _section(name: str, section: ConfigDict, base: Any) -> list[str]:
    """What is wrong with the keys and values of one entry."""
    kind = section.get("name")
    path = f"evals.{name}"
    if problems := unknown(f"{path}.name", kind, EVALUATORS):
        return problems
    evaluator = EVALUATORS[kind]
    known = set(getattr(base, kind)()) if hasattr(base, kind) else set(section)
    problems = [
        f"{path}.{key} is missing; {kind!r} needs it"
        for key in sorted(known - set(section))
    ]
    for key, choices in evaluator.CHOICES.items():
        if key in section:
            problems += unknown(f"{path}.{key}", section[key], choices)
    for key, (fits, what) in evaluator.RANGES.items():
        if key in section:
            problems += outside(fits, what, **{f"evals__{name}__{key}": section[key]})
    return problems


def _needs(name: str, section: ConfigDict, config: ConfigDict) -> list[str]:
    """What the objective or the model lacks for an entry."""
    evaluator = EVALUATORS[section.name]
    chosen = str(config.objective.get("name"))
    objective: Any = OBJECTIVES.get(chosen)
    problems = []
    without = " with model.num_classes=0" if config.model.num_classes == 0 else ""
    if getattr(evaluator, "needs_logits", False) and (
        config.model.num_classes == 0 or not getattr(objective, "has_logits", True)
    ):
        problems.append(
            f"evals.{name}: {section.name!r} needs logits, which objective {chosen!r} "
            f"does not give{without}; measure features: knn, fewshot, linear_probe"
        )
    if (
        getattr(evaluator, "needs_reconstruct", False)
        and objective is not None
        and not hasattr(objective, "reconstruct")
    ):
        able = [key for key, one in OBJECTIVES.items() if hasattr(one, "reconstruct")]
        problems.append(
            f"evals.{name}: objective {chosen!r} reconstructs nothing; those that do: "
            f"{', '.join(able) or 'none'}"
        )
    return problems


def _results(section: ConfigDict) -> tuple[str, ...]:
    return EVALUATORS[section.name].results(section.to_dict())


def _best(config: ConfigDict, names: list[str]) -> list[str]:
    """Whether `checkpoint.best` is a result of one of the evaluations."""
    best = config.checkpoint.best
    if best.rpartition("/")[0].removesuffix("_ema") in set(config.evals) - set(names):
        return []  # what is wrong there is said already
    suffixes = ("", "_ema") if config.train.ema else ("",)
    metrics = [
        f"{name}{suffix}/{result}"
        for name in names
        for suffix in suffixes
        for result in _results(config.evals[name])
    ]
    if not best or best in metrics:
        return []
    return [
        f"checkpoint.best {best!r} is not a result of an evaluation; "
        + (f"known: {', '.join(metrics)}" if metrics else "there are none: set ''")
        + nearest(best, metrics)
    ]
