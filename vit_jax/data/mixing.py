"""Work on a whole global batch inside the jitted step: flip, normalise, erase, mix.

Everything depends on the key and the row in the global batch alone, so a result is
the same on any number of devices. Images are [B, H, W, C], or [B, V, H, W, C] with
several views of each row: flip and erasing then draw for each view, and mixing takes
one weight and one box for all views of a row.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt8

from vit_jax.data.erasing import FILLS, inside, random_erase

PrepareBatch = Callable[[dict[str, jax.Array], jax.Array], dict[str, jax.Array]]

MIX_PER = ("batch", "example")

# Numbers folded into a key for its further draws. A split is a fold of 0, 1, ...; those
# belong to the draws that were there first.
_ERASE = 2
_SWITCH, _CUTMIX, _APPLY, _CENTRE = 2, 3, 4, 5


def normalize(
    images: UInt8[Array, "B *V H W C"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "B *V H W C"]:
    """uint8 pixels to ``(pixel / 255 - mean) / std`` in float32."""
    scale = 1.0 / (255.0 * jnp.asarray(std, jnp.float32))
    offset = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
    return images.astype(jnp.float32) * scale - offset


def flip(
    images: Float[Array, "B *V H W C"], key: Key[Array, ""]
) -> Float[Array, "B *V H W C"]:
    """Mirrors each image left-right with probability one half."""
    mirrored = jax.random.bernoulli(key, 0.5, (*images.shape[:-3], 1, 1, 1))
    return jnp.where(mirrored, images[..., ::-1, :], images)


def one_hot(labels: Int[Array, "B *M"], num_classes: int) -> Float[Array, "B K"]:
    """Class numbers to float32 rows; -1 is no label and gives a row of zeros.

    With several labels a row, ``[B, M]`` padded with -1, each of them is 1.
    """
    rows = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return rows if labels.ndim == 1 else rows.max(axis=1)


def mix(
    images: Float[Array, "B *V H W C"],
    labels: Shaped[Array, "B ..."],
    key: Key[Array, ""],
    *,
    encode: Callable[[jax.Array], jax.Array] = lambda labels: labels,
    mixup_alpha: float,
    cutmix_alpha: float,
    prob: float,
    switch: float,
    per: str,
) -> tuple[Float[Array, "B *V H W C"], Float[Array, "B K"]]:
    """Mixup (arXiv 1710.09412) or cutmix (arXiv 1905.04899) with the row before.

    The first row's partner is the last one of the global batch.

    Mixup's weight of a row itself is at least 0.5, which changes only which of the two
    is called the other. Cutmix's box may leave the image; the labels are then weighted
    by the area that was really pasted.

    Args:
      images: normalised; every view of a row is mixed alike.
      labels: one-hot or soft, or what ``encode`` takes.
      key: of the whole batch.
      encode: labels to ``[B, K]``. Rows change places before it: an array of that size
        whose rows move is kept in memory, class numbers become it where it is used.
      mixup_alpha: weight ~ Beta(alpha, alpha); 0 is off.
      cutmix_alpha: share that is not pasted over ~ Beta(alpha, alpha); 0 is off.
      prob: share of the batches (or examples) that are mixed at all.
      switch: where both are on, the share of those that take cutmix.
      per: "batch", one draw for all rows, or "example". (The big_vision code draws one
        weight a device; that makes results depend on their number.)
    """
    count = images.shape[0] if per == "example" else 1
    height, width = images.shape[-3:-1]
    weight, cut = draw_weights(
        key,
        count,
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        prob=prob,
        switch=switch,
    )
    kept = weight[:, None, None]  # [count, 1, 1] or [count, H, W]: share of a pixel
    if cutmix_alpha:
        centre = jax.random.uniform(jax.random.fold_in(key, _CENTRE), (count, 2))
        box = cutmix_box(weight, centre, height, width)
        kept = jnp.where(cut[:, None, None], ~inside(box, height, width), kept)
        top, bottom, left, right = box
        pasted = (bottom - top) * (right - left) / (height * width)
        weight = jnp.where(cut, 1.0 - pasted, weight)
    views = (1,) * (images.ndim - 4)
    kept = kept.reshape(count, *views, *kept.shape[1:], 1)
    weight = weight[:, None]
    return (
        kept * images + (1.0 - kept) * jnp.roll(images, 1, axis=0),
        weight * encode(labels) + (1.0 - weight) * encode(jnp.roll(labels, 1, axis=0)),
    )


def draw_weights(
    key: Key[Array, ""],
    count: int,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    prob: float,
    switch: float,
) -> tuple[Float[Array, "N"], Bool[Array, "N"]]:
    """Weights that rows keep for themselves, and whether cutmix takes its place.

    A weight of 1 mixes nothing.
    """
    shape, fold = (count,), jax.random.fold_in
    cut = jnp.full(shape, bool(cutmix_alpha))
    weight = jnp.ones(shape)
    if mixup_alpha:
        weight = jax.random.beta(key, mixup_alpha, mixup_alpha, shape)
        weight = jnp.maximum(weight, 1.0 - weight)
    if cutmix_alpha:
        pasted = jax.random.beta(fold(key, _CUTMIX), cutmix_alpha, cutmix_alpha, shape)
        if mixup_alpha:
            cut = jax.random.uniform(fold(key, _SWITCH), shape) < switch
        weight = jnp.where(cut, pasted, weight)
    if prob < 1:
        applied = jax.random.uniform(fold(key, _APPLY), shape) < prob
        weight = jnp.where(applied, weight, 1.0)
    return weight, cut


def cutmix_box(
    weight: Float[Array, "N"], centre: Float[Array, "N 2"], height: int, width: int
) -> tuple[Int[Array, "N"], Int[Array, "N"], Int[Array, "N"], Int[Array, "N"]]:
    """The box of area ``1 - weight`` about a pixel, clipped by the image.

    Args:
      weight: share of the image that the box leaves, before it is clipped.
      centre: position of that pixel in [0, 1) of height and width.
      height: of the image.
      width: of the image.

    Returns:
      top, bottom, left and right; bottom and right are excluded.
    """
    sides = []
    for axis, size in enumerate((height, width)):
        length = jnp.floor(size * jnp.sqrt(1.0 - weight)).astype(jnp.int32)
        middle = jnp.floor(size * centre[:, axis]).astype(jnp.int32)
        sides.append(jnp.clip(middle - length // 2, 0, size))
        sides.append(jnp.clip(middle + (length + 1) // 2, 0, size))
    top, bottom, left, right = sides
    return top, bottom, left, right


def build_prepare(
    *,
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    flip_images: bool,
    mixup_alpha: float,
    cutmix_alpha: float,
    mix_prob: float,
    mix_switch: float,
    mix_per: str,
    erase_rate: float,
    erase_fill: str,
) -> PrepareBatch:
    """Returns ``prepare(batch, key)`` for the train step.

    It takes ``{"image": uint8 [B, *V, H, W, C], "label": int [B] or [B, M]}`` to
    ``{"images": float [B, *V, H, W, C], "labels": float [B, K]}``: normalise, flip,
    erase, mix. Other columns stay as they are.

    Raises:
      ValueError: ``mix_per`` or ``erase_fill`` is unknown.
    """
    if mix_per not in MIX_PER:
        raise ValueError(f"mix_per {mix_per!r} is unknown; known: {', '.join(MIX_PER)}")
    if erase_fill not in FILLS:
        raise ValueError(
            f"erase_fill {erase_fill!r} is unknown; known: {', '.join(FILLS)}"
        )

    def prepare(batch: dict[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        flip_key, mix_key = jax.random.split(key)
        images = normalize(batch["image"], mean, std)
        encode = functools.partial(one_hot, num_classes=num_classes)
        labels = batch["label"]
        if flip_images:
            images = flip(images, flip_key)
        if erase_rate:
            erase_key = jax.random.fold_in(key, _ERASE)
            images = random_erase(images, erase_key, rate=erase_rate, fill=erase_fill)
        if mixup_alpha or cutmix_alpha:
            images, labels = mix(
                images,
                labels,
                mix_key,
                encode=encode,
                mixup_alpha=mixup_alpha,
                cutmix_alpha=cutmix_alpha,
                prob=mix_prob,
                switch=mix_switch,
                per=mix_per,
            )
        else:
            labels = encode(labels)
        others = {name: batch[name] for name in batch.keys() - {"image", "label"}}
        return {"images": images, "labels": labels} | others

    return prepare
