"""The objectives with their defaults; ``configs/base.py`` gives them out as its own.

A config's `objective` is one of them, replaced whole.
"""

from ml_collections import ConfigDict


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
