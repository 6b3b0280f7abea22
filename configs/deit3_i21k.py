"""DeiT III on ImageNet-21k: 240 epochs, then 50 on ImageNet-1k (arXiv 2204.07118).

    vit-jax train --config=configs/deit3_i21k.py:B/16 --workdir=runs/deit3-21k
    vit-jax train --config=configs/deit3_i21k.py:B/16,finetune --workdir=runs/deit3-1k \
        --config.model.init_from=runs/deit3-21k

Published top-1 on ImageNet-1k at 224 pixels after the second part
(facebookresearch/deit, README_revenge.md, with the commands of both parts): S/16 83.1,
B/16 85.7, L/16 87.0, H/14 87.2 %. H is trained for 90 epochs at 128 pixels, of which
its patches of 14 cover 126, and then at 224.

Weight decay is of kernels alone, as the trust ratio. The end of the rate, 1e-5, is that
of configs/deit3_i1k.py, as are the clipping at norm 1 and the departures: crops are
bilinear, warmup begins at 0, and the cosine behind it, kernels are xavier-uniform.

For the data set of the first part see configs/vit_i21k.py.
"""

from configs import base

# Image size, epochs and last drop path rate of the first part, and that rate of the
# second.
SIZES = {
    "S/16": (224, 240, 0.05, 0.05),
    "B/16": (224, 240, 0.1, 0.15),
    "L/16": (224, 240, 0.3, 0.4),
    "H/14": (126, 90, 0.5, 0.45),
}


def get_config(arg="B/16"):
    """The recipe of a published size, or with ",finetune" its second part."""
    size, _, how = arg.partition(",")
    if size not in SIZES or how not in ("", "finetune") or arg.endswith(","):
        known = ", ".join(f"{size}[,finetune]" for size in SIZES)
        raise ValueError(f"no recipe for {arg!r}; known: {known}")
    pixels, epochs, drop_path, tuned_drop_path = SIZES[size]
    config = _common(size)
    if how:
        return _second(config, tuned_drop_path)
    return _first(config, pixels, epochs, drop_path)


def _common(size):
    """What both parts share."""
    config = base.get_config()

    config.model.variant = size
    config.model.pool = "cls"
    config.model.position = "learned"  # of patches; CLS has none
    config.model.activation = "gelu"  # exact
    config.model.layer_scale = 1e-4

    config.objective = base.supervised(loss="softmax", label_smoothing=0.1)

    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.data.augment.crop = "simple"
    config.data.augment.flip = True
    config.data.augment.policy = "three_augment"
    config.data.augment.color_jitter = 0.3
    config.data.augment.mixup = 0.0
    config.data.augment.cutmix = 1.0

    config.schedule.name = "cosine"
    config.schedule.warmup = base.duration(epochs=5)
    config.train.batch_size = 2048
    return config


def _first(config, pixels, epochs, drop_path):
    """ImageNet-21k, from scratch."""
    config.model.image_size = (pixels, pixels)
    config.model.num_classes = 21_843
    config.model.drop_path = drop_path
    config.data.name = "imagenet21k"
    config.data.split = "full[51200:]"
    _optimize(config, 1e-3)
    config.train.duration = base.duration(epochs=epochs)
    config.evals = dict(
        val=base.classification(
            split="full[:51200]", resize=pixels, every=base.duration(epochs=5)
        )
    )
    return config


def _second(config, drop_path):
    """ImageNet-1k at 224 pixels, from the first part's weights."""
    config.model.image_size = (224, 224)
    config.model.num_classes = 1000
    config.model.drop_path = drop_path
    config.data.name = "imagenet2012"
    config.data.split = "train"
    _optimize(config, 3e-4)
    config.train.duration = base.duration(epochs=50)
    config.checkpoint.best = "val/accuracy"
    config.evals = dict(
        val=base.classification(
            split="validation", resize=224, every=base.duration(epochs=1)
        )
    )
    return config


def _optimize(config, learning_rate):
    config.optim = base.lamb(
        learning_rate=learning_rate, weight_decay=0.02, eps=1e-8, clip_norm=1.0
    )
    config.schedule.final = 1e-5 / learning_rate
