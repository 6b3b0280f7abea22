"""A small state with every kind of array, and folders of steps of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax import train_state
from vit_jax.checkpoint import Checkpoints


def state_of(step):
    """A state that differs at every step in every array."""
    keys = jax.random.split(jax.random.key(step), 3)
    params = {
        "encoder": {
            "w": jax.random.normal(keys[0], (8, 40)),
            "b": jax.random.normal(keys[1], (7,), jnp.bfloat16),
            "zeros": jnp.zeros((2000,)).at[step].set(1),
        },
        "head": {"k": jax.random.normal(keys[2], (3, 2))},
    }
    state = train_state.create(params, optax.adamw(1e-3), with_ema=True)
    return state.replace(step=jnp.asarray(step, jnp.int32))


def abstract(state):
    """Shapes, dtypes and shardings of a state."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding
        ),
        state,
    )


def same(first, second):
    """Whether two trees are equal bit for bit."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def fill(folder, steps=(1, 2), **options):
    """A folder with ``steps``, each verified."""
    checkpoints = Checkpoints(folder, **options)
    for step in steps:
        checkpoints.save(step, state_of(step), {"val/accuracy": step / 10})
        checkpoints.wait()
    checkpoints.close()
    return folder


def files(step_folder):
    """The files of a step, in an order that does not depend on their random names."""
    found = [path for path in step_folder.rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: (str(path.parent), path.stat().st_size))


def saved(folder):
    """Numbers of the steps in a folder."""
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
