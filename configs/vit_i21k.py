"""ViT on ImageNet-21k with the regularisation that its size needs (arXiv 2106.10270).

Published for AugReg checkpoints of 300 epochs, fine-tuned on ImageNet-1k at 384 pixels,
top-1 (google-research/vision_transformer, README): Ti/16 78.22, S/32 79.58, S/16 83.73,
B/32 83.59, B/16 85.49, L/16 85.59 %. The settings are those of big_vision's
configs/vit_i21k.py, which pools by mean where those checkpoints have a CLS token.

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
    "medium2": (2, 15.0, 0.5),
}
LEVEL_OF = {
    "Ti/16": "none",
    "S/32": "none",
    "S/16": "light1",
    "B/32": "light2",
    "B/16": "light2",
    "L/16": "medium2",
}


def get_config(arg="B/16"):
    """The recipe of a published size."""
    if arg not in LEVEL_OF:
        raise ValueError(
            f"no published level for {arg!r}; known: {', '.join(LEVEL_OF)}"
        )
    layers, magnitude, mixup = LEVELS[LEVEL_OF[arg]]
    config = base.get_config()

    config.model.variant = arg
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
    config.data.augment.policy = "randaugment" if layers else "none"
    config.data.augment.randaugment_layers = layers
    config.data.augment.randaugment_magnitude = magnitude
    config.data.augment.mixup = mixup

    config.optim = base.adamw(
        learning_rate=1e-3, weight_decay=0.1, mu_dtype="bfloat16", clip_norm=1.0
    )
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
