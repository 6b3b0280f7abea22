"""Finds and runs a config file; its durations; the error that its user sees."""

import contextlib
import difflib
import functools
import importlib.util
import inspect
import math
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

UNITS = ("epochs", "steps", "examples")

_PACKAGE = pathlib.Path(__file__).resolve().parent
# The folders that may hold `configs/`: the wheel's copy, the source checkout.
_SHIPPED = (_PACKAGE / "_configs", _PACKAGE.parent)
_PARTS = ("base", "durations", "evaluators", "objectives", "optimizers")
_NO_CONFIGS = {f"{name}.py" for name in ("__init__", *_PARTS)}


class ConfigError(ValueError):
    """What the user must change, a line per problem; a title may stand over several."""

    def __init__(self, problems: str | Sequence[str], *, title: str = ""):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        text = "".join(f"\n  - {problem}" for problem in self.problems)
        if len(self.problems) == 1:
            text = self.problems[0]
        else:
            text = f"{title or f'{len(self.problems)} problems in the config'}:{text}"
        super().__init__(text)


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing when no known name resembles it."""
    known = list(known)
    found = difflib.get_close_matches(name, known, n=1)
    if not found:  # the right key in the wrong section, or with its section left out
        leaves = {key.rpartition(".")[2]: key for key in reversed(known)}
        close = difflib.get_close_matches(name.rpartition(".")[2], leaves, n=1)
        found = [leaves[leaf] for leaf in close]
    return f"; did you mean {found[0]!r}?" if found else ""


def find(path: str) -> pathlib.Path:
    """The config file: in the working directory, else the one the package ships.

    Raises:
      ConfigError: there is no such file; the message lists those there are.
    """
    wanted = pathlib.Path(path if path.endswith(".py") else f"{path}.py").expanduser()
    if wanted.is_file():
        return wanted.resolve()
    shipped = [folder / "configs" for folder in _SHIPPED]
    if not wanted.is_absolute() and str(wanted.parent) in (".", "configs"):
        for folder in shipped:
            if (folder / wanted.name).is_file():
                return folder / wanted.name
    names = {file.name for folder in shipped for file in folder.glob("*.py")}
    known = [f"configs/{name}" for name in sorted(names - _NO_CONFIGS)]
    raise ConfigError(
        f"no config file {path!r} here; the package has: {', '.join(known)}"
        f"{nearest(str(wanted), known)}"
    )


def recipes() -> dict[str, pathlib.Path]:
    """The files of the configs that the package ships, by name."""
    files = sorted(_shipped_base().parent.glob("*.py"))
    return {file.stem: file for file in files if file.name not in _NO_CONFIGS}


def read(file: pathlib.Path, arg: str | None) -> ConfigDict:
    """Calls the file's ``get_config()``, or ``get_config(arg)``.

    Raises:
      ConfigError: the file fails, or returns something else.
    """
    with _importable(file):
        config = _call(file, "get_config", arg)
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"{file}: get_config() returned a {type(config).__name__}; "
            "start from base.get_config() and return it"
        )
    return config


def read_sweep(path: str) -> Any:
    """What the ``get_sweep()`` of a config file returns.

    Raises:
      ConfigError: there is none, or it fails.
    """
    file = find(split_spec(path)[0])
    with _importable(file):
        return _call(file, "get_sweep", None)


def split_spec(spec: str) -> tuple[str, str | None]:
    """Path and argument of ``"configs/x.py:L/16"``; None without an argument."""
    match = re.fullmatch(r"(?P<path>.*?\.py|[^:]*)(:(?P<arg>.*))?", spec, re.S)
    return (match["path"], match["arg"]) if match else (spec, None)


@contextlib.contextmanager
def _importable(file: pathlib.Path) -> Iterator[None]:
    """While it lasts, `configs` is the folder beside the file, then the shipped one."""
    folders = [file.parent.parent, *_SHIPPED]
    package = types.ModuleType("configs")
    package.__path__ = [str(folder / "configs") for folder in folders]
    path, bytecode = sys.path[:], sys.dont_write_bytecode
    hidden = {name: sys.modules.pop(name) for name in _configs_modules()}
    sys.modules["configs"] = package
    sys.path[:0] = [str(folder) for folder in folders if folder.is_dir()]
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        for name in _configs_modules():
            del sys.modules[name]
        sys.modules.update(hidden)
        sys.path[:], sys.dont_write_bytecode = path, bytecode


def _configs_modules() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "configs"]


def _call(file: pathlib.Path, name: str, arg: str | None) -> Any:
    """Runs a file and calls a function of it."""
    try:
        module = _execute(file)
        if not hasattr(module, name):
            raise ConfigError(f"{file} defines no {name}()")
        function = getattr(module, name)
        if arg is not None and not inspect.signature(function).parameters:
            raise ConfigError(f"{file}: {name}() takes no argument, got {arg!r}")
        return function(*([] if arg is None else [arg]))
    except ConfigError:
        raise
    except Exception as error:  # whatever the user's file does
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)]
        line = lines[-1] if lines else getattr(error, "lineno", None)
        # ConfigDict's errors list every value it holds before "Did you mean".
        pattern = r" Other fields present: .*\n"
        message = re.sub(pattern, " ", _text(error), flags=re.S)
        raise ConfigError(
            f"{file}{f', line {line}' if line else ''}: "
            f"{type(error).__name__}: {' '.join(message.split())}"
        ) from error


def _text(error: BaseException) -> str:
    """The message; a KeyError's `str` is a repr, and may be wrapped in another."""
    cause = error.args[0] if len(error.args) == 1 else str(error)
    return _text(cause) if isinstance(cause, BaseException) else str(cause)


def _execute(file: pathlib.Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("configs._loaded", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@functools.cache
def shipped_base() -> types.ModuleType:
    """The module `configs/base.py` that this version of the package came with."""
    file = _shipped_base()
    with _importable(file):
        return _execute(file)


def _shipped_base() -> pathlib.Path:
    files = (folder / "configs/base.py" for folder in _SHIPPED)
    return next(file for file in files if file.is_file())


def resolve_duration(
    fields: Mapping[str, Any] | ConfigDict,
    *,
    batch_size: int,
    num_examples: int | None,
    total_steps: int | None = None,
    name: str = "duration",
) -> int:
    """A config's duration in steps.

    Args:
      fields: ``epochs``, ``steps`` and ``examples``, all but one of them None.
      batch_size: examples a step.
      num_examples: of the training split; only epochs need it.
      total_steps: of the run, where the result must not exceed it.
      name: of the field, for the messages.

    Returns:
      Epochs rounded to the nearest step, but at least one if there are any; examples
      rounded up.

    Raises:
      ConfigError: not exactly one unit is set, or it is negative.
    """
    given: dict[str, Any] = {
        unit: fields[unit] for unit in UNITS if fields.get(unit) is not None
    }
    if len(given) != 1:
        raise ConfigError(
            f"{name} needs exactly one of {', '.join(UNITS)}; "
            f"set: {', '.join(given) or 'none'}"
        )
    ((unit, value),) = given.items()
    if not 0 <= value < math.inf:
        raise ConfigError(f"{name}.{unit} must not be negative, got {value}")
    if unit == "steps":
        steps = int(value)
    elif unit == "examples":
        steps = math.ceil(value / batch_size)
    elif num_examples is None:
        raise ConfigError(
            f"{name} is in epochs, but the size of the split is not known"
        )
    else:
        steps = math.floor(value * num_examples / batch_size + 0.5)
        steps = max(steps, 1) if value else 0
    return steps if total_steps is None else min(steps, total_steps)
