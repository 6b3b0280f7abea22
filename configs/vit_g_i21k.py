"""ViT-g/14 and ViT-G/14 as arXiv 2106.04560 trains them, on ImageNet-21k.

The paper's data, JFT-3B, is not public. The settings are those of big_vision's
train_vit_g.py: Adafactor with a first moment in bfloat16, an attention head for
pooling, a weight decay of the classifier a hundred times that of the body, an inverse
square root with a warmup and a cooldown, and 1M steps of 16,384 images.

For the data set see configs/vit_i21k.py.
"""

from configs import base

SIZES = ("g/14", "G/14")


def get_config(arg="g/14"):
    """The recipe of either size."""
    if arg not in SIZES:
        raise ValueError(f"no recipe for {arg!r}; known: {', '.join(SIZES)}")
    config = base.get_config()

    config.model.variant = arg
    config.model.image_size = (224, 224)
    config.model.num_classes = 21_843
    config.model.pool = "map"
    config.model.position = "learned"
    config.model.head_bias = -10.0  # every class begins improbable

    config.objective = base.supervised(loss="sigmoid")

    config.data.name = "imagenet21k"
    config.data.split = "full[51200:]"
    config.data.augment.crop = "inception"
    config.data.augment.area = (0.05, 1.0)
    config.data.augment.flip = True

    config.optim = base.adafactor(
        learning_rate=8e-4, weight_decay=0.03, head_weight_decay=3.0, clip_norm=1.0
    )
    config.schedule.name = "rsqrt"
    config.schedule.warmup = base.duration(steps=10_000)
    config.schedule.cooldown = base.duration(steps=50_000)
    config.schedule.timescale = 10_000
    config.train.batch_size = 16_384
    config.train.duration = base.duration(steps=1_000_000)

    config.evals = dict(
        val=base.classification(
            split="full[:51200]", resize=256, every=base.duration(steps=10_000)
        )
    )
    return config
