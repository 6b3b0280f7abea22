"""One process's place in a run, and how variables that name it are read."""

import dataclasses
from collections.abc import Mapping

Environ = Mapping[str, str]

# Above what Linux gives to outgoing connections (32768 to 60999).
_FIRST_PORT, _NUM_PORTS = 61440, 4096


class StartError(ValueError):
    """The processes of a run could not find each other; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """One process's place among those of a run.

    Attributes:
      name: what says so, for people.
      coordinator: HOST:PORT of the first process; "" where there is only one.
      local_device_ids: GPUs of the host that are this process's; None: all.
      hint: what a user may have meant instead.
    """

    name: str
    coordinator: str
    num_processes: int
    process_id: int
    local_device_ids: tuple[int, ...] | None = None
    hint: str = ""

    def __str__(self) -> str:
        if self.num_processes == 1:
            return f"{self.name}: one process, which trains alone{self.hint}"
        return (
            f"{self.name}: process {self.process_id} of {self.num_processes}, "
            f"coordinator {self.coordinator}"
        )


def address(host: str, job: int, environ: Environ) -> str:
    """The coordinator's; jobs whose numbers differ by less than 4096 do not collide."""
    port = environ.get("JAX_COORDINATOR_PORT") or _FIRST_PORT + job % _NUM_PORTS
    return f"{host}:{port}"


def checked(cluster: Cluster, id_name: str, number_name: str) -> Cluster:
    """The same, if the process is one of those that there are; the names say whose."""
    last = cluster.num_processes - 1
    if 0 <= cluster.process_id <= last:
        return cluster
    raise StartError(
        f"{id_name} {cluster.process_id} is outside 0..{last} ({number_name})"
    )


def optional(environ: Environ, variable: str) -> int | None:
    """A variable's number; None where it is not set or empty."""
    text = environ.get(variable, "")
    if not text:
        return None
    if not text.isdecimal():
        raise StartError(f"{variable} is {text!r}, not a number; correct or unset it")
    return int(text)


def number_of(environ: Environ, variable: str, name: str) -> int:
    """A variable's number, which a scheduler of this name sets."""
    number = optional(environ, variable)
    if number is None:
        raise missing(name, variable)
    return number


def missing(name: str, variable: str, advice: str = "") -> StartError:
    """The error for a variable that a scheduler should have set."""
    advice = advice or "set it, or give --coordinator, --num_processes and --process_id"
    return StartError(
        f"{name} is there, but {variable} is not set; {advice} "
        "(--num_processes=1 trains alone)"
    )
