"""Fashion-MNIST: every objective on 60,000 real images, on a CPU.

    vit-jax prepare idx:/usr/share/datasets/fashion-mnist --name=fashion_mnist
    vit-jax train --config=configs/fashion.py --workdir=runs/fashion

That is Debian's package `dataset-fashion-mnist`. By argument: `supervised`; `mae`,
`masked_patch` and `aim`, which use no label; `few`, 600 labels (1 %), from scratch or
with `--config.model.init_from=RUN` from one of these; `student`, a narrower model, and
`distill`, the same one with a teacher, `--config.objective.teacher.path=RUN`. `random`
is the encoder as it starts, for its features. The recipes are this package's own.
"""

from configs import base

TEST = "test"


def get_config(arg="supervised"):
    """The run of a key of KINDS."""
    if arg not in KINDS:
        raise ValueError(f"{arg!r} is unknown; known: {', '.join(KINDS)}")
    config = base.get_config()

    config.model.variant = "Ti/7"
    config.model.width = 64
    config.model.depth = 4
    config.model.num_heads = 4
    config.model.image_size = (28, 28)
    config.model.channels = 1
    config.model.num_classes = 10
    config.model.position = "sincos2d_mae"
    config.model.dtype = "float32"

    config.data.name = "fashion_mnist"
    config.data.mean = (0.286,)
    config.data.std = (0.353,)
    config.data.augment.crop = "pad"
    config.data.augment.pad = 2

    config.optim = base.adamw(learning_rate=2e-3, weight_decay=0.05, b2=0.95)
    config.schedule.warmup = base.duration(epochs=1)
    config.train.batch_size = 128
    config.train.duration = base.duration(epochs=10)
    config.checkpoint.every = base.duration(epochs=2)
    config.log.every = base.duration(steps=100)
    KINDS[arg](config)
    return config


def _supervised(config):
    config.objective = base.supervised(label_smoothing=0.1)
    _classify(config)


def _classify(config):
    with config.unlocked():
        config.evals.val = base.classification(
            split=TEST, resize=0, every=base.duration(epochs=2)
        )


def _student(config):
    config.model.width = 32
    config.model.depth = 3
    config.model.num_heads = 2
    _supervised(config)


def _distill(config):
    _student(config)
    config.objective = base.distillation(
        match="soft",
        alpha=1.0,
        token=False,
        teacher=dict(path="runs/fashion", dtype="float32"),
    )
    config.data.augment.mixup = 0.2


def _few(config):
    _supervised(config)
    config.data.split = "train[:1%]"
    config.optim = base.adamw(learning_rate=1e-3, weight_decay=0.05)
    config.train.batch_size = 60
    config.train.duration = base.duration(epochs=60)
    config.schedule.warmup = base.duration(epochs=5)
    config.evals.val.every = base.duration(epochs=60)
    config.checkpoint.every = base.duration(epochs=60)


def _without_labels(config, objective):
    config.model.num_classes = 0
    config.objective = objective
    config.checkpoint.best = ""
    with config.unlocked():
        config.evals.linear = base.linear_probe(
            split=TEST,
            resize=0,
            optimizer="lbfgs",
            epochs=300,
            weight_decay=1e-4,
            batch_size=500,
            every=base.duration(epochs=100),
        )


def _mae(config):
    _without_labels(
        config, base.mae(decoder_width=48, decoder_depth=2, decoder_heads=4)
    )


def _masked_patch(config):
    _without_labels(
        config,
        base.masked_patch(target="mean_colour"),
    )


def _aim(config):
    _without_labels(config, base.autoregressive(decoder_width=128, decoder_depth=2))


def _random(config):
    _mae(config)
    config.optim = base.adamw(learning_rate=0.0)
    config.schedule.warmup = base.duration(steps=0)
    config.train.duration = base.duration(steps=1)


KINDS = {
    "supervised": _supervised,
    "mae": _mae,
    "masked_patch": _masked_patch,
    "aim": _aim,
    "random": _random,
    "few": _few,
    "student": _student,
    "distill": _distill,
}
