"""Evaluations for a run that is there: its own, changed, and others beside them."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from vit_jax.config import override
from vit_jax.config_file import ConfigError, nearest, shipped_base
from vit_jax.evals import EVALUATORS


def with_evaluators(
    saved: ConfigDict, names: Sequence[str], overrides: Sequence[str] = ()
) -> ConfigDict:
    """A run's config in which every named evaluation has an entry.

    Those of the run keep theirs, with the defaults of keys that they lack. Another is
    one of EVALUATORS or a robustness set with its defaults, but with the training split
    of the run, and split, resize and batch size of the run's first evaluation.

    Args:
      saved: a run's config.
      names: of evaluations.
      overrides: ``"--config.evals.knn.k=10"``.

    Raises:
      ConfigError: a name is unknown, or an override wrong.
    """
    base = shipped_base()
    config = saved.copy_and_resolve_references().unlock()
    evals = config.evals = ConfigDict(
        {name: _completed(section, base) for name, section in saved.evals.items()}
    )
    complete = [name for name in EVALUATORS if hasattr(base, name)]
    known = [*evals, *complete, *base.robustness_sets()]
    for name in names:
        if name in evals:
            continue
        if name not in known:
            raise ConfigError(
                f"evaluation {name!r} is unknown; known: "
                f"{', '.join(dict.fromkeys(known))}{nearest(name, known)}"
            )
        evals[name] = _added(name, config, base)
    config.lock()
    override(config, overrides)
    return config


def _completed(section: ConfigDict, base: Any) -> ConfigDict:
    """An entry with all keys; JSON keeps no type of what is unset, the defaults do."""
    if section.name not in EVALUATORS or not hasattr(base, section.name):
        return section  # said where the config is checked; it has no defaults
    complete = getattr(base, section.name)()
    every = section.get("every")
    for key in section:
        if key != "every" and section[key] is not None:
            complete[key] = section[key]
    if every is not None:
        complete.every = base.duration(**every)
    return complete


def _added(name: str, config: ConfigDict, base: Any) -> ConfigDict:
    if name not in EVALUATORS:
        return _like_first(base.robustness(name), config, ("resize", "batch_size"))
    section = getattr(base, name)()
    if "train_split" in section:
        section.train_split = config.data.split
    return _like_first(section, config, ("split", "resize", "batch_size"))


def _like_first(
    section: ConfigDict, config: ConfigDict, keys: Sequence[str]
) -> ConfigDict:
    """With settings of the run's first evaluation on its own data set."""
    for first in config.evals.values():
        if not first.get("data"):
            for key in keys:
                if key in section and first.get(key) is not None:
                    section[key] = first[key]
            break
    return section
