"""Masked autoencoder on ImageNet-1k: pre-training without labels (arXiv 2111.06377).

    vit-jax train --config=configs/mae_i1k.py:B/16 --workdir=runs/mae
    vit-jax train --config=configs/mae_i1k.py:B/16,probe --workdir=runs/mae
    vit-jax train --config=configs/mae_finetune_i1k.py:B/16 --workdir=runs/mae-tuned \
        --config.model.init_from=runs/mae

`,probe` adds the linear probe of the paper behind the last step: LARS, 16,384 images a
step, the rate 0.1 for each 256, no decay, 90 epochs (L and H 50) of which 10 are
warmup, a crop and a flip in each, and batch normalisation without scale and offset
before the linear layer (`evals/linear_probe.py`). A finished run in the work directory
is only probed. Published (README of facebookresearch/mae; 1,600 epochs): B/16 67.8,
L/16 76.0, H/14 77.2 %.

Published after fine-tuning, top-1 (facebookresearch/mae, FINETUNE.md; pre-trained for
1,600 epochs): B/16 83.66, L/16 85.95, H/14 86.93 %; L/16 after 800 epochs 85.5 %
(PRETRAIN.md). For the longer run add `--config.train.duration.epochs=1600`.

Rate 1.5e-4 for 256 images, so 2.4e-3 here; AdamW (0.9, 0.95) whose decay leaves out
biases and norms, no clipping. Against that code: crops are drawn and resized as
`crop="inception"` does (their area is as published), CLS and patch kernel start as
this package's do.
"""

from configs import base

SIZES = {"B/16": 90, "L/16": 50, "H/14": 50}  # and epochs of the linear probe


def get_config(arg="L/16"):
    """The recipe of a published size, with ",probe" behind it or without."""
    size, _, how = arg.partition(",")
    if size not in SIZES or how not in ("", "probe"):
        known = ", ".join(f"{size}[,probe]" for size in SIZES)
        raise ValueError(f"no published recipe for {arg!r}; known: {known}")
    config = base.get_config()

    config.model.variant = size
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
    config.checkpoint.best = ""  # the newest counts
    if how == "probe":
        config.evals = dict(
            probe=base.linear_probe(
                train_split="train",
                split="validation",
                optimizer="lars",
                learning_rate=0.1,
                weight_decay=0.0,
                epochs=SIZES[size],
                warmup_epochs=10,
                train_batch_size=16_384,
                augment=True,
                every=base.duration(epochs=800),
            )
        )
    return config
