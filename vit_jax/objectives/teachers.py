"""What a student learns from: a frozen model, or logits computed before."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vit_jax.models.flops import forward_flops
from vit_jax.models.vit import ViT
from vit_jax.objectives.base import Batch

Pixels = tuple[float, ...]

STORED = "teacher_logits"  # a column of the batch


class Teacher(nnx.Module):
    """A frozen classifier that looks at the very images that the student sees.

    Args:
      model: ``model(images) -> logits``. The parameters of a module are frozen
        parameters of the objective, handed to the step as an argument; a plain
        function has its own, which a jitted step holds as constants: see `Applied`.
      image_size: height and width that images are resized to (bilinear, antialiased)
        where they have others; None takes them as they are.
      scale, offset: per channel, or one for all; from the student's normalised pixels
        to the teacher's, see `between`.
      flops: of a forward pass of one image, for utilisation; known for a ViT.
    """

    def __init__(
        self,
        model: Callable[[jax.Array], jax.Array],
        *,
        image_size: tuple[int, int] | None = None,
        scale: Pixels = (1.0,),
        offset: Pixels = (0.0,),
        flops: int | None = None,
    ):
        self.model = model
        self.image_size = image_size
        self.scale, self.offset = scale, offset
        if flops is None:
            flops = forward_flops(model) if isinstance(model, ViT) else 0
        self.flops = flops

    def __call__(self, batch: Batch) -> Float[Array, "B K"]:
        """Logits in float32; no gradient flows through them."""
        images = batch["images"]
        if self.image_size not in (None, images.shape[1:3]):
            shape = (len(images), *self.image_size, images.shape[3])
            images = jax.image.resize(images, shape, "bilinear")
        if self.scale != (1.0,) or self.offset != (0.0,):
            images = images * jnp.asarray(self.scale) + jnp.asarray(self.offset)
        logits = self.model(images)
        return jax.lax.stop_gradient(logits.astype(jnp.float32))


class Stored(nnx.Module):
    """Logits that were computed before; the loader puts them beside each image.

    They are of the images as they were seen then: a fixed teacher, which arXiv
    2106.05237 finds worse than one that sees the student's view.
    """

    flops = 0

    def __call__(self, batch: Batch) -> Float[Array, "B K"]:
        """The batch's own, in float32."""
        if STORED not in batch:
            raise ValueError(
                f"the batch has no {STORED!r}; it has {', '.join(batch)}: give the "
                "loader columns={'teacher_logits': rows_of_ids}"
            )
        return batch[STORED].astype(jnp.float32)


class Applied(nnx.Module):
    """A function and its parameters, such as a model of another library.

    Args:
      apply: ``apply(params, images) -> logits``.
      params: nested dicts of arrays, which become frozen parameters.
    """

    def __init__(self, apply: Callable[[Any, jax.Array], jax.Array], params: Any):
        self.apply = apply
        self.params = _as_module(params)

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
        return self.apply(_as_tree(self.params), images)


def _as_module(tree: Any) -> Any:
    if isinstance(tree, dict):
        return nnx.Dict({name: _as_module(child) for name, child in tree.items()})
    return nnx.Param(tree)


def _as_tree(module: Any) -> Any:
    if isinstance(module, nnx.Dict):
        return {name: _as_tree(child) for name, child in module.items()}
    return module[...]


def between(
    *, mean: Pixels, std: Pixels, other_mean: Pixels, other_std: Pixels
) -> tuple[Pixels, Pixels]:
    """Scale and offset from pixels normalised by one mean and std to another's.

    Raises:
      ValueError: they are of different numbers of channels.
    """
    channels = max(map(len, (mean, std, other_mean, other_std)))
    wide = [_wide(pixels, channels) for pixels in (mean, std, other_mean, other_std)]
    scale = tuple(old / new for old, new in zip(wide[1], wide[3], strict=True))
    offset = tuple(
        (old - new) / deviation
        for old, new, deviation in zip(wide[0], wide[2], wide[3], strict=True)
    )
    return scale, offset


def _wide(pixels: Pixels, channels: int) -> Pixels:
    if len(pixels) not in (1, channels):
        raise ValueError(f"{pixels} is for {len(pixels)} channels, not for {channels}")
    return tuple(pixels) * channels if len(pixels) == 1 else tuple(pixels)


def as_teacher(given: Any) -> Teacher | Stored | None:
    """A teacher from what an objective is given.

    None, and the section of a config (whose teacher nobody opened), are no teacher.

    Raises:
      TypeError: it cannot teach.
    """
    if given is None or hasattr(given, "keys"):
        return None
    if isinstance(given, Teacher | Stored):
        return given
    if isinstance(given, Callable):
        return Teacher(given)
    raise TypeError(f"a teacher is a Teacher or a function of images, got {given!r}")
