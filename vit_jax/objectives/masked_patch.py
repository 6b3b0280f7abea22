"""Masked patch prediction: the ViT paper's (arXiv 2010.11929, B.1.2), and SimMIM's.

SimMIM (arXiv 2111.09886) is this with ``mask_rate`` 0.6 of ``mask_unit`` 32 pixels,
``hidden_rate`` 1, ``swapped_rate`` 0 and the target ``"pixels_l1"``.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from vit_jax.models.flops import embedding_flops, encoder_flops
from vit_jax.models.layers import patchify, split_key
from vit_jax.models.settings import Settings
from vit_jax.models.vit import ViT
from vit_jax.objectives import checks, masking
from vit_jax.objectives.base import Batch, Objective
from vit_jax.objectives.chunks import chunked_mean
from vit_jax.objectives.patches import (
    LEVELS,
    coarse_colors,
    color_codes,
    colors_of,
    unpatchify,
)

# Targets that are colours of 3 bits a channel: parts of a patch along each side.
COLORS = {"mean_colour": 1, "colours_4x4": 4}
PIXELS = ("pixels_l2", "pixels_l1")
TARGETS = (*COLORS, *PIXELS)

# Numbers that the head may put out for an image at a time: 1 MB of them.
_OUTPUTS = 2**18


class MaskedPatch(Objective):
    """Corrupts patch embeddings and predicts what was there, from their tokens.

    The paper leaves open, and here: the number of corrupted patches is the same in
    every image, each draws alone what happens to it, another patch is one of the same
    image, positions are added afterwards (so that a hidden patch has its own), the
    mask embedding starts from normal(0.02) and the head is one xavier-uniform layer in
    float32. Against SimMIM: the encoder's position embedding is what the model has;
    the paper's ViT has a relative position bias.

    Args:
      encoder: the ViT, built without a head.
      target: ``"mean_colour"`` (of the patch, one of ``8 ** channels`` classes),
        ``"colours_4x4"`` (of each of 4 x 4 parts), both by cross-entropy;
        ``"pixels_l2"`` or ``"pixels_l1"`` (all pixels, squared or absolute error).
      mask_rate: share of the patches that is corrupted.
      mask_unit: side in pixels of the squares that are corrupted, 0 for one patch.
      hidden_rate: share of the corrupted ones that become the mask embedding.
      swapped_rate: share that becomes another patch's embedding; the rest is kept.
      mean, std: normalisation of pixels, for the colours.
      key: initialises mask embedding and head.

    Raises:
      ValueError: the encoder has parts that this does not train, or a setting is out
        of range.
    """

    has_logits: ClassVar[bool] = False

    def __init__(
        self,
        *,
        encoder: ViT,
        target: str,
        mask_rate: float,
        mask_unit: int,
        hidden_rate: float,
        swapped_rate: float,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        key: Key[Array, ""],
    ):
        settings = {
            "target": target,
            "mask_rate": mask_rate,
            "mask_unit": mask_unit,
            "hidden_rate": hidden_rate,
            "swapped_rate": swapped_rate,
        }
        if found := self.problems(settings, encoder.settings):
            raise ValueError("; ".join(found))
        self.encoder = encoder
        self.target, self.mask_rate = target, mask_rate
        self.hidden_rate, self.swapped_rate = hidden_rate, swapped_rate
        self.mean, self.std = tuple(mean), tuple(std)
        self.unit = _unit(mask_unit, encoder.settings)
        self.num_patches = math.prod(encoder.grid)
        self.num_masked = _num_masked(mask_rate, self.unit, encoder.grid)
        self.num_outputs = (
            COLORS[target] ** 2 * LEVELS**encoder.channels
            if target in COLORS
            else math.prod(encoder.patch_size) * encoder.channels
        )
        token_key, head_key = jax.random.split(key)
        self.mask_token = nnx.Param(
            nnx.initializers.normal(0.02)(token_key, (1, 1, encoder.width))
        )
        self.prediction = nnx.Linear(  # in float32: its input is, below
            encoder.width,
            self.num_outputs,
            kernel_init=nnx.initializers.xavier_uniform(),
            rngs=nnx.Rngs(head_key),
        )

    @classmethod
    def problems(cls, settings: Mapping[str, Any], model: Settings) -> list[str]:
        """What cannot be in the ``objective`` section, and with this model."""
        found = checks.tokens_alone("masked_patch", model)
        target, side = settings["target"], settings["mask_unit"]
        hidden, swapped = settings["hidden_rate"], settings["swapped_rate"]
        if target not in TARGETS:
            found.append(
                f"objective.target {target!r} is unknown; known: {', '.join(TARGETS)}"
            )
        elif any(size % COLORS.get(target, 1) for size in model.patch_size):
            found.append(
                f"objective.target {target!r} needs patches whose sides are multiples "
                f"of {COLORS[target]}, got {model.patch_size}"
            )
        if not (hidden >= 0 and swapped >= 0 and hidden + swapped <= 1 + 1e-9):
            found.append(
                f"objective.hidden_rate {hidden!r} and objective.swapped_rate "
                f"{swapped!r} are shares of the corrupted patches: each at least 0, "
                "together at most 1"
            )
        wrong = side and (
            side < 0
            or any(side % size for size in model.patch_size)
            or any(size % side for size in model.image_size)
        )
        if wrong:
            return [
                *found,
                f"objective.mask_unit {side} must be a multiple of the patch size "
                f"{model.patch_size} that divides the image size {model.image_size}, "
                "or 0 for single patches",
            ]
        unit = _unit(side, model)
        return found + checks.share_problems(
            "mask_rate",
            settings["mask_rate"],
            places=math.prod(model.grid) // math.prod(unit),
            what="patches" if unit == (1, 1) else f"squares of {side} pixels",
        )

    def loss(
        self, batch: Batch, *, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
        """Mean loss over the corrupted patches, and for colours ``colour_accuracy``.

        Without a key corruption is drawn from a fixed one, and there is no dropout.
        """
        images = batch["images"]
        corrupt_key, encode_key = split_key(key, 2)
        corrupt_key = jax.random.key(0) if corrupt_key is None else corrupt_key
        checks.expect_size(images, self.encoder)
        masked = self._mask(corrupt_key, len(images))
        patches = self._corrupt(self.encoder.embed_patches(images), masked, corrupt_key)
        tokens = self.encoder.encode(self.encoder.place(patches), key=encode_key)
        places = masking.places(masked, self.num_masked)[:, :, None]
        tokens = jnp.take_along_axis(
            tokens[:, self.encoder.num_prefix :], places, axis=1
        )
        targets = jnp.take_along_axis(self._targets(images), places, axis=1)
        return chunked_mean(
            self._losses, tokens, targets, chunk=max(1, _OUTPUTS // self.num_outputs)
        )

    def predict(self, images: Float[Array, "B H W C"]) -> dict[str, jax.Array]:
        """Features of whole images; there are no logits."""
        return {"features": self.encoder.pool(self.encoder.tokens(images))}

    def reconstruct(
        self, images: Float[Array, "B H W C"], key: Key[Array, ""]
    ) -> dict[str, jax.Array]:
        """What the model makes of images whose masked patches are all hidden.

        Returns:
          ``images``; ``masked``, grey where patches are hidden; ``reconstruction``,
          the predicted pixels or most probable colours there. All as images,
          normalised as those given.
        """
        checks.expect_size(images, self.encoder)
        masked = self._mask(key, len(images))
        hidden = masked[:, :, None]
        patches = self.encoder.embed_patches(images)
        patches = jnp.where(hidden, self.mask_token[...].astype(patches.dtype), patches)
        tokens = self.encoder.encode(self.encoder.place(patches))
        outputs = self._outputs(tokens[:, self.encoder.num_prefix :])
        pixels = self._patches(images)

        def show(patches: jax.Array) -> jax.Array:
            return unpatchify(patches, self.encoder.grid, self.encoder.patch_size)

        return {
            "images": images.astype(jnp.float32),
            "masked": show(jnp.where(hidden, 0.0, pixels)),
            "reconstruction": show(jnp.where(hidden, self._paint(outputs), pixels)),
        }

    def train_flops(self) -> int:
        """Three forward passes' worth; the head predicts corrupted patches only."""
        tokens = self.encoder.num_prefix + self.num_patches
        forward = embedding_flops(self.encoder) + encoder_flops(self.encoder, tokens)
        head = 2 * self.num_masked * self.encoder.width * self.num_outputs
        return 3 * (forward + head)

    def _mask(self, key: jax.Array, rows: int) -> Bool[Array, "B N"]:
        """True where a patch is corrupted."""
        grid = self.encoder.grid
        return masking.block_mask(key, rows, grid, self.unit, self.mask_rate)

    def _corrupt(
        self, patches: Float[Array, "B N D"], masked: Bool[Array, "B N"], key: jax.Array
    ) -> Float[Array, "B N D"]:
        """Patch embeddings with those masked hidden, swapped or kept."""
        kind_key, swap_key = jax.random.fold_in(key, 1), jax.random.fold_in(key, 2)
        kind = jax.random.uniform(kind_key, masked.shape)
        hidden = masked & (kind < self.hidden_rate)
        corrupted = patches
        if self.swapped_rate:
            swapped = masked & (kind >= self.hidden_rate)
            swapped &= kind < self.hidden_rate + self.swapped_rate
            number = masked.shape[1]
            steps = jax.random.randint(swap_key, masked.shape, 1, number)
            others = (jnp.arange(number) + steps) % number
            others = jnp.take_along_axis(patches, others[:, :, None], axis=1)
            corrupted = jnp.where(swapped[:, :, None], others, corrupted)
        token = self.mask_token[...].astype(patches.dtype)
        return jnp.where(hidden[:, :, None], token, corrupted)

    def _patches(self, images: jax.Array) -> jax.Array:
        return patchify(images.astype(jnp.float32), self.encoder.patch_size)

    def _targets(self, images: jax.Array) -> jax.Array:
        """Codes of the colours ``[B, N, S]``, or pixels ``[B, N, P]``."""
        patches = self._patches(images)
        if self.target not in COLORS:
            return patches
        side = COLORS[self.target]
        colors = coarse_colors(patches, self.encoder.patch_size, side)
        return color_codes(colors, self.mean, self.std)

    def _outputs(self, tokens: Float[Array, "B M D"]) -> jax.Array:
        """Logits ``[B, M, S, K]``, or pixels ``[B, M, P]``."""
        outputs = self.prediction(tokens.astype(jnp.float32))
        if self.target not in COLORS:
            return outputs
        return outputs.reshape(*outputs.shape[:2], COLORS[self.target] ** 2, -1)

    def _losses(
        self, tokens: Float[Array, "B M D"], targets: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Loss of each patch, and metrics."""
        outputs = self._outputs(tokens)
        if self.target == "pixels_l2":
            return jnp.square(outputs - targets).mean(axis=-1), {}
        if self.target == "pixels_l1":
            return jnp.abs(outputs - targets).mean(axis=-1), {}
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
        correct = (outputs.argmax(axis=-1) == targets).astype(jnp.float32)
        return losses.mean(axis=-1), {"colour_accuracy": correct.mean(axis=-1)}

    def _paint(self, outputs: jax.Array) -> Float[Array, "B N P"]:
        """Outputs as pixels."""
        if self.target not in COLORS:
            return outputs
        side, (height, width) = COLORS[self.target], self.encoder.patch_size
        codes = outputs.argmax(axis=-1)
        colors = colors_of(codes, self.encoder.channels, self.mean, self.std)
        rows, patches = codes.shape[:2]
        colors = colors.reshape(rows, patches, side, side, -1)
        colors = jnp.repeat(colors, height // side, axis=2)
        colors = jnp.repeat(colors, width // side, axis=3)
        return colors.reshape(rows, patches, -1)


def _unit(side: int, model: Settings) -> tuple[int, int]:
    """Patches high and wide that are corrupted together."""
    height, width = model.patch_size
    return (side // height, side // width) if side else (1, 1)


def _num_masked(rate: float, unit: tuple[int, int], grid: tuple[int, int]) -> int:
    size = math.prod(unit)
    return size * masking.num_masked(math.prod(grid) // size, rate)
