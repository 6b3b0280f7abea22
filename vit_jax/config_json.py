"""Configs as JSON: what a run saves, and what a resumed run may change."""

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

import vit_jax

Config = Mapping[str, Any] | ConfigDict  # a ConfigDict is no Mapping

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "ml-collections",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "tensorflow-datasets",
    "array-record",
)

# What a resumed run may change: what is watched and kept, where and how it computes.
# All else would make it another run. A name that ends in a dot is a section.
SAFE_TO_CHANGE = (
    "log.",
    "evals.",
    "checkpoint.",
    "mesh.",
    "data.dir",
    "data.threads",
    "data.workers",
    "data.prefetch",
    "data.cache_mb",
    "data.bad",  # up to where a run stopped, nothing was replaced
    "data.max_bad",
    "objective.teacher.path",  # a digest says whether it is the same one
    "objective.teacher.logits",
    "objective.teacher.variant",
    "model.remat",
    "model.unroll",
    "model.attention",
    "model.gradient_dtype",
    "train.watchdog.",
    "train.max_nonfinite",
)


def to_json(config: Config) -> dict[str, Any]:
    """Plain dicts, lists, numbers, strings and None, for `json.dump`."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping | ConfigDict):
            return {key: plain(value[key]) for key in value}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        return value

    return plain(config)


def from_json(saved: Mapping[str, Any]) -> ConfigDict:
    """The config of `to_json`: lists become tuples. Not for command-line overrides."""

    def config(value: Any) -> Any:
        if isinstance(value, Mapping):
            return ConfigDict({key: config(item) for key, item in value.items()})
        if isinstance(value, list):
            return tuple(config(item) for item in value)
        return value

    return config(saved).lock()


def snapshot(config: Config) -> dict[str, Any]:
    """What `config.json` holds: the config and the versions that it ran with."""
    return {"config": to_json(config), "versions": versions()}


def versions() -> dict[str, str]:
    """Versions of Python, this package and those that decide on numbers."""
    found = {"python": platform.python_version(), "vit_jax": vit_jax.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def diff(old: Config, new: Config) -> list[str]:
    """Lines such as ``"optim.learning_rate: 0.001 -> 0.01"``, by key."""
    return [f"{key}: {change}" for key, change in _changes(old, new).items()]


def unsafe_changes(old: Config, new: Config) -> list[str]:
    """The lines of `diff` that would make a resumed run another run."""
    return [
        f"{key}: {change}"
        for key, change in _changes(old, new).items()
        if not any(
            key.startswith(name) if name.endswith(".") else key == name
            for name in SAFE_TO_CHANGE
        )
    ]


def _changes(old: Config, new: Config) -> dict[str, str]:
    before, after = flat(to_json(old)), flat(to_json(new))
    return {
        key: f"{_show(before, key)} -> {_show(after, key)}"
        for key in sorted(before.keys() | after.keys())
        if key not in before or key not in after or before[key] != after[key]
    }


def _show(leaves: dict[str, Any], key: str) -> str:
    return repr(leaves[key]) if key in leaves else "(absent)"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config as JSON, by keys such as ``optim.learning_rate``."""
    leaves = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
