"""Names, variables, secrets and places, as given on the command line."""

import pathlib
import re
from collections.abc import Sequence

from vit_jax import storage
from vit_jax.launch.job import LaunchError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)($|_)", re.I)
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_LONGEST = 40  # of a name: targets add numbers to it, and allow 63 in all


def name(given: str | None, config: str) -> str:
    """The job's name, or one made from the config's."""
    if given is None:
        file, _, argument = config.partition(":")
        made = f"{pathlib.PurePath(file).stem}-{argument}".lower()
        given = re.sub(r"[^a-z0-9]+", "-", made).strip("-")[:_LONGEST].strip("-")
        given = given if given[:1].isalpha() else f"run-{given}"[:_LONGEST]
    if _NAME.fullmatch(given) and len(given) <= _LONGEST:
        return given
    raise LaunchError(
        f"--name={given!r} must be lower-case letters, digits and hyphens, start with "
        f"a letter, end with none of the hyphens, and have at most {_LONGEST}"
    )


def variables(given: Sequence[str]) -> dict[str, str]:
    """`--env=NAME=VALUE`, which is written to files: no secrets."""
    found = {}
    for text in given:
        variable, equals, value = text.partition("=")
        if not _VARIABLE.fullmatch(variable) or not equals:
            raise LaunchError(f"--env={text!r} is not NAME=VALUE")
        if _SECRET.search(variable):
            raise LaunchError(
                f"--env={variable}=... would be written to a file, and {variable} "
                f"sounds secret; use --secret={variable}, which takes the name only"
            )
        if "\n" in value:
            raise LaunchError(f"--env={variable}: the value has several lines")
        found[variable] = value
    return found


def secrets(given: Sequence[str]) -> tuple[str, ...]:
    """`--secret=NAME`: never a value, not even in an error."""
    for text in given:
        variable, equals, _ = text.partition("=")
        if equals:
            raise LaunchError(
                f"--secret={variable}=... has a value; give the name only, the target "
                "knows the value"
            )
        if not _VARIABLE.fullmatch(variable):
            raise LaunchError(f"--secret={text!r} is not the name of a variable")
    return tuple(dict.fromkeys(given))


def workdir(given: str, *, shared: bool) -> str:
    """The work directory as every host and every later start will find it.

    Args:
      given: on the command line.
      shared: whether hosts share a file system that outlives them.
    """
    if not given.strip():
        raise LaunchError("--workdir= is empty; give a path or gs://BUCKET/PATH")
    if storage.is_bucket(given) and given.removeprefix("gs://").strip("/"):
        return given
    if "://" in given:
        raise LaunchError(
            f"--workdir={given}: it is a path of a file system or gs://BUCKET/PATH"
        )
    if shared:
        return str(pathlib.Path(given).expanduser().absolute())
    raise LaunchError(
        f"--workdir={given}: a machine that is taken away takes its disk with it; give "
        "a bucket, gs://BUCKET/PATH"
    )
