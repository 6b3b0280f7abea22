"""DeiT III on ImageNet-21k: 240 epochs, for fine-tuning (arXiv 2204.07118).

    vit-jax train --config=configs/deit3_i21k.py:B/16 --workdir=runs/deit3-21k

Published top-1 on ImageNet-1k, fine-tuned there for 50 epochs at a rate of 3e-4
(facebookresearch/deit, README_revenge.md): S/16 83.1, B/16 85.7, L/16 87.0, H/14
87.2 %. H is trained for 90 epochs at 128 pixels, of which its patches of 14 cover 126.

**Recalled, not checked:** S, B and L see 224 pixels; an image is once in a batch; LAMB
clips at norm 1. Weight decay is of kernels alone, as the trust ratio. The end of the
rate, 1e-5, is that of configs/deit3_i1k.py, and so are the departures: crops are
bilinear, warmup begins at 0, and the cosine behind it, kernels are xavier-uniform.

For the data set see configs/vit_i21k.py.
"""

from configs import base

# Image size, epochs and last drop path rate.
SIZES = {
    "S/16": (224, 240, 0.05),
    "B/16": (224, 240, 0.1),
    "L/16": (224, 240, 0.3),
    "H/14": (126, 90, 0.5),
}


def get_config(arg="B/16"):
    """The recipe of a published size."""
    if arg not in SIZES:
        raise ValueError(f"no recipe for {arg!r}; known: {', '.join(SIZES)}")
    pixels, epochs, drop_path = SIZES[arg]
    config = base.get_config()

    config.model.variant = arg
    config.model.image_size = (pixels, pixels)
    config.model.num_classes = 21_843
    config.model.pool = "cls"
    config.model.position = "learned"  # of patches; CLS has none
    config.model.activation = "gelu"  # exact
    config.model.layer_scale = 1e-4
    config.model.drop_path = drop_path

    config.objective = base.supervised(loss="softmax", label_smoothing=0.1)

    config.data.name = "imagenet21k"
    config.data.split = "full[51200:]"
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.data.augment.crop = "simple"
    config.data.augment.flip = True
    config.data.augment.policy = "three_augment"
    config.data.augment.color_jitter = 0.3
    config.data.augment.mixup = 0.0
    config.data.augment.cutmix = 1.0

    config.optim = base.lamb(
        learning_rate=1e-3, weight_decay=0.02, eps=1e-8, clip_norm=1.0
    )
    config.schedule.name = "cosine"
    config.schedule.warmup = base.duration(epochs=5)
    config.schedule.final = 1e-5 / config.optim.learning_rate
    config.train.batch_size = 2048
    config.train.duration = base.duration(epochs=epochs)

    config.evals = dict(
        val=base.classification(
            split="full[:51200]", resize=pixels, every=base.duration(epochs=5)
        )
    )
    return config
