"""Lengths of training and intervals; ``configs/base.py`` gives `duration` out."""

from ml_collections import ConfigDict, config_dict


def duration(*, epochs=None, steps=None, examples=None):
    """A length of training, in one of three units; the command line may set another."""
    fields = ConfigDict(
        dict(
            epochs=config_dict.placeholder(float),  # passes over data.split
            steps=config_dict.placeholder(int),  # updates of the parameters
            examples=config_dict.placeholder(int),  # images
        )
    )
    fields.update(
        {
            unit: value
            for unit, value in dict(
                epochs=None if epochs is None else float(epochs),
                steps=steps,
                examples=examples,
            ).items()
            if value is not None
        }
    )
    return fields
