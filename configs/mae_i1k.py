"""Masked autoencoder on ImageNet-1k: pre-training without labels (arXiv 2111.06377).

    vit-jax train --config=configs/mae_i1k.py:B/16 --workdir=runs/mae
    vit-jax train --config=... --config.model.init_from=runs/mae  # then fine-tune

Published after fine-tuning, top-1 (facebookresearch/mae, FINETUNE.md; pre-trained for
1,600 epochs): B/16 83.66, L/16 85.95, H/14 86.93 %; L/16 after 800 epochs 85.5 %
(PRETRAIN.md). For the longer run add `--config.train.duration.epochs=1600`.

Rate 1.5e-4 for 256 images, so 2.4e-3 here; AdamW (0.9, 0.95) whose decay leaves out
biases and norms, no clipping. Against that code: crops are drawn and resized as
`crop="inception"` does (their area is as published), CLS and patch kernel start as
this package's do.
"""

from configs import base

SIZES = ("B/16", "L/16", "H/14")


def get_config(arg="L/16"):
    """The recipe of a published size."""
    if arg not in SIZES:
        raise ValueError(f"no published recipe for {arg!r}; known: {', '.join(SIZES)}")
    config = base.get_config()

    config.model.variant = arg
    config.model.image_size = (224, 224)
    config.model.num_classes = 0
    config.model.pool = "cls"
    config.model.position = "sincos2d_mae"
    config.model.activation = "gelu"

    config.objective = base.mae()

    config.data.name = "imagenet2012"
    config.data.split = "train"
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.data.augment.crop = "inception"
    config.data.augment.area = (0.2, 1.0)
    config.data.augment.flip = True

    config.optim = base.adamw(
        learning_rate=1.5e-4 * 4096 / 256,
        weight_decay=0.05,
        decay_mask="matrices",
        b1=0.9,
        b2=0.95,
        clip_norm=0.0,
    )
    config.schedule.name = "cosine"
    config.schedule.warmup = base.duration(epochs=40)
    config.train.batch_size = 4096
    config.train.duration = base.duration(epochs=800)
    config.checkpoint.every = base.duration(epochs=20)
    config.checkpoint.best = ""  # nothing is evaluated: the newest counts
    return config
