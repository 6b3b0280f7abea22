"""The small run that `scripts/chaos.py` kills, starves and damages.

Everything random is on (dropout, drop-path, mixup), and so is all that a checkpoint
must carry (moments, the average of the parameters), at a size that starts in seconds.
"""

from configs import base


def get_config():
    """A ViT of two blocks on 8x8 images; the data are set on the command line."""
    config = base.get_config()

    config.model.variant = "mu/2"
    config.model.width = 32
    config.model.depth = 2
    config.model.num_heads = 2
    config.model.image_size = (8, 8)
    config.model.channels = 1
    config.model.num_classes = 10
    config.model.dropout = 0.1
    config.model.drop_path = 0.1
    config.model.dtype = "float32"

    config.objective = base.supervised(label_smoothing=0.1)

    config.data.mean = (0.5,)
    config.data.std = (0.5,)
    config.data.threads = 2
    config.data.augment.crop = "pad"
    config.data.augment.pad = 1
    config.data.augment.mixup = 0.2

    config.optim = base.adamw(learning_rate=2e-3)
    config.schedule.warmup = base.duration(steps=10)
    config.train.batch_size = 16
    config.train.duration = base.duration(steps=60)
    config.train.ema = 0.99

    config.evals = dict(
        val=base.classification(split="test", resize=0, every=base.duration(steps=20))
    )
    config.checkpoint.every = base.duration(steps=5)
    config.log.every = base.duration(steps=1)
    config.log.tensorboard = False
    config.log.figures = False
    config.log.example_ids = True
    return config
