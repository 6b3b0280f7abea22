"""The optimizers with their defaults; ``configs/base.py`` gives them out as its own.

A config's `optim` is one of them, replaced whole: ``config.optim = base.lion()``.
"""

from ml_collections import ConfigDict


def adamw(**changes):
    """AdamW; weight_decay is multiplied by the learning rate, as in its paper."""
    return ConfigDict(
        dict(
            name="adamw",
            learning_rate=1e-3,  # the peak; schedule gives the shape
            weight_decay=0.1,
            decay_mask="kernels",  # kernels | matrices (rank > 1) | all
            b1=0.9,
            b2=0.999,
            eps=1e-8,
            mu_dtype="float32",  # bfloat16 halves the first moment
            nu_dtype="float32",  # bfloat16 halves the second, rounded at random
            clip_norm=1.0,  # global norm of the gradients; 0.0 = off
            layer_decay=1.0,  # on the rate from a block to the one before; 1.0 = off
        )
        | changes
    )


def sgd(**changes):
    """SGD with momentum."""
    return ConfigDict(
        dict(
            name="sgd",
            learning_rate=0.03,
            momentum=0.9,
            nesterov=False,
            mu_dtype="float32",  # of the momentum: float32 | bfloat16
            weight_decay=0.0,  # multiplied by the learning rate
            decay_mask="kernels",
            clip_norm=1.0,
            layer_decay=1.0,  # as adamw's
        )
        | changes
    )


def adafactor(**changes):
    """Adafactor as for ViT-g (arXiv 2106.04560), whose batch is 16,384."""
    return ConfigDict(
        dict(
            name="adafactor",
            learning_rate=8e-4,
            weight_decay=0.03,  # multiplied by the learning rate, as all below
            head_weight_decay=3.0,  # the classifier's, in its place
            decay_mask="kernels",
            momentum=0.9,  # average of past updates; 0.0 = none
            decay_power=0.8,  # the second moment's decay is 1 - step ** -power,
            b2_cap=0.999,  # and at most this
            min_factored=32,  # smaller dimensions keep a whole second moment
            eps=1e-30,
            clip_rms=0.0,  # of a parameter's update, before momentum; 0.0 = off
            mu_dtype="bfloat16",
            clip_norm=1.0,
            layer_decay=1.0,  # as adamw's
        )
        | changes
    )


def lamb(**changes):
    """LAMB, as DeiT III trains (arXiv 2204.07118) with a batch of 2,048."""
    return ConfigDict(
        dict(
            name="lamb",
            learning_rate=3e-3,
            weight_decay=0.05,
            decay_mask="kernels",
            trust_mask="kernels",  # whose updates scale with their norm, as decay_mask
            b1=0.9,
            b2=0.999,
            eps=1e-6,
            mu_dtype="float32",
            nu_dtype="float32",
            clip_norm=1.0,
            layer_decay=1.0,  # as adamw's
        )
        | changes
    )


def lars(**changes):
    """LARS as for MAE's linear probe: 0.1 for each 256 images of a batch."""
    return ConfigDict(
        dict(
            name="lars",
            learning_rate=0.4,  # of 1,024 images
            weight_decay=0.0,
            decay_mask="matrices",
            trust_coefficient=0.001,  # an update's norm as a share of its parameter's
            trust_mask="matrices",  # whose updates are scaled so, as decay_mask
            momentum=0.9,
            mu_dtype="float32",
            clip_norm=0.0,
            layer_decay=1.0,  # as adamw's
        )
        | changes
    )


def lion(**changes):
    """Lion: a rate 3 to 10 times below AdamW's, a decay as many times above."""
    return ConfigDict(
        dict(
            name="lion",
            learning_rate=1e-4,
            weight_decay=1.0,
            decay_mask="kernels",
            b1=0.9,  # of the average whose sign is the update
            b2=0.99,  # of the momentum
            mu_dtype="bfloat16",
            clip_norm=1.0,
            layer_decay=1.0,  # as adamw's
        )
        | changes
    )


def muon(**changes):
    """Muon for attention's and the MLPs' kernels, AdamW for all other parameters."""
    return ConfigDict(
        dict(
            name="muon",
            learning_rate=1e-3,
            weight_decay=0.1,
            decay_mask="kernels",
            momentum=0.95,
            nesterov=True,
            iterations=5,  # of Newton and Schulz
            rms=0.2,  # of updates, as AdamW's; 0.0 = by the shape alone
            adam_rate=1.0,  # AdamW's learning rate as a share of learning_rate
            adam_weight_decay=0.1,
            b1=0.9,  # these three are AdamW's
            b2=0.999,
            eps=1e-8,
            mu_dtype="float32",
            nu_dtype="float32",  # AdamW's
            clip_norm=1.0,
            layer_decay=1.0,  # as adamw's
        )
        | changes
    )
