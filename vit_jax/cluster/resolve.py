"""Arguments first, then JAX's variables, then the scheduler."""

import dataclasses

from vit_jax.cluster.place import Cluster, Environ, StartError, checked, optional
from vit_jax.cluster.schedulers import detect


def resolve(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    environ: Environ,
) -> Cluster | None:
    """The place of this process; None where nothing says that there are others.

    Arguments win over the variables `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`, and these over what a scheduler says.

    Raises:
      StartError: something is half set, or contradicts itself.
    """
    arguments = (coordinator, num_processes, process_id)
    coordinator = _host_and_port(
        coordinator or environ.get("JAX_COORDINATOR_ADDRESS"), environ
    )
    if num_processes is None:
        num_processes = optional(environ, "JAX_NUM_PROCESSES")
    if process_id is None:
        process_id = optional(environ, "JAX_PROCESS_ID")
    given = (coordinator, num_processes, process_id)
    name = "JAX_* variables" if arguments == (None,) * 3 else "arguments"
    if num_processes == 1 and not process_id:
        return Cluster(name, "", 1, 0)
    if None not in given:
        return checked(Cluster(name, *given), "--process_id", "--num_processes")  # type: ignore
    found = detect(environ)
    if given == (None,) * 3:
        return found
    if found is None or found.num_processes == 1:
        raise StartError(
            "--coordinator, --num_processes and --process_id (or "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID) go "
            f"together where no scheduler says the rest; got {_list(given)} "
            "(--num_processes=1 trains alone)"
        )
    changes = {
        "coordinator": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    changes = {field: value for field, value in changes.items() if value is not None}
    found = dataclasses.replace(found, **changes, name=f"{found.name} and {name}")
    return checked(found, "process id", "number of processes")


def _host_and_port(coordinator: str | None, environ: Environ) -> str | None:
    if not coordinator:
        return None
    port = environ.get("JAX_COORDINATOR_PORT")
    if ":" not in coordinator and port:
        coordinator = f"{coordinator}:{port}"
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise StartError(
            f"the coordinator is {coordinator!r}, not HOST:PORT; correct --coordinator "
            "(or JAX_COORDINATOR_ADDRESS)"
        )
    return coordinator


def _list(values: tuple[object, ...]) -> str:
    return ", ".join("nothing" if value is None else str(value) for value in values)
