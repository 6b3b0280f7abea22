"""Config files: load, complete, override, compare; durations to steps.

Nothing here imports jax, flax or TensorFlow: a typing mistake costs no start-up time.
"""

import dataclasses
import functools
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

from vit_jax.config_file import (
    UNITS,
    ConfigError,
    find,
    nearest,
    read,
    resolve_duration,
    shipped_base,
    split_spec,
)
from vit_jax.config_json import (
    SAFE_TO_CHANGE,
    diff,
    from_json,
    snapshot,
    to_json,
    unsafe_changes,
)

__all__ = [
    "SAFE_TO_CHANGE",
    "UNITS",
    "ConfigError",
    "check",
    "diff",
    "find",
    "from_json",
    "load",
    "override",
    "resolve_duration",
    "snapshot",
    "to_json",
    "unsafe_changes",
]

_OVERRIDE = re.compile(
    r"-{0,2}(?P<no>no)?config\.(?P<key>[\w.-]+)(=(?P<value>.*))?", re.S
)


def load(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Reads a config file, completes it and applies the command line.

    Args:
      spec: ``"configs/digits.py"``, or ``"configs/x.py:L/16"`` to call its
        ``get_config("L/16")``.
      overrides: ``"--config.optim.learning_rate=1e-3"``, with or without the dashes.

    Raises:
      ConfigError: anything in the file or the overrides that the user must change.
    """
    path, arg = split_spec(spec)
    config = read(find(path), arg)
    base = shipped_base()
    problems = _complete_durations(config, base)
    problems = problems or _conform(config, _reference(config, base))
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    config.unlock().lock()  # a section that the file replaced is not locked
    override(config, overrides)
    return config


def _reference(config: ConfigDict, base: types.ModuleType) -> ConfigDict:
    """The defaults of the sections that a config has, the replaceable ones by name."""
    reference = base.get_config().unlock()
    places = [("objective", config, reference), ("optim", config, reference)]
    if "evals" in config and isinstance(config.evals, ConfigDict):
        places += [(name, config.evals, reference.evals) for name in config.evals]
    for place, sections, defaults in places:
        section = sections.get(place)
        if not isinstance(section, ConfigDict):
            continue
        build_section = getattr(base, str(section.get("name")), None)
        if section.get("name") == "get_config" or not callable(build_section):
            defaults[place] = (
                section  # unknown here: keys are checked where it is built
            )
        else:
            defaults[place] = build_section()
    return reference


def _complete_durations(
    section: ConfigDict, base: types.ModuleType, prefix: str = ""
) -> list[str]:
    """Gives every `dict(epochs=9)` the two units that it does not name."""
    problems = []
    for key in list(section):
        child, path = section[key], f"{prefix}{key}"
        if not isinstance(child, ConfigDict) or not len(child):
            continue
        if not set(child) <= set(UNITS):
            problems += _complete_durations(child, base, f"{path}.")
            continue
        try:
            with section.unlocked():
                section[key] = base.duration(**child)
        except (TypeError, ValueError):
            problems.append(f"{path} needs numbers, got {dict(child)}")
    return problems


def _conform(config: ConfigDict, reference: ConfigDict) -> list[str]:
    """Compares keys and types with the defaults; makes 0 for a float field 0.0."""
    given, known = dict(_fields(config)), dict(_fields(reference))
    problems = [
        f"unknown key {key!r}{nearest(key, known)}"
        for key in sorted(given.keys() - known.keys())
    ] + [
        f"key {key!r} is missing; start from base.get_config()"
        for key in sorted(known.keys() - given.keys())
    ]
    for key in sorted(given.keys() & known.keys()):
        field, default = given[key], known[key]
        value, wanted = field.value, default.type
        if isinstance(value, list):
            field.set(tuple(value))
        elif wanted is float and type(value) is int:
            field.set(float(value))
        elif value is None:
            if default.value is not None and not _is_duration(field.section):
                problems.append(f"{key} is None, but must be a {wanted.__name__}")
        elif not isinstance(value, wanted):
            problems.append(f"{key} is {value!r}, but must be a {wanted.__name__}")
    return problems


def _is_duration(section: ConfigDict) -> bool:
    return set(section) == set(UNITS)


@dataclasses.dataclass
class _Field:
    section: ConfigDict
    name: str

    @property
    def value(self) -> Any:
        return self.section[self.name]

    @property
    def type(self) -> type:
        return self.section.get_type(self.name)

    def set(self, value: Any) -> None:
        with self.section.ignore_type():
            self.section[self.name] = value


def _fields(section: ConfigDict, prefix: str = "") -> Iterator[tuple[str, _Field]]:
    for name in section:
        child = section[name]
        if isinstance(child, ConfigDict):
            yield from _fields(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _Field(section, name)


def override(config: ConfigDict, overrides: Sequence[str]) -> None:
    """Applies the command line in place; all its mistakes in one ConfigError."""
    fields = dict(_fields(config))
    by_key: dict[str, list[str]] = {}
    problems = []
    for text in overrides:
        match = _OVERRIDE.fullmatch(text)
        if not match:
            problems.append(f"{text!r} is not of the form --config.KEY=VALUE")
        elif problem := _check_override(match, config, fields):
            problems.append(problem)
        else:
            by_key.setdefault(match["key"], []).append("--" + text.lstrip("-"))
    units: dict[str, list[str]] = {}
    for key, arguments in by_key.items():
        problems += _apply(key, fields[key], arguments)
        section, _, unit = key.rpartition(".")
        if _is_duration(fields[key].section):
            units.setdefault(section, []).append(unit)
    for section, given in units.items():
        if len(given) > 1:
            problems.append(f"{section} is given in {' and '.join(given)}: keep one")
        for unit in set(UNITS) - set(given):
            fields[f"{section}.{unit}"].section[unit] = None
    if problems:
        raise ConfigError(problems)


def _check_override(
    match: re.Match[str], config: ConfigDict, fields: Mapping[str, _Field]
) -> str | None:
    """What is wrong with an override before its value is read, if anything."""
    key, value = match["key"], match["value"]
    if key not in fields:
        inside = [field for field in fields if field.startswith(f"{key}.")]
        if inside:
            return f"{key} is a section; set one of its keys: {', '.join(inside)}"
        if key == "evals":
            return "evals is empty; add evaluations in the config file"
        return f"unknown key {key!r}{nearest(key, fields)}"
    wanted = fields[key].type
    if wanted is str and value is not None and _is_number(value):
        return f"{key} is text, got the number {value}"
    if value is None and wanted is not bool:
        return f"{key} needs a value: --config.{key}=VALUE"
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _apply(key: str, field: _Field, arguments: list[str]) -> list[str]:
    """Sets one field with ml_collections' parsers; returns what went wrong."""
    try:
        field.section[field.name] = _parsed(key, field.type, tuple(arguments))
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError):
        text = arguments[-1].partition("=")[2]
        return [f"{key} must be of type {field.type.__name__}, got {text!r}"]
    return []


@functools.lru_cache(maxsize=4096)  # a sweep says the same of many trials
def _parsed(key: str, kind: type, arguments: tuple[str, ...]) -> Any:
    """The value that a command line gives to a key of this type."""
    alone = _alone(key, kind)  # every flag is written as YAML, with all it holds
    values, argv = flags.FlagValues(), ["vit-jax", *arguments]
    config_flags.DEFINE_config_dict("config", alone, flag_values=values, sys_argv=argv)
    values(argv)
    return dict(_fields(alone))[key].value


def _alone(key: str, kind: type) -> ConfigDict:
    """A config with one field of a type, unset."""
    *sections, name = key.split(".")
    leaf = config = ConfigDict()
    for section in sections:
        leaf[section] = ConfigDict()
        leaf = leaf[section]
    leaf[name] = config_dict.placeholder(kind)
    return config


def check(config: ConfigDict, *, facts: Any, num_devices: int) -> list[str]:
    """Everything wrong with a config, a line each; compiles and writes nothing.

    Args:
      config: a loaded config.
      facts: `data.tfds.DatasetFacts` of its data set, or None if not known.
      num_devices: of the whole run.
    """
    from vit_jax import config_check  # imports jax

    return config_check.check(config, facts=facts, num_devices=num_devices)
