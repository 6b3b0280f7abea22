"""The evaluators with their defaults; ``configs/base.py`` gives them out as its own.

Each entry of a config's `evals` is one of them, replaced whole.
"""

from ml_collections import ConfigDict, config_dict

from configs.durations import duration


def classification(**changes):
    """Accuracy and loss over a whole split, exact to the last example."""
    return ConfigDict(
        dict(
            name="classification",
            split="validation",
            batch_size=config_dict.placeholder(int),  # unset: train.batch_size
            resize=256,  # smaller side before the central crop; 0 = no crop
            every=duration(epochs=1),
        )
        | changes
    )
