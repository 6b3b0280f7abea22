"""Fine-tuning of a masked autoencoder on ImageNet-1k (arXiv 2111.06377).

    vit-jax train --config=configs/mae_i1k.py:B/16 --workdir=runs/mae
    vit-jax train --config=configs/mae_finetune_i1k.py:B/16 --workdir=runs/mae-tuned \
        --config.model.init_from=runs/mae

Published top-1 (facebookresearch/mae, FINETUNE.md), pre-trained for 1,600 epochs: B/16
83.66, L/16 85.95, H/14 86.93 %.

Rates are 5e-4 (B) and 1e-3 (L, H) for 256 images, so 2e-3 and 4e-3 at 1,024, and each
block's is 0.65 or 0.75 of that of the block behind it. Tokens are pooled by mean before
the last norm, which is a new one; CLS stays, and is not read. Weight decay is AdamW's,
and of kernels alone: theirs leaves out biases, norms, positions and CLS, too.

Departures, as in configs/deit_i1k.py: RandAugment is TensorFlow's with both operations
always applied, without timm's variation of the magnitude; crops are bilinear; warmup
begins at 0, and the cosine behind it. The head begins at zeros, theirs at 2e-5.
"""

from configs import base

# Epochs, rate for 256 images, decay of the rate from block to block, drop path.
SIZES = {
    "B/16": (100, 5e-4, 0.65, 0.1),
    "L/16": (50, 1e-3, 0.75, 0.2),
    "H/14": (50, 1e-3, 0.75, 0.3),
}
BATCH = 1024


def get_config(arg="B/16"):
    """The recipe of a published size."""
    if arg not in SIZES:
        raise ValueError(f"no published recipe for {arg!r}; known: {', '.join(SIZES)}")
    epochs, rate, layer_decay, drop_path = SIZES[arg]
    config = base.get_config()

    config.model.variant = arg
    config.model.image_size = (224, 224)
    config.model.num_classes = 1000
    config.model.pool = "gap"
    config.model.cls_token = True
    config.model.final_norm = "features"
    config.model.position = "learned_cls"  # begins as MAE's fixed ones
    config.model.activation = "gelu"  # exact
    config.model.drop_path = drop_path

    config.objective = base.supervised(loss="softmax", label_smoothing=0.1)

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
    config.data.augment.mixup = 0.8
    config.data.augment.cutmix = 1.0
    config.data.augment.erase = 0.25

    config.optim = base.adamw(
        learning_rate=rate * BATCH / 256,
        weight_decay=0.05,
        clip_norm=0.0,
        layer_decay=layer_decay,
    )
    config.schedule.name = "cosine"
    config.schedule.warmup = base.duration(epochs=5)
    config.schedule.final = 1e-6 / config.optim.learning_rate
    config.train.batch_size = BATCH
    config.train.duration = base.duration(epochs=epochs)

    config.evals = dict(
        val=base.classification(
            split="validation", resize=256, every=base.duration(epochs=5)
        )
    )
    config.checkpoint.best = "val/accuracy"
    return config
