"""Evaluators on small arrays: a linear objective, splits in memory, any devices."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vit_jax import sharding
from vit_jax.data.arrays import ArraySource
from vit_jax.data.pipeline import Loader
from vit_jax.evals.base import Context, Split
from vit_jax.objectives.base import Objective, split

NUM_CLASSES, WIDTH = 5, 12
MEAN, STD = (0.4,), (0.3,)


class Linear(Objective):
    """Features and logits are linear in the pixels."""

    def __init__(self, pixels=16):
        rng = np.random.default_rng(7)
        weights = rng.normal(size=(pixels, WIDTH)) / 4
        self.weights = nnx.Param(jnp.asarray(weights, jnp.float32))
        head = rng.normal(size=(WIDTH, NUM_CLASSES))
        self.head = nnx.Param(jnp.asarray(head, jnp.float32))

    def predict(self, images):
        pixels = images.reshape(len(images), -1)
        features = jnp.matmul(pixels, self.weights[...], precision="highest")
        return {"features": features, "logits": features @ self.head[...]}


def arrays(size, seed=0, num_classes=NUM_CLASSES):
    """Images of noise around one pattern a class, and labels; no class is missing."""
    patterns = np.random.default_rng(1).uniform(0, 255, (num_classes, 4, 4, 1))
    rng = np.random.default_rng((2, seed))
    labels = np.concatenate(
        [np.arange(num_classes), rng.integers(num_classes, size=size - num_classes)]
    )
    noise = rng.normal(0, 110, (size, 4, 4, 1))
    images = np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8)
    return images, labels.astype(np.int32)


def features(images):
    """What `Linear` makes of images, in float64."""
    pixels = (images.reshape(len(images), -1) / 255 - MEAN[0]) / STD[0]
    _, params, _ = split(Linear())
    return pixels @ np.asarray(params["weights"], np.float64)


class Broken(ArraySource):
    """Some examples are damaged."""

    def __init__(self, *args, bad=(), **settings):
        super().__init__(*args, **settings)
        self._bad = set(bad)

    def __getitem__(self, index):
        from vit_jax.data.errors import BadExampleError

        if index in self._bad:
            raise BadExampleError(f"record {index}: garbled")
        return super().__getitem__(index)


def mesh(devices):
    return sharding.build_mesh(
        slices=1,
        data=-1,
        fsdp=1,
        tensor=1,
        sequence=1,
        devices=jax.devices()[:devices],
    )


def context(devices=1, *, objective=None, bad=(), class_names=None, **splits):
    """A context whose ``open`` knows the given splits, and the parameters.

    Args:
      devices: how many.
      objective: in place of `Linear`.
      bad: damaged examples of the split ``train``.
      class_names: of the model and the data.
      splits: images and labels by name.
    """
    on = mesh(devices)
    graphdef, params, frozen = split(objective or Linear())
    num_classes = 1 + max(int(labels.max()) for _, labels in splits.values())

    def open_split(name, *, batch_size, resize=0, augment=False, **_):
        load = noisy if augment else lambda image, rng: image
        source = Broken(
            *splits[name], num_classes=num_classes, bad=bad if name == "train" else ()
        )
        loader = Loader(
            source,
            load,
            sharding=sharding.batch_sharding(on),
            batch_size=batch_size,
            seed=3,
            threads=1,
            bad="skip",
        )
        return Split(loader, f"small {name!r}", num_classes, class_names)

    made = Context(
        name="tried",
        graphdef=graphdef,
        mean=MEAN,
        std=STD,
        num_classes=num_classes,
        class_names=class_names,
        mesh=on,
        seed=5,
        open=open_split,
    )
    return made, jax.device_put(params, sharding.replicated(on)), frozen


def noisy(image, rng):
    """An augmentation."""
    noise = rng.integers(0, 40, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def run(kind, devices=1, *, settings, **given):
    """The results of an evaluator on small arrays."""
    made, params, frozen = context(devices, **given)
    evaluator = kind(made, data="", **settings)
    try:
        with jax.set_mesh(made.mesh):
            return evaluator.run(params, frozen)
    finally:
        evaluator.close()
