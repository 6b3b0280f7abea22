"""Next-patch prediction on the 1,797 digits: completions to look at in minutes, a CPU.

Pixels are predicted as they are, not normalised, so that a completion can go on from
what it made up; `--config.objective.norm_pixels=True` is what the paper trains with.
"""

from configs import base, digits


def get_config():
    """The digits' model without a head; `figures/` shows what it completes."""
    config = digits.get_config()

    config.model.num_classes = 0
    config.model.position = "sincos2d_mae"
    config.objective = base.autoregressive(
        norm_pixels=False, decoder_width=128, decoder_depth=2
    )
    config.data.augment.mixup = 0.0

    config.optim = base.adamw(learning_rate=2e-3, weight_decay=0.05, b2=0.95)
    config.evals = dict()
    config.checkpoint.best = ""
    return config
