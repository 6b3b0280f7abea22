"""DeiT on ImageNet-1k from scratch, alone or with a teacher (arXiv 2012.12877).

`configs/deit_i1k.py:B/16` trains alone, `:B/16,distilled` learns from a teacher, too:

    vit-jax train --config=configs/deit_i1k.py:S/16,distilled \
        --config.objective.teacher.path=runs/teacher

Published top-1 (facebookresearch/deit, README_deit.md): Ti/16 72.2, S/16 79.9, B/16
81.8 %; distilled 74.5, 81.2, 83.4 %. The published teacher is a RegNetY-16GF, a
convolutional network. Here a teacher is any weights of the ViT family that are read,
and is planned as a B/16: **the distilled figures are not comparable**, and the paper
finds that convolutional teachers teach better.

The rate is the paper's 5e-4 for each 512 images, 1e-3 at 1,024; it ends at 1e-5. Weight
decay is AdamW's, and of kernels alone.

Departures: RandAugment is TensorFlow's with both operations always applied, not timm's
(`rand-m9-mstd0.5-inc1` applies each to half of the images and varies the magnitude);
timm takes no colour jitter where it takes RandAugment, and neither does this. Copies of
an image are 4 in a batch, not 3, which does not divide 1,024. Crops are bilinear.
Warmup begins at 0, not at 1e-6, and the cosine begins behind it. Kernels are
xavier-uniform, not truncated normal.
"""

from configs import base

SIZES = ("Ti/16", "S/16", "B/16")
BATCH = 1024


def get_config(arg="S/16"):
    """The recipe of a published size, with ",distilled" behind it or without."""
    size, _, how = arg.partition(",")
    if size not in SIZES or how not in ("", "distilled"):
        known = ", ".join(f"{size}[,distilled]" for size in SIZES)
        raise ValueError(f"no recipe for {arg!r}; known: {known}")
    config = base.get_config()

    config.model.variant = size
    config.model.image_size = (224, 224)
    config.model.num_classes = 1000
    config.model.pool = "cls"
    config.model.position = "learned_cls"
    config.model.activation = "gelu"  # exact
    config.model.drop_path = 0.1

    labels = dict(loss="softmax", label_smoothing=0.1)
    config.objective = base.supervised(**labels)
    if how == "distilled":
        config.model.distillation = "head"
        config.objective = base.distillation(
            match="hard", alpha=0.5, token=True, teacher=dict(variant="B/16"), **labels
        )

    config.data.name = "imagenet2012"
    config.data.split = "train"
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.data.augment.crop = "inception"
    config.data.augment.area = (0.08, 1.0)
    config.data.augment.flip = True
    config.data.augment.policy = "randaugment"
    config.data.augment.randaugment_layers = 2
    config.data.augment.randaugment_magnitude = 9.0
    config.data.augment.repeats = 4
    config.data.augment.mixup = 0.8
    config.data.augment.cutmix = 1.0
    config.data.augment.mix_prob = 1.0
    config.data.augment.mix_switch = 0.5
    config.data.augment.mix_per = "batch"
    config.data.augment.erase = 0.25
    config.data.augment.erase_fill = "noise"

    config.optim = base.adamw(
        learning_rate=5e-4 * BATCH / 512, weight_decay=0.05, eps=1e-8, clip_norm=0.0
    )
    config.schedule.name = "cosine"
    config.schedule.warmup = base.duration(epochs=5)
    config.schedule.final = 1e-5 / config.optim.learning_rate
    config.train.batch_size = BATCH
    config.train.duration = base.duration(epochs=300)
    config.train.ema = 0.99996

    config.evals = dict(
        val=base.classification(
            split="validation", resize=256, every=base.duration(epochs=5)
        )
    )
    config.checkpoint.best = "val/accuracy"
    return config
