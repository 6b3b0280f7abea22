"""ViT on ImageNet-21k with the regularisation that its size needs (arXiv 2106.10270).

Published for AugReg checkpoints of 300 epochs, fine-tuned on ImageNet-1k at 384 pixels,
top-1 (google-research/vision_transformer, README): Ti/16 78.22, S/32 79.58, S/16 83.73,
B/32 83.59, B/16 85.49, L/16 85.59 %. The settings are those of big_vision's
configs/vit_i21k.py, which pools by mean where those checkpoints have a CLS token.

A size alone takes the augmentation that suits it. The paper's whole grid is there by
words behind it, as its checkpoints are named:

    vit-jax train --config=configs/vit_i21k.py:B/16,aug_strong1,wd_0.03,do_0.1,sd_0.1

`aug_` none, light1, light2, medium1, medium2, strong1 or strong2; `wd_` 0.1 or 0.03;
`do_` (dropout) and `sd_` (drop path, "stochastic depth") 0.0 or 0.1. The values 0.03
and 0.1 of decay and of regularisation are recalled from the paper, not checked.

10k steps of linear warmup, then a cosine to 0. Weight decay is AdamW's, a multiple of
the learning rate: 0.1 here is big_vision's 1e-4 at its rate of 1e-3.

TFDS has no ImageNet-21k: "imagenet21k" is a builder of your own over the 21,843 classes
of the winter 2021 (or fall 2011) archive, with one split, "full".
"""

from configs import base

# RandAugment's layers and magnitude, and mixup, by AugReg's names for them. Magnitude 0
# is not "no augmentation".
LEVELS = {
    "none": (0, 0.0, 0.0),
    "light1": (2, 0.0, 0.0),
    "light2": (2, 10.0, 0.2),
    "medium1": (2, 15.0, 0.2),
    "medium2": (2, 15.0, 0.5),
    "strong1": (2, 20.0, 0.5),
    "strong2": (2, 20.0, 0.8),
}
LEVEL_OF = {
    "Ti/16": "none",
    "S/32": "none",
    "S/16": "light1",
    "B/32": "light2",
    "B/16": "light2",
    "L/16": "medium2",
}


# What the words of the grid may say.
GRID = {
    "aug": tuple(LEVELS),
    "wd": ("0.1", "0.03"),
    "do": ("0.0", "0.1"),
    "sd": ("0.0", "0.1"),
}


def get_config(arg="B/16"):
    """The recipe of a published size, or another point of the grid."""
    size, point = parse(arg, LEVEL_OF)
    config = base.get_config()

    config.model.variant = size
    config.model.image_size = (224, 224)
    config.model.num_classes = 21_843
    config.model.pool = "gap"
    config.model.position = "learned"
    config.model.head_bias = -10.0  # every class begins improbable: log(1/21843)

    config.objective = base.supervised(loss="sigmoid")

    config.data.name = "imagenet21k"  # your builder, see above
    config.data.split = "full[51200:]"
    config.data.augment.crop = "inception"
    config.data.augment.area = (0.05, 1.0)
    config.data.augment.flip = True
    regularise(config, **point)

    config.schedule.name = "cosine"
    config.schedule.warmup = base.duration(steps=10_000)
    config.train.batch_size = 4096
    config.train.duration = base.duration(epochs=300)

    config.evals = dict(
        val=base.classification(
            split="full[:51200]", resize=256, every=base.duration(epochs=1)
        )
    )
    return config


def parse(arg, level_of):
    """A size and the settings of the grid, the size's own where words are left out."""
    size, *words = arg.split(",")
    if size not in level_of:
        raise ValueError(
            f"no published level for {size!r}; known: {', '.join(level_of)}"
        )
    point = {"aug": level_of[size], "wd": "0.1", "do": "0.0", "sd": "0.0"}
    for word in words:
        key, _, value = word.partition("_")
        if value not in GRID.get(key, ()):
            known = "; ".join(
                f"{key}_{' | '.join(values)}" for key, values in GRID.items()
            )
            raise ValueError(f"{word!r} is not of AugReg's grid: {known}")
        point[key] = value
    return size, point


def regularise(config, *, aug, wd, do, sd):
    """A point of the grid, and the optimizer that all have."""
    layers, magnitude, mixup = LEVELS[aug]
    config.data.augment.policy = "randaugment" if layers else "none"
    config.data.augment.randaugment_layers = layers
    config.data.augment.randaugment_magnitude = magnitude
    config.data.augment.mixup = mixup
    config.model.dropout = float(do)
    config.model.drop_path = float(sd)
    config.optim = base.adamw(
        learning_rate=1e-3, weight_decay=float(wd), mu_dtype="bfloat16", clip_norm=1.0
    )
