"""Function matching on ImageNet-1k: a patient, consistent teacher (arXiv 2106.05237).

    vit-jax train --config=configs/distill_i1k.py:S/16 \
        --config.objective.teacher.path=B_16.npz

Student and teacher see the same crop and the same mixup of it; no label is used. The
longer, the better: `--config.train.duration.epochs=9600` is the paper's longest.

Published (big_vision, configs/proj/distill/README.md): 82.8 % top-1 for a ResNet-50
that learns from BiT-R152x2. **It is not comparable:** here a ViT learns from a ViT, and
no figure of that is published with this recipe. Batch, epochs, warmup, mixup,
temperature, clipping and split are those of big_vision's bit_i1k.py, in
configs/proj/distill.

Its rate of 0.03 is for ResNets; this is 1e-3, the ViTs' (configs/vit_s16_i1k.py). Its
weight decay of 3e-4 a step is kept: AdamW's is a multiple of the rate, 0.3.
"""

from configs import base

LEARNING_RATE = 1e-3
DECAY = 3e-4  # of a parameter at a step, at the peak of the schedule


def get_config(arg="S/16"):
    """The recipe for a student of any size."""
    config = base.get_config()

    config.model.variant = arg
    config.model.image_size = (224, 224)
    config.model.num_classes = 1000

    config.objective = base.distillation(
        match="soft",
        alpha=1.0,
        temperature=1.0,
        token=False,
        teacher=dict(variant="B/16"),
    )

    config.data.name = "imagenet2012"
    config.data.split = "train[:98%]"
    config.data.augment.crop = "inception"
    config.data.augment.area = (0.05, 1.0)
    config.data.augment.flip = True
    config.data.augment.mixup = 1.0

    config.optim = base.adamw(
        learning_rate=LEARNING_RATE,
        weight_decay=DECAY / LEARNING_RATE,
        mu_dtype="bfloat16",
        clip_norm=1.0,
    )
    config.schedule.name = "cosine"
    config.schedule.warmup = base.duration(steps=5000)
    config.train.batch_size = 4096
    config.train.duration = base.duration(epochs=1200)

    every = dict(every=base.duration(epochs=10))
    config.evals = dict(
        minival=base.classification(split="train[99%:]", resize=256, **every),
        val=base.classification(split="validation", resize=256, **every),
    )
    config.checkpoint.best = "minival/accuracy"
    return config
