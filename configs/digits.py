"""1,797 handwritten digits of 8x8 pixels: a whole run in minutes, on a CPU.

The images come with scikit-learn, nothing is downloaded. A variant may be given, as in
`configs/digits.py:Ti/2`; without one it is a narrow model of four blocks.
"""

from configs import base


def get_config(arg=None):
    """The recipe, for a given variant or the narrow one."""
    config = base.get_config()

    config.model.variant = arg or "mu/2"
    if not arg:
        config.model.width = 64
        config.model.depth = 4
        config.model.num_heads = 4
    config.model.image_size = (8, 8)
    config.model.channels = 1
    config.model.num_classes = 10
    config.model.dtype = "float32"

    config.objective = base.supervised(label_smoothing=0.1)

    config.data.name = "digits"
    config.data.split = "train"
    config.data.mean = (0.5,)
    config.data.std = (0.5,)
    config.data.augment.crop = "pad"
    config.data.augment.pad = 1
    config.data.augment.flip = False  # a mirrored 2 is no 2
    config.data.augment.mixup = 0.2

    config.optim = base.adamw(learning_rate=2e-3, weight_decay=0.1)
    config.schedule.warmup = base.duration(epochs=10)
    config.train.batch_size = 128
    config.train.duration = base.duration(epochs=150)

    config.evals = dict(
        val=base.classification(split="test", resize=0, every=base.duration(epochs=25))
    )
    config.checkpoint.every = base.duration(epochs=25)
    config.log.every = base.duration(steps=50)
    return config


def get_sweep():
    """The 12 trials of `vit-jax sweep --config=configs/digits.py`."""
    from vit_jax import sweep

    return sweep.product(
        {
            "optim.learning_rate": [1e-3, 2e-3, 4e-3],
            "optim.weight_decay": [0.05, 0.2],
            "seed": [0, 1],
        }
    )
