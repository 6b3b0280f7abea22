"""Which errors are a user's mistake, with a message that needs no traceback."""

import sys

# Raised with a message for the user, by module.
USER_ERRORS = {
    "vit_jax.checkpoint": "CheckpointError",
    "vit_jax.config": "ConfigError",
    "vit_jax.data.errors": "DataError",
    "vit_jax.devices": "DevicesError",
    "vit_jax.distributed": "StartError",
    "vit_jax.launch.job": "LaunchError",
    "vit_jax.lock": "LockError",
    "vit_jax.plan.topology": "TopologyError",
    "vit_jax.predict": "PredictError",
    "vit_jax.storage": "StorageError",
    "vit_jax.sweep.ranges": "SweepError",
    "vit_jax.weights.files": "WeightsError",
}


def is_users_mistake(error: Exception) -> bool:
    """Whether an error's message is meant for the user, without a traceback.

    Nothing is imported to find out: what was not imported has raised nothing.
    """
    return any(
        isinstance(error, getattr(sys.modules[module], name))
        for module, name in USER_ERRORS.items()
        if module in sys.modules
    )
