"""The objectives with their defaults; ``configs/base.py`` gives them out as its own.

A config's `objective` is one of them, replaced whole.
"""

from ml_collections import ConfigDict


def mae(**changes):
    """Masked autoencoder (arXiv 2111.06377): pixels of hidden patches, no labels."""
    return ConfigDict(
        dict(
            name="mae",
            mask_rate=0.75,  # share of the patches that is hidden
            norm_pixels=True,  # targets normalised patch by patch
            decoder_width=512,
            decoder_depth=8,
            decoder_heads=16,
            decoder_position="sincos2d_mae",  # sincos2d_mae | learned
        )
        | changes
    )


def masked_patch(**changes):
    """Corrupted patches' colours (arXiv 2010.11929, B.1.2) or pixels, no labels."""
    return ConfigDict(
        dict(
            name="masked_patch",
            # mean_colour and colours_4x4 (3 bits a channel) | pixels_l2 | pixels_l1
            target="mean_colour",
            mask_rate=0.5,  # share of the patches that is corrupted
            mask_unit=0,  # side of the corrupted squares in pixels; 0: one patch
            hidden_rate=0.8,  # of those: become the mask embedding
            swapped_rate=0.1,  # of those: another patch's embedding; the rest is kept
        )
        | changes
    )


def supervised(**changes):
    """Classification with labels."""
    return ConfigDict(
        dict(
            name="supervised",
            loss="softmax",  # softmax | sigmoid (summed over classes)
            label_smoothing=0.0,
        )
        | changes
    )


def autoregressive(**changes):
    """Next-patch prediction, AIM (arXiv 2401.08541); no labels, and no head."""
    return ConfigDict(
        dict(
            name="autoregressive",
            norm_pixels=True,  # targets normalised patch by patch
            decoder_width=2048,  # of the MLP on each token, its hidden layers 4 times
            decoder_depth=12,
            chunk=0,  # patches of an image that it sees at a time; 0 = all
        )
        | changes
    )
