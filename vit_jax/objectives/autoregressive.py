"""Next-patch prediction: autoregressive image models, AIM (arXiv 2401.08541).

Patches in raster order go through the encoder with causal attention, and an MLP on each
token predicts the pixels of the patch that follows. The first patches of every image,
a random number of them, see each other in both directions and are not predicted, so
that the encoder is used with bidirectional attention afterwards.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vit_jax.models.aim_decoder import AimDecoder
from vit_jax.models.flops import forward_flops
from vit_jax.models.layers import patchify, split_key
from vit_jax.models.position import FIXED
from vit_jax.models.settings import Settings
from vit_jax.models.vit import ViT
from vit_jax.objectives import checks
from vit_jax.objectives.base import Batch, Objective
from vit_jax.objectives.chunks import chunked_mean
from vit_jax.objectives.patches import Normalized, normalize_patches, unpatchify


def prefix_mask(prefix: Int[Array, "B"], num_tokens: int) -> Bool[Array, "B 1 N N"]:
    """True where a token may attend: to those before it, itself, and the prefix."""
    places = jnp.arange(num_tokens)
    in_prefix = places < prefix[:, None, None, None]  # of keys, [B, 1, 1, N]
    return (places <= places[:, None]) | in_prefix


class Autoregressive(Objective):
    """Squared error of the patch that follows each patch; needs no labels.

    Against the paper: the encoder is the package's, with biases and without a norm
    after the patch embedding, and so is the MLP. How a loss over prefixes of several
    lengths is averaged is not said there; here every predicted patch of a batch weighs
    the same, whatever its image's prefix.

    Args:
      encoder: the ViT, built without a head. Tokens in front of its patches, if there
        are any, count as a part of the prefix.
      norm_pixels: whether targets are normalised patch by patch.
      decoder_width, decoder_depth: of the MLP, see `AimDecoder`; activation, epsilon,
        dtype, remat and unrolling are the encoder's.
      chunk: patches of an image that the MLP sees at a time, 0 for all. Fewer need less
        memory, and the MLP is computed once more.
      key: initialises the MLP.

    Raises:
      ValueError: the encoder has parts that this does not train, or a setting is out
        of range.
    """

    has_logits: ClassVar[bool] = False
    mask: ClassVar[str] = "full"

    def __init__(
        self,
        *,
        encoder: ViT,
        norm_pixels: bool,
        decoder_width: int,
        decoder_depth: int,
        chunk: int,
        key: Key[Array, ""],
    ):
        chosen = encoder.settings
        settings = {
            "norm_pixels": norm_pixels,
            "decoder_width": decoder_width,
            "decoder_depth": decoder_depth,
            "chunk": chunk,
        }
        if found := self.problems(settings, chosen):
            raise ValueError("; ".join(found))
        self.encoder = encoder
        self.norm_pixels, self.chunk = norm_pixels, chunk
        self.num_patches = math.prod(encoder.grid)
        self.decoder = AimDecoder(
            grid=encoder.grid,
            patch_size=encoder.patch_size,
            channels=encoder.channels,
            encoder_width=encoder.width,
            width=decoder_width,
            depth=decoder_depth,
            position=chosen.position,
            activation=chosen.activation,
            norm_epsilon=chosen.norm_epsilon,
            dtype=chosen.dtype,
            remat=chosen.remat,
            unroll=chosen.unroll,
            key=key,
        )

    @classmethod
    def problems(cls, settings: Mapping[str, Any], model: Settings) -> list[str]:
        """What cannot be in the ``objective`` section, and with this model."""
        found = checks.tokens_alone("autoregressive", model)
        found += [
            f"objective.{name} must be at least {least}, got {settings[name]}"
            for name, least in (
                ("decoder_width", 1),
                ("decoder_depth", 0),
                ("chunk", 0),
            )
            if settings[name] < least
        ]
        if math.prod(model.grid) < 2:
            found.append(
                f"objective 'autoregressive' needs two patches or more: patch size "
                f"{model.patch_size}, image size {model.image_size}"
            )
        if settings["norm_pixels"] and math.prod(model.patch_size) * model.channels < 2:
            found.append(
                "objective.norm_pixels cannot be True for patches of a single value; "
                "set it to False"
            )
        if model.position not in FIXED and model.width % 4:
            found.append(
                f"model.width {model.width} must be a multiple of 4: the objective's "
                "MLP has sine-cosine positions"
            )
        return found

    def loss(
        self, batch: Batch, *, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
        """Mean squared error of all patches behind their image's prefix.

        Without a key a prefix is one patch, and there is no dropout.
        """
        images = batch["images"]
        prefix_key, encoder_key = split_key(key, 2)
        prefix = self.draw_prefix(prefix_key, len(images))
        tokens = self._placed(images, prefix, encoder_key)

        def errors(tokens: jax.Array, targets: jax.Array) -> jax.Array:
            return jnp.square(self.decoder(tokens) - targets).mean(axis=-1)

        loss = chunked_mean(
            errors,
            tokens[:, :-1],
            self._targets(images).patches[:, 1:],
            jnp.arange(1, self.num_patches) >= prefix[:, None],
            chunk=self.chunk or self.num_patches,
        )
        return loss, {}

    def draw_prefix(self, key: Key[Array, ""] | None, rows: int) -> Int[Array, "B"]:
        """Patches of each image that are given: 1 to all but one, 1 without a key."""
        if key is None:
            return jnp.ones(rows, jnp.int32)
        return jax.random.randint(key, (rows,), 1, self.num_patches)

    def predict(self, images: Float[Array, "B H W C"]) -> dict[str, jax.Array]:
        """Features of whole images, every patch seeing all; there are no logits."""
        return {"features": self.encoder.pool(self.encoder.tokens(images))}

    def predict_next(
        self, images: Float[Array, "B H W C"], prefix: Int[Array, "B"]
    ) -> Float[Array, "B M P"]:
        """All patches but the first, each from the true ones before it.

        They are normalised if ``norm_pixels``. What is said of patches of the prefix
        has no meaning: their predictions saw them.
        """
        return self.decoder(self._placed(images, prefix, None)[:, :-1])

    def reconstruct(
        self, images: Float[Array, "B H W C"], key: Key[Array, ""]
    ) -> dict[str, jax.Array]:
        """What the model makes of images, as images, normalised as they are.

        The first half of the patches is given, and nothing is drawn from the key.

        Returns:
          ``images``; ``masked``, grey where patches are not given; ``reconstruction``,
          see `forced`; ``completion``, see `complete`, both with the true patches' mean
          and contrast if ``norm_pixels``.
        """
        prefix = self.num_patches // 2
        given = jnp.arange(self.num_patches)[:, None] < prefix
        return {
            "images": images.astype(jnp.float32),
            "masked": self._show(jnp.where(given, self._patches(images), 0.0)),
            "reconstruction": self.forced(images, prefix),
            "completion": self.complete(images, prefix, borrow=self.norm_pixels),
        }

    def forced(
        self, images: Float[Array, "B H W C"], prefix: int
    ) -> Float[Array, "B H W C"]:
        """The images, each patch behind the prefix from the true ones before it.

        With ``norm_pixels`` a prediction has neither brightness nor contrast: it gets
        the mean and standard deviation of the true patch, which the model was not
        asked.

        Raises:
          ValueError: the prefix is not 1 to all but one of the patches.
        """
        self._check_prefix(prefix)
        targets = self._targets(images)
        predicted = self.predict_next(images, jnp.full(len(images), prefix))
        patches = targets.patches.at[:, prefix:].set(predicted[:, prefix - 1 :])
        return self._show(patches * targets.std + targets.mean)

    def complete(
        self,
        images: Float[Array, "B H W C"],
        prefix: int,
        *,
        borrow: bool = False,
        noise: float = 0.0,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B H W C"]:
        """The images, all behind the first ``prefix`` patches made up, one at a time.

        Each patch is what is predicted from the given ones and those made up so far;
        with ``noise``, the standard deviation of a value, a draw around that. It takes
        a pass of the encoder a patch.

        With ``norm_pixels`` a predicted patch says nothing of how bright it is, and
        there is nothing to go on from, unless it may ``borrow`` the mean and standard
        deviation of the true patch, and these alone.

        Raises:
          ValueError: ``norm_pixels`` without ``borrow``, a prefix as in `forced`, or
            noise without a key.
        """
        self._check_prefix(prefix)
        if self.norm_pixels and not borrow:
            raise ValueError(
                "objective.norm_pixels is True: predictions have no brightness to go "
                "on from; train with False, or let them borrow the true ones (borrow)"
            )
        if noise and key is None:
            raise ValueError(f"noise of {noise} needs a key")
        given = jnp.full(len(images), prefix)
        patches, targets = self._patches(images), self._targets(images)
        draws = jnp.zeros_like(patches)
        if noise and key is not None:
            draws = noise * jax.random.normal(key, patches.shape)

        def add(place: jax.Array, patches: jax.Array) -> jax.Array:
            predicted = self.predict_next(self._show(patches), given)[:, place - 1]
            predicted = predicted + draws[:, place]
            predicted = predicted * targets.std[:, place] + targets.mean[:, place]
            return patches.at[:, place].set(predicted)

        patches = patches.at[:, prefix:].set(0.0)  # nothing of the truth is left
        return self._show(jax.lax.fori_loop(prefix, self.num_patches, add, patches))

    def train_flops(self) -> int:
        """Three forward passes' worth: the backward pass costs two."""
        decoder = self.decoder.forward_flops(self.num_patches - 1)
        return 3 * (forward_flops(self.encoder) + decoder)

    def _placed(
        self,
        images: Float[Array, "B H W C"],
        prefix: Int[Array, "B"],
        key: Key[Array, ""] | None,
    ) -> Float[Array, "B N D"]:
        """Tokens of the patches, encoded behind the mask, as the MLP takes them."""
        checks.expect_size(images, self.encoder)
        front = self.encoder.num_prefix
        tokens = self.encoder.embed(images)
        mask = prefix_mask(front + prefix, tokens.shape[1])
        tokens = self.encoder.encode(tokens, mask=mask, key=key)
        return self.decoder.place(tokens[:, front:])

    def _patches(self, images: Float[Array, "B H W C"]) -> Float[Array, "B N P"]:
        """In float32 whatever the model computes in."""
        return patchify(images.astype(jnp.float32), self.encoder.patch_size)

    def _targets(self, images: Float[Array, "B H W C"]) -> Normalized:
        """Patches as they are predicted, and what they were scaled by."""
        patches = self._patches(images)
        if self.norm_pixels:
            return normalize_patches(patches)
        ones = jnp.ones((*patches.shape[:2], 1))
        return Normalized(patches, jnp.zeros_like(ones), ones)

    def _show(self, patches: Float[Array, "B N P"]) -> Float[Array, "B H W C"]:
        return unpatchify(patches, self.encoder.grid, self.encoder.patch_size)

    def _check_prefix(self, prefix: int) -> None:
        if not 0 < prefix < self.num_patches:
            raise ValueError(
                f"a prefix is 1 to {self.num_patches - 1} of {self.num_patches} "
                f"patches, got {prefix}"
            )
