"""Masked autoencoder (arXiv 2111.06377): pixels of hidden patches from the others."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vit_jax.models import mae_decoder
from vit_jax.models.flops import decoder_flops, embedding_flops, encoder_flops
from vit_jax.models.layers import patchify, split_key
from vit_jax.models.settings import Settings
from vit_jax.models.tokens import take
from vit_jax.models.vit import ViT
from vit_jax.objectives import checks
from vit_jax.objectives.base import Batch, Objective
from vit_jax.objectives.masking import Shuffle, num_masked, random_shuffle
from vit_jax.objectives.patches import normalize_patches, unpatchify


class MAE(Objective):
    """Encodes the visible patches alone; a small decoder predicts the hidden ones.

    The loss is the mean squared error over hidden patches. Against the paper's code:
    CLS starts at zero and the patches' kernel as the encoder's always does, and the
    mask's share is rounded without the noise of binary fractions.

    Args:
      encoder: the ViT, built without a head.
      mask_rate: share of the patches that is hidden.
      norm_pixels: whether targets are normalised patch by patch.
      decoder_width, decoder_depth, decoder_heads: of the decoder, whose MLPs are four
        times as wide; activation, epsilon, dtype, remat and unrolling are the
        encoder's.
      decoder_position: a name of ``mae_decoder.POSITIONS``.
      key: initialises the decoder.

    Raises:
      ValueError: the encoder has parts that this does not train, or a setting is out
        of range.
    """

    has_logits: ClassVar[bool] = False

    def __init__(
        self,
        *,
        encoder: ViT,
        mask_rate: float,
        norm_pixels: bool,
        decoder_width: int,
        decoder_depth: int,
        decoder_heads: int,
        decoder_position: str,
        key: Key[Array, ""],
    ):
        chosen = encoder.settings
        settings = {
            "mask_rate": mask_rate,
            "norm_pixels": norm_pixels,
            "decoder_width": decoder_width,
            "decoder_depth": decoder_depth,
            "decoder_heads": decoder_heads,
            "decoder_position": decoder_position,
        }
        if found := self.problems(settings, chosen):
            raise ValueError("; ".join(found))
        self.encoder = encoder
        self.norm_pixels = norm_pixels
        self.num_patches = math.prod(encoder.grid)
        self.num_masked = num_masked(self.num_patches, mask_rate)
        self.decoder = mae_decoder.MaeDecoder(
            grid=encoder.grid,
            patch_size=encoder.patch_size,
            channels=encoder.channels,
            encoder_width=encoder.width,
            width=decoder_width,
            depth=decoder_depth,
            mlp_dim=4 * decoder_width,
            num_heads=decoder_heads,
            activation=chosen.activation,
            norm_epsilon=chosen.norm_epsilon,
            prefix=encoder.num_prefix,
            position=decoder_position,
            dtype=chosen.dtype,
            # A kernel that takes the encoder's heads may not take the decoder's.
            attention="xla" if chosen.attention == "xla" else "auto",
            remat=chosen.remat,
            unroll=min(chosen.unroll, decoder_depth),
            key=key,
        )

    @classmethod
    def problems(cls, settings: Mapping[str, Any], model: Settings) -> list[str]:
        """What cannot be in the ``objective`` section, and with this model."""
        found = checks.tokens_alone("mae", model)
        found += checks.share_problems(
            "mask_rate", settings["mask_rate"], places=math.prod(model.grid)
        )
        width, heads = settings["decoder_width"], settings["decoder_heads"]
        position = settings["decoder_position"]
        sizes = ("decoder_width", "decoder_depth", "decoder_heads")
        small = [
            f"objective.{name} must be at least 1, got {settings[name]}"
            for name in sizes
            if settings[name] < 1
        ]
        if not small and width % heads:
            found.append(
                f"objective.decoder_heads {heads} does not divide "
                f"objective.decoder_width {width}"
            )
        if position not in mae_decoder.POSITIONS:
            found.append(
                f"objective.decoder_position {position!r} is unknown; known: "
                f"{', '.join(mae_decoder.POSITIONS)}"
            )
        elif position == "sincos2d_mae" and width % 4:
            found.append(
                f"objective.decoder_width {width} must be a multiple of 4 for "
                f"objective.decoder_position {position!r}"
            )
        if settings["norm_pixels"] and math.prod(model.patch_size) * model.channels < 2:
            found.append(
                "objective.norm_pixels cannot be True for patches of a single value; "
                "set it to False"
            )
        return found + small

    def loss(
        self, batch: Batch, *, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
        """Mean squared error over the hidden patches.

        Without a key the masks are drawn from a fixed one, and there is no dropout.
        """
        predicted, mask = self._run(batch["images"], key)
        targets = self._patches(batch["images"])
        if self.norm_pixels:
            targets = normalize_patches(targets).patches
        errors = jnp.square(predicted - targets).mean(axis=-1)  # [B, N]
        return errors.mean(where=mask.masked), {}

    def predict(self, images: Float[Array, "B H W C"]) -> dict[str, jax.Array]:
        """Features of whole images; there are no logits."""
        return {"features": self.encoder.pool(self.encoder.tokens(images))}

    def reconstruct(
        self, images: Float[Array, "B H W C"], key: Key[Array, ""]
    ) -> dict[str, jax.Array]:
        """What the model makes of images, as images, normalised as they are.

        Returns:
          ``images``; ``masked``, grey where patches are hidden; ``reconstruction``,
          the predictions there. Predictions of normalised patches get back the mean
          and standard deviation of the hidden patch, which the model was not asked.
        """
        predicted, mask = self._run(images, key, dropout=False)
        patches = self._patches(images)
        if self.norm_pixels:
            _, mean, std = normalize_patches(patches)
            predicted = predicted * std + mean
        hidden = mask.masked[:, :, None]

        def show(patches: jax.Array) -> jax.Array:
            return unpatchify(patches, self.encoder.grid, self.encoder.patch_size)

        return {
            "images": images.astype(jnp.float32),
            "masked": show(jnp.where(hidden, 0.0, patches)),
            "reconstruction": show(jnp.where(hidden, predicted, patches)),
        }

    def train_flops(self) -> int:
        """Three forward passes' worth; hidden patches do not go through the encoder."""
        visible = self.num_patches - self.num_masked
        encoder = embedding_flops(self.encoder) + encoder_flops(
            self.encoder, self.encoder.num_prefix + visible
        )
        return 3 * (encoder + decoder_flops(self.decoder, visible))

    def _run(
        self, images: jax.Array, key: jax.Array | None, *, dropout: bool = True
    ) -> tuple[jax.Array, Shuffle]:
        """Predictions for all patches, ``[B, N, P]`` in float32, and the mask."""
        encoder = self.encoder
        checks.expect_size(images, encoder)
        mask_key, encode_key = split_key(key, 2)
        mask = random_shuffle(
            jax.random.key(0) if mask_key is None else mask_key,
            len(images),
            self.num_patches,
            self.num_masked,
        )
        tokens = take(encoder.embed(images), mask.kept, encoder.num_prefix)
        encoded = encoder.encode(
            tokens, key=encode_key if dropout else None, indices=mask.kept
        )
        return self.decoder(encoded, mask.restore), mask

    def _patches(self, images: jax.Array) -> jax.Array:
        """Targets, in float32 whatever the model computes in."""
        return patchify(images.astype(jnp.float32), self.encoder.patch_size)
