"""DeiT III on ImageNet-1k: 800 epochs, then 20 at 224 pixels (arXiv 2204.07118).

    vit-jax train --config=configs/deit3_i1k.py:B/16 --workdir=runs/deit3
    vit-jax train --config=configs/deit3_i1k.py:B/16,finetune --workdir=runs/deit3-224 \
        --config.model.init_from=runs/deit3

Published top-1 at 224 pixels (facebookresearch/deit, README_revenge.md): S/16 81.4,
B/16 83.8, L/16 84.9, H/14 85.2 %. B and L are trained at 192 pixels, H at 160, of which
its patches of 14 cover 154, and are fine-tuned at 224; S is trained at 224 and needs no
second part.

The loss is binary cross-entropy, and both classes of a mixed image count in full
(`threshold`). Theirs is the mean over 1,000 classes, ours the sum: gradients are 1,000
times as large, so that LAMB's clipping norm of 1 (of apex's FusedLAMB, which this
follows) is 1,000 here and its epsilon of 1e-8 is 1e-5. All else does not depend on the
size of the loss. Weight decay is of kernels alone, as their trust ratio.

Departures: copies of an image are 4 in a batch, not 3, which does not divide 2,048.
Crops are bilinear. Warmup begins at 0, not at 1e-6, and the cosine begins behind it.
Kernels are xavier-uniform, not truncated normal. RandAugment of the second part is
TensorFlow's (configs/deit_i1k.py).
"""

from configs import base

# Image size and last drop path rate of both parts, and LAMB's rate.
SIZES = {
    "S/16": (224, 0.05, None, 4e-3),
    "B/16": (192, 0.2, 0.2, 3e-3),
    "L/16": (192, 0.45, 0.45, 3e-3),
    "H/14": (154, 0.6, 0.55, 3e-3),
}
CLASSES = 1000


def get_config(arg="B/16"):
    """The recipe of a published size, or with ",finetune" its second part."""
    size, _, how = arg.partition(",")
    tuned = [size for size, settings in SIZES.items() if settings[2] is not None]
    if size not in SIZES or how not in ("", "finetune") or (how and size not in tuned):
        known = [*SIZES, *(f"{size},finetune" for size in tuned)]
        raise ValueError(f"no recipe for {arg!r}; known: {', '.join(known)}")
    config = _common(size)
    return _second(config, size) if how else _first(config, size)


def _common(size):
    """What both parts share."""
    config = base.get_config()
    config.model.variant = size
    config.model.num_classes = CLASSES
    config.model.pool = "cls"
    config.model.position = "learned"  # of patches; CLS has none
    config.model.activation = "gelu"  # exact
    config.model.layer_scale = 1e-4

    config.data.name = "imagenet2012"
    config.data.split = "train"
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.data.augment.crop = "inception"
    config.data.augment.area = (0.08, 1.0)
    config.data.augment.flip = True
    config.data.augment.mixup = 0.8
    config.data.augment.cutmix = 1.0
    config.data.augment.erase = 0.0

    config.schedule.name = "cosine"
    config.schedule.warmup = base.duration(epochs=5)
    config.checkpoint.best = "val/accuracy"
    return config


def _first(config, size):
    """800 epochs from scratch."""
    pixels, config.model.drop_path, _, learning_rate = SIZES[size]
    config.model.image_size = (pixels, pixels)
    config.objective = base.supervised(loss="sigmoid", threshold=0.0)
    config.data.augment.policy = "three_augment"
    config.data.augment.color_jitter = 0.3
    config.data.augment.repeats = 4
    config.optim = base.lamb(
        learning_rate=learning_rate,
        weight_decay=0.05,
        eps=1e-8 * CLASSES,
        clip_norm=1.0 * CLASSES,
    )
    config.schedule.final = 1e-5 / learning_rate
    config.train.batch_size = 2048
    config.train.duration = base.duration(epochs=800)
    config.evals = _evals(pixels, 10)
    return config


def _second(config, size):
    """20 epochs at 224 pixels from the first part's weights."""
    _, _, config.model.drop_path, _ = SIZES[size]
    config.model.image_size = (224, 224)
    config.objective = base.supervised(loss="softmax", label_smoothing=0.1)
    config.data.augment.policy = "randaugment"
    config.data.augment.randaugment_layers = 2
    config.data.augment.randaugment_magnitude = 9.0
    config.optim = base.adamw(learning_rate=1e-5, weight_decay=0.1, clip_norm=0.0)
    config.schedule.final = 1.0  # theirs ends at 1e-5, the rate itself
    config.train.batch_size = 512
    config.train.duration = base.duration(epochs=20)
    config.evals = _evals(224, 1)
    return config


def _evals(pixels, epochs):
    """The whole image, without the usual margin."""
    every = base.duration(epochs=epochs)
    return dict(val=base.classification(split="validation", resize=pixels, every=every))
