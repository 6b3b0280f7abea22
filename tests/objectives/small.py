"""What the tests of objectives on patch tokens share: tiny ones, and their training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests import training
from tests.models import tiny
from vit_jax import objectives
from vit_jax.models.vit import ViT
from vit_jax.objectives.base import merge, split

MODEL = tiny.settings(num_classes=0)
PIXELS = {"mean": (0.5,), "std": (0.5,)}


def build(section, *, key=None, **model):
    """The objective of a config's section on a tiny ViT, initialised."""
    encoder = ViT(**MODEL | model, key=jax.random.key(0))
    key = jax.random.key(1) if key is None else key
    return objectives.build(section.to_dict(), encoder=encoder, key=key, **PIXELS)


def filled(section, **model):
    """The same with random parameters, none of them zero: structure, parameters."""
    graphdef, params = tiny.shapes(lambda key: build(section, key=key, **model))
    return graphdef, tiny.fill(params)


def make(section, **model):
    """The same as a module."""
    return merge(*filled(section, **model), {})


def loss_of(graphdef, params, images, key):
    """Loss and metrics of some images."""
    return merge(graphdef, params, {}).loss({"images": images}, key=key)


def without_gradient(section, images, **model):
    """Paths that no gradient of the loss reaches, see `unreached`."""
    graphdef, params = filled(section, **model)

    def loss(params):
        return loss_of(graphdef, params, images, jax.random.key(2))[0]

    return unreached(tiny.jit(jax.grad(loss))(params))


def unreached(grads):
    """Paths of gradients that are zero, in a stack those that are in some layer.

    Not said of a key's bias: it adds the same to all of a query's logits, so that its
    gradient is 0 but for rounding.
    """
    missing = []
    for path, grad in tiny.flatten(grads).items():
        axes = tuple(range("/blocks/" in f"/{path}", grad.ndim))
        size = np.abs(np.asarray(grad)).max(axis=axes)
        if not path.endswith("attention/key/bias") and not (size > 1e-6).all():
            missing.append(path)
    return missing


def overfit(section, images, *, steps, learning_rate=3e-3, **model):
    """Losses of Adam on the same few images, the masks being others each time."""
    tx = optax.adam(learning_rate)
    graphdef, _ = tiny.shapes(lambda key: build(section, key=key, **model))

    def step(state, key):
        params, opt_state = state
        (value, _), grads = jax.value_and_grad(
            lambda params: loss_of(graphdef, params, images, key), has_aux=True
        )(params)
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), value

    @jax.jit
    def run(keys):
        params = split(build(section, **model))[1]
        return jax.lax.scan(step, (params, tx.init(params)), keys)[1]

    return np.asarray(run(jax.random.split(jax.random.key(3), steps)))


def config(section, *changes):
    """The tiny run on digits with this objective."""
    config = training.tiny_config("model.unroll=1", *changes).unlock()
    config.objective = section
    config.model.num_classes = 0
    config.evals = {}
    config.checkpoint.best = ""
    return config.lock()


@functools.cache
def smooth_images(count=4, size=(12, 20)):
    """Images that are no noise: a wave each, of another direction and colour."""
    rows, columns = np.mgrid[: size[0], : size[1]] / 12
    generator = np.random.default_rng(5)
    waves = [
        np.sin((a * rows + b * columns)[..., None] + generator.uniform(0, 6, 3))
        for a, b in generator.uniform(1, 6, (count, 2))
    ]
    return jnp.asarray(np.stack(waves), jnp.float32)
