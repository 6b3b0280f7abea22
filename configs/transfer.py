"""Fine-tuning at a higher resolution: SGD, cosine, no weight decay, a new head.

    vit-jax train --config=configs/transfer.py:cifar10 --workdir=runs/cifar10 \
        --config.model.init_from=B_32.npz

The model is that of the weights in `model.init_from`: sizes, GELU, epsilon, pooling,
mean and std. Batch, steps, warmup, resolution and crops follow big_vision's
configs/transfer.py and the ViT paper (arXiv 2010.11929, table 4: SGD with momentum 0.9,
gradients clipped at norm 1, batch 512). The best rate differs by data set: the paper
tries 0.003, 0.01, 0.03 and 0.06.
"""

from configs import base

# By data set: training and test split, steps, warmup, and the rate and crop that suit
# AugReg B/32 best (header of big_vision's config). `digits` is ours, at twice its 8
# pixels.
TASKS = {
    "imagenet2012": ("train[:99%]", "validation", 20_000, 500, 0.03, "inception"),
    "cifar10": ("train[:98%]", "test", 10_000, 500, 0.003, "random"),
    "cifar100": ("train[:98%]", "test", 10_000, 500, 0.01, "random"),
    "oxford_iiit_pet": ("train[:90%]", "test", 500, 100, 0.003, "inception"),
    "oxford_flowers102": ("train[:90%]", "test", 500, 100, 0.003, "inception"),
    "digits": ("train", "test", 300, 10, 0.03, "resize"),
}


def get_config(arg="cifar10"):
    """The config for the data set `arg`, a key of TASKS."""
    if arg not in TASKS:
        raise ValueError(f"data set {arg!r} is unknown; known: {', '.join(TASKS)}")
    train, test, steps, warmup, learning_rate, crop = TASKS[arg]
    small = arg == "digits"
    config = base.get_config()
    config.model.variant = "source"
    config.model.image_size = (16, 16) if small else (384, 384)
    config.model.dtype = "float32" if small else "bfloat16"
    config.model.unroll = 4 if small else 1  # on a CPU a loop costs more than it saves

    config.data.name = arg
    config.data.split = train
    config.data.augment.crop = crop
    config.data.augment.resize = (448, 448)  # before a random crop
    config.data.augment.flip = not small

    config.optim = base.sgd(learning_rate=learning_rate)
    config.schedule.warmup = base.duration(steps=warmup)
    config.train.batch_size = 128 if small else 512
    config.train.duration = base.duration(steps=steps)
    config.checkpoint.every = base.duration(steps=max(steps // 10, 1))
    config.log.every = base.duration(steps=10 if small else 100)
    with config.unlocked():
        config.evals.val = base.classification(
            split=test,
            resize=0 if small else 448,
            every=base.duration(steps=max(steps // 10, 1)),
        )
    return config
