"""Opening the devices that JAX computes on."""

import os

import jax


class DevicesError(ValueError):
    """JAX cannot open the devices it is to use; the message says which, and why."""


def open_devices() -> None:
    """Has JAX open its devices, which it else does at the first computation.

    Raises:
      DevicesError: it cannot, such as those that ``JAX_PLATFORMS`` names.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter: nothing to open it
        reason = (str(error).splitlines() or ["nothing installed here can"])[0]
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise DevicesError(
            f"JAX cannot open its devices (JAX_PLATFORMS={asked!r}): {reason}; unset "
            "JAX_PLATFORMS to take what there is, set it to cpu, or install JAX for "
            "the accelerator"
        ) from error
