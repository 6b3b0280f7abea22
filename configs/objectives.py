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
