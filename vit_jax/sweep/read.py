"""A sweep as it is given: in a config's `get_sweep()`, in a file, or in flags."""

import ast
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.sweep import expand
from vit_jax.sweep.expand import Overrides
from vit_jax.sweep.ranges import FUNCTIONS, Range, SweepError, choice

COMBINE = {
    "product": expand.product,
    "zip": expand.zipped,
    "chain": expand.chain,
}
_CALL = re.compile(r"(?P<name>[a-z]+)\((?P<arguments>.*)\)")


def from_flags(
    settings: Sequence[str], *, combine: str, samples: int | None, seed: int
) -> list[Overrides]:
    """Trials from ``--set`` flags such as ``"optim.learning_rate=1e-3,3e-3"``.

    Args:
      settings: KEY=VALUES, a key each; the values are text.
      combine: product, zip or chain.
      samples: how many to draw where values are ranges.
      seed: of the draws.
    """
    parts = dict(_setting(text, settings) for text in settings)
    ranges = {key: value for key, value in parts.items() if isinstance(value, Range)}
    lists = {key: value for key, value in parts.items() if key not in ranges}
    if samples is None:
        if ranges:
            raise SweepError(
                f"{next(iter(ranges))} has a range; --samples=N says how many to draw"
            )
        return COMBINE[combine](lists)
    if combine != "product":
        raise SweepError(f"--samples draws all keys; --combine={combine} has no use")
    return expand.random(parts, samples, seed)


def _setting(text: str, settings: Sequence[str]) -> tuple[str, Any]:
    key, equals, values = text.partition("=")
    key = key.strip().lstrip("-").removeprefix("config.")
    if not equals or not key or not values.strip():
        raise SweepError(
            f"--set {text!r} is not KEY=VALUE,VALUE,... such as "
            "config.optim.learning_rate=1e-3,3e-3"
        )
    names = [other.partition("=")[0].lstrip("-").strip() for other in settings]
    if [name.removeprefix("config.") for name in names].count(key) > 1:
        raise SweepError(f"--set has {key} twice; give all of its values at once")
    return key, _range(values.strip()) or split(values)


def _range(text: str) -> Range | None:
    """``"loguniform(1e-4,1e-2)"``, or ``"choice(a,b)"``."""
    found = _CALL.fullmatch(text)
    if not found:
        return None
    if found["name"] == "choice":
        return choice(split(found["arguments"]))
    if found["name"] not in FUNCTIONS:
        known = ", ".join([*FUNCTIONS, "choice"])
        raise SweepError(f"no range {found['name']!r} in {text!r}; there are: {known}")
    try:
        ends = ast.literal_eval(f"({found['arguments']},)")
        return FUNCTIONS[found["name"]](*ends)
    except (SyntaxError, TypeError, ValueError) as error:
        if isinstance(error, SweepError):
            raise
        raise SweepError(
            f"{text!r} needs two numbers, as in {found['name']}(1, 10)"
        ) from None


def split(text: str) -> list[str]:
    """Values between semicolons, or else between commas that are in no brackets.

    ``"(8,8);(16,16)"`` and ``"(8,8),(16,16)"`` are two values, ``"(8,8)"`` is one.
    """
    separator = ";" if ";" in _outside(text) else ","
    values, depth, quote, begin = [], 0, "", 0
    for place, letter in enumerate(text):
        quote, depth = _state(letter, quote, depth)
        if letter == separator and not depth and not quote:
            values.append(text[begin:place])
            begin = place + 1
    values.append(text[begin:])
    if empty := [value for value in values if not value.strip()]:
        raise SweepError(f"{text!r} has an empty value ({len(empty)} of them)")
    return [value.strip() for value in values]


def _state(letter: str, quote: str, depth: int) -> tuple[str, int]:
    """The quotation and the depth of brackets after a letter."""
    if quote:
        return ("" if letter == quote else quote), depth
    if letter in "\"'":
        return letter, depth
    return "", depth + (letter in "([{") - (letter in ")]}")


def _outside(text: str) -> str:
    """The letters that are in no brackets and no quotes."""
    kept, depth, quote = [], 0, ""
    for letter in text:
        quote, depth = _state(letter, quote, depth)
        if not depth and not quote:
            kept.append(letter)
    return "".join(kept)


def from_file(path: str) -> list[Overrides]:
    """Trials from a ``.py`` with `get_sweep()`, or from ``.json`` or ``.yaml``."""
    file = pathlib.Path(path).expanduser()
    if file.suffix not in (".py", ".json", ".yaml", ".yml"):
        raise SweepError(f"--sweep={path}: a sweep file is .py, .json or .yaml")
    if not file.is_file():
        raise SweepError(f"--sweep={path}: there is no such file")
    if file.suffix == ".py":
        return from_config(str(file))
    try:
        content = file.read_text()
        if file.suffix == ".json":
            node = json.loads(content, object_pairs_hook=_once)
        else:
            node = _yaml(content)
    except Exception as error:  # of either parser
        line = " ".join(str(error).split())
        raise SweepError(f"{path} cannot be read: {line}") from None
    return from_node(node, path)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping whose keys are there once: parsers would keep the last one only."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise SweepError(f"{key} is there twice; give all of its values at once")
        found[key] = value
    return found


def _yaml(content: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            _once([(key.value, None) for key, _ in node.value if key.value != "<<"])
            return super().construct_mapping(node, deep)

    return yaml.load(content, Loader)


def from_node(node: Any, place: str) -> list[Overrides]:
    """Trials from plain data, such as ``{"product": {"seed": [0, 1]}}``."""
    if isinstance(node, list):
        return expand.chain(node)
    keys = set(node) if isinstance(node, Mapping) else set()
    kinds = [kind for kind in (*COMBINE, "random") if kind in keys]
    allowed = {"random", "samples", "seed"} if kinds == ["random"] else set(kinds)
    if len(kinds) != 1 or keys - allowed:
        raise SweepError(
            f"{place}: a sweep is one of product, zip, chain (each of keys with lists "
            "of values, or a list of sweeps), random with samples, or a list of "
            f"trials; got {_brief(node)}"
        )
    inside, here = node[kinds[0]], f"{place}: {kinds[0]}"
    if kinds == ["random"]:
        if not isinstance(inside, Mapping) or not isinstance(node.get("samples"), int):
            raise SweepError(f"{here} needs keys with ranges, and samples: N beside it")
        if not isinstance(node.get("seed", 0), int):
            raise SweepError(f"{here}: its seed is a whole number")
        space = {key: _range_of(value) for key, value in inside.items()}
        return expand.random(space, node["samples"], node.get("seed", 0))
    if isinstance(inside, Mapping):
        return COMBINE[kinds[0]](inside)
    if not isinstance(inside, list):
        raise SweepError(f"{here} holds keys with lists of values, or a list of sweeps")
    return COMBINE[kinds[0]](*[_part(part, here) for part in inside])


def _part(part: Any, place: str) -> expand.Part:
    """One of several sweeps in a list: a sweep itself, or keys with their values."""
    if not isinstance(part, Mapping) or {*COMBINE, "random"} & set(part):
        return from_node(part, place)
    return part


def _range_of(value: Any) -> Any:
    return (isinstance(value, str) and _range(value)) or value


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def from_config(spec: str) -> list[Overrides]:
    """Trials of the `get_sweep()` in a config file, or in a file beside configs."""
    from vit_jax import config_file

    trials = config_file.read_sweep(spec)
    if isinstance(trials, Mapping):
        return expand.product(trials)
    if isinstance(trials, expand.Drawn):
        return trials
    try:
        return expand.chain(trials)
    except TypeError:
        raise SweepError(
            f"{spec}: get_sweep() returned a {type(trials).__name__}, not trials; "
            "return what vit_jax.sweep.product and the like return"
        ) from None
