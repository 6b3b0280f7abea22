"""A config as a config file: what differs from the defaults, ready for `--config=`."""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from vit_jax import config as configs
from vit_jax.config_file import UNITS, shipped_base

_REPLACED = (
    "objective",
    "optim",
)  # whole sections, each built by a function of its name


def source(config: ConfigDict, docstring: str) -> str:
    """Python text whose ``get_config()`` returns this config."""
    base = shipped_base()
    lines = [
        f'"""{docstring}"""',
        "",
        "from configs import base",
        "",
        "",
        "def get_config():",
        '    """Every field that is not as in configs/base.py."""',
        "    config = base.get_config()",
    ]
    default = base.get_config()
    for name in config:
        if name == "evals":
            continue
        if name in _REPLACED:
            lines += _section(f"config.{name}", config[name], base)
        else:
            lines += _changes(f"config.{name}", config[name], default[name])
    if len(config.evals):
        lines.append("    config.evals = dict(")
        lines += [
            f"        {name}={_built(section, base)[0]},"
            for name, section in config.evals.items()
        ]
        lines.append("    )")
        for name, section in config.evals.items():
            lines += _changes(f"config.evals.{name}", section, _built(section, base)[1])
    return "\n".join([*lines, "    return config", ""])


def _section(path: str, section: ConfigDict, base: Any) -> Iterator[str]:
    call, default = _built(section, base)
    yield f"    {path} = {call}"
    yield from _changes(path, section, default)


def _built(section: ConfigDict, base: Any) -> tuple[str, ConfigDict]:
    """The call that makes a section of this kind, and what it makes."""
    name = str(section.name)
    build = getattr(base, name, None)
    if build is None:  # a kind that configs do not know: all of it as it is
        return repr(configs.to_json(section)), section
    return f"base.{name}()", build()


def _changes(path: str, value: Any, default: Any) -> Iterator[str]:
    """Assignments that turn a default into a value."""
    if not isinstance(value, ConfigDict):
        if value != default or type(value) is not type(default):
            yield f"    {path} = {value!r}"
    elif set(value) == set(UNITS):
        given = {unit: value[unit] for unit in UNITS if value[unit] is not None}
        if dict(value) != dict(default):
            arguments = ", ".join(f"{unit}={given[unit]!r}" for unit in given)
            yield f"    {path} = base.duration({arguments})"
    else:
        for key in value:
            yield from _changes(f"{path}.{key}", value[key], default[key])
