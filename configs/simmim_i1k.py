"""SimMIM's pre-training of ViT-B/16 on ImageNet-1k, without labels (arXiv 2111.09886).

Published after 800 epochs and fine-tuning at 224 pixels: 83.8 % (microsoft/SimMIM,
README). 60 % of its squares of 32 pixels are hidden, and their pixels are predicted by
one layer, with an absolute error.

Rate 1e-4 for 512 images, so 4e-4 at 2,048; decay, warmup, clipping, drop path and
LayerScale as simmim_pretrain__vit_base__img224__800ep.yaml and config.py there.
Against them: a cosine to 0 where they divide the rate by 10 after epoch 700, learned
positions where they have a relative bias shared by the blocks, and crops drawn and
resized as `crop="inception"` does.
"""

from configs import base


def get_config(arg="B/16"):
    """The recipe; the other sizes are not published with it."""
    config = base.get_config()

    config.model.variant = arg
    config.model.image_size = (224, 224)
    config.model.num_classes = 0
    config.model.pool = "cls"
    config.model.position = "learned_cls"
    config.model.activation = "gelu"
    config.model.layer_scale = 0.1
    config.model.drop_path = 0.1

    config.objective = base.masked_patch(
        target="pixels_l1",
        mask_rate=0.6,
        mask_unit=32,
        hidden_rate=1.0,
        swapped_rate=0.0,
    )

    config.data.name = "imagenet2012"
    config.data.split = "train"
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.data.augment.crop = "inception"
    config.data.augment.area = (0.67, 1.0)
    config.data.augment.flip = True

    config.optim = base.adamw(
        learning_rate=1e-4 * 2048 / 512,
        weight_decay=0.05,
        decay_mask="kernels",
        clip_norm=5.0,
    )
    config.schedule.name = "cosine"
    config.schedule.warmup = base.duration(epochs=10)
    config.train.batch_size = 2048
    config.train.duration = base.duration(epochs=800)
    config.checkpoint.every = base.duration(epochs=20)
    config.checkpoint.best = ""  # nothing is evaluated: the newest counts
    return config
