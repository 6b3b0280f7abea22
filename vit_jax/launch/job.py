"""What is launched, whatever the target: the job, its code, and what is rendered."""

import dataclasses
import hashlib
import pathlib
import shlex
from collections.abc import Mapping, Sequence

from vit_jax.plan.topology import Topology

TEMPLATES = pathlib.Path(__file__).parent / "templates"


class LaunchError(ValueError):
    """A job that cannot be launched so; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Code:
    """What the target installs.

    Args:
      source: of pip's requirement: "" for a wheel, ``git+URL@REV``, or ``==0.1.0``.
      wheel: shipped beside the job, where there is one.
      origin: for people.
    """

    source: str
    wheel: pathlib.Path | None
    origin: str

    def requirement(self, extras: Sequence[str], folder: str) -> str:
        """As pip takes it; a wheel lies in ``folder`` on the target."""
        extra = f"[{','.join(extras)}]"
        if self.wheel is not None:
            return f"{folder}/{self.wheel.name}{extra}"
        if self.source.startswith("git+"):
            return f"vit-jax{extra} @ {self.source}"
        return f"vit-jax{extra}{self.source}"

    @property
    def digest(self) -> str:
        """Names an environment that has it: versions of wheels are often the same."""
        data = self.wheel.read_bytes() if self.wheel else self.source.encode()
        return hashlib.sha256(data).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Job:
    """One training run on one topology.

    Args:
      name: of it, lower case, digits and hyphens.
      config: of the package, ``configs/digits.py:Ti/2``; or the argument alone
        (``:Ti/2``, or nothing) where ``config_file`` is shipped.
      config_file: the user's own, None where the package has it.
      overrides: ``--config.KEY=VALUE``.
      workdir: where the run lives.
      topology: from the table.
      code: what is installed.
      output: folder of what is rendered, absolute.
      env: variables, none of them secret.
      secrets: names of variables whose values the target knows.
      spot: capacity that may be taken away, at a lower price.
      retries: after failures; preemptions do not count.
      options: of the target.
    """

    name: str
    config: str
    config_file: pathlib.Path | None
    overrides: tuple[str, ...]
    workdir: str
    topology: Topology
    code: Code
    output: pathlib.Path
    env: Mapping[str, str]
    secrets: tuple[str, ...]
    spot: bool
    retries: int
    options: Mapping[str, str]

    def option(self, name: str) -> str:
        """One of the target's, "" where it is not given."""
        return self.options.get(name, "")

    @property
    def files(self) -> dict[str, pathlib.Path]:
        """What is shipped beside the job, by name."""
        shipped = {}
        if self.code.wheel is not None:
            shipped[self.code.wheel.name] = self.code.wheel
        if self.config_file is not None:
            shipped["config.py"] = self.config_file
        return shipped

    def requirement(self, folder: str) -> str:
        """What pip installs on the target, where shipped files lie in ``folder``."""
        extras = ["tpu" if self.topology.chip.is_tpu else "cuda"]
        if self.workdir.startswith("gs://"):
            extras.append("gcs")
        return self.code.requirement(extras, folder)

    def command(self, folder: str) -> list[str]:
        """`vit-jax`'s arguments, the same on every host."""
        config = self.config
        if self.config_file is not None:
            config = f"{folder}/config.py{config}"
        return [
            "train",
            f"--config={config}",
            f"--workdir={self.workdir}",
            *self.overrides,
        ]


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A target's answer.

    Args:
      files: texts by name, in the job's folder.
      main: the one that people look at first.
      submit: commands that hand it over.
      hosts: that the files ask for, read back from them.
      chips: likewise.
      check: a command that has the target's own tool check it, where there is one.
      ships: whether the code lies beside the files, rather than in one of them.
    """

    files: Mapping[str, str]
    main: str
    submit: tuple[tuple[str, ...], ...]
    hosts: int
    chips: int
    check: tuple[str, ...] = ()
    ships: bool = True


def template(name: str) -> str:
    """One of the package's shell files, as it is: nothing is filled in."""
    return (TEMPLATES / name).read_text()


def variables(**values: str | int | Sequence[str]) -> str:
    """Assignments at the top of a shell script; sequences become arrays."""
    lines = []
    for name, value in values.items():
        if isinstance(value, (str, int)):
            lines.append(f"{name}={shlex.quote(str(value))}\n")
        else:
            lines.append(f"{name}=({shlex.join(value)})\n")
    return "".join(lines)


def exports(job: Job) -> str:
    """The job's variables, for a shell."""
    return "".join(
        f"export {name}={shlex.quote(value)}\n" for name, value in job.env.items()
    )


def summary(job: Job) -> str:
    """A comment's line on what was asked for."""
    place = job.topology
    return (
        f"{place} ({place.slices} x {place.count_name}): {place.chips:,} chips, "
        f"{place.hosts:,} hosts of {place.chips_per_host}"
    )
