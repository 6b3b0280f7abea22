"""Work on a whole global batch inside the jitted step: flip, normalise, mixup.

Everything depends on the key and the row in the global batch alone, so a result is
the same on any number of devices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

PrepareBatch = Callable[[dict[str, jax.Array], jax.Array], dict[str, jax.Array]]


def normalize(
    images: UInt8[Array, "B H W C"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "B H W C"]:
    """uint8 pixels to ``(pixel / 255 - mean) / std`` in float32."""
    scale = 1.0 / (255.0 * jnp.asarray(std, jnp.float32))
    offset = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
    return images.astype(jnp.float32) * scale - offset


def flip(
    images: Float[Array, "B H W C"], key: Key[Array, ""]
) -> Float[Array, "B H W C"]:
    """Mirrors each row's image left-right with probability one half."""
    mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def mixup(
    images: Float[Array, "B H W C"],
    labels: Float[Array, "B K"],
    alpha: float,
    key: Key[Array, ""],
) -> tuple[Float[Array, "B H W C"], Float[Array, "B K"]]:
    """Mixes each row with the one before it in the global batch (arXiv 1710.09412).

    One weight ``a ~ Beta(alpha, alpha)``, at least 0.5, for the whole batch. (The
    big_vision code draws one a device; that makes results depend on their number.)
    """
    weight = jax.random.beta(key, alpha, alpha)
    weight = jnp.maximum(weight, 1.0 - weight)
    mixed_images = weight * images + (1.0 - weight) * jnp.roll(images, 1, axis=0)
    mixed_labels = weight * labels + (1.0 - weight) * jnp.roll(labels, 1, axis=0)
    return mixed_images, mixed_labels


def one_hot(labels: Int[Array, "B"], num_classes: int) -> Float[Array, "B K"]:
    """Class numbers to float32 rows; a label of -1 gives a row of zeros."""
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def build_prepare(
    *,
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    flip_images: bool,
    mixup_alpha: float,
) -> PrepareBatch:
    """Returns ``prepare(batch, key)`` for the train step.

    It takes ``{"image": uint8 [B, H, W, C], "label": int [B]}`` to
    ``{"images": float [B, H, W, C], "labels": float [B, K]}``.
    """

    def prepare(batch: dict[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        flip_key, mixup_key = jax.random.split(key)
        images = normalize(batch["image"], mean, std)
        labels = one_hot(batch["label"], num_classes)
        if flip_images:
            images = flip(images, flip_key)
        if mixup_alpha:
            images, labels = mixup(images, labels, mixup_alpha, mixup_key)
        return {"images": images, "labels": labels}

    return prepare
