"""The evaluators with their defaults; ``configs/base.py`` gives them out as its own.

Each entry of a config's `evals` is one of them, replaced whole. `data` is a data set of
its own for an evaluation, as `data.name` has them; splits may be sliced, as in
"train[:10%]". Everything is measured with the averaged parameters as well, under the
entry's name with "_ema" behind it, where `train.ema` is on.
"""

from ml_collections import ConfigDict, config_dict

from configs.durations import duration

# By name: the data set in TFDS, its split, and what is special of it. Predictions on A
# and R are among their 200 classes, and ReaL has several right classes an image.
ROBUSTNESS = {
    "imagenet_v2": dict(
        data="imagenet_v2/matched-frequency", split="test", classes="data"
    ),
    "imagenet_real": dict(
        data="imagenet2012_real",
        split="validation",
        label_key="real_label",
        labels="many",
        classes="data",
    ),
    "imagenet_a": dict(data="imagenet_a", split="test", classes="imagenet_a"),
    "imagenet_r": dict(data="imagenet_r", split="test", classes="imagenet_r"),
    "imagenet_sketch": dict(data="imagenet_sketch", split="test", classes="data"),
}


def classification(**changes):
    """Accuracy, top-5, loss, calibration and accuracy by class over a whole split."""
    return ConfigDict(
        dict(
            name="classification",
            data="",  # unset: data.name; else classes are matched by name
            split="validation",
            label_key="",  # unset: data.label_key
            labels="one",  # one | many right classes an image; none: left out
            # Predictions are among: all | data (its own) | imagenet_a | imagenet_r
            classes="all",
            batch_size=config_dict.placeholder(int),  # unset: train.batch_size
            resize=256,  # smaller side before the central crop; 0 = no crop
            every=duration(epochs=1),
        )
        | changes
    )


def robustness_sets():
    """The names that `robustness` knows."""
    return tuple(ROBUSTNESS)


def robustness(name, **changes):
    """`classification` on one of ImageNet's robustness sets: a key of ROBUSTNESS."""
    if name not in ROBUSTNESS:
        raise ValueError(
            f"robustness set {name!r} is unknown; known: {', '.join(ROBUSTNESS)}"
        )
    return classification(**(ROBUSTNESS[name] | changes))


def fewshot(**changes):
    """Linear classifiers of a few training examples a class, in closed form."""
    return ConfigDict(
        dict(
            name="fewshot",
            data="",  # unset: data.name
            # Features of all of it are computed: of ImageNet take "train[:65000]",
            # which has 30 of every class.
            train_split="train",
            split="validation",
            shots=(1, 5, 10, 25),  # examples a class
            l2=(1024.0,),  # of several, the best on training examples not drawn
            seeds=3,  # draws; results are their means
            batch_size=config_dict.placeholder(int),  # unset: train.batch_size
            resize=256,
            every=duration(epochs=10),
        )
        | changes
    )


def knn(**changes):
    """Weighted nearest neighbours by cosine similarity, exact (DINO)."""
    return ConfigDict(
        dict(
            name="knn",
            data="",  # unset: data.name
            train_split="train",  # features kept on the devices, a share on each
            split="validation",
            k=20,  # neighbours that vote
            temperature=0.07,  # a vote weighs exp(similarity / temperature)
            batch_size=config_dict.placeholder(int),  # unset: train.batch_size
            resize=256,
            every=duration(epochs=10),
        )
        | changes
    )


def linear_probe(**changes):
    """A linear layer trained on frozen features behind batch normalisation (MAE)."""
    return ConfigDict(
        dict(
            name="linear_probe",
            data="",  # unset: data.name
            train_split="train",  # features kept on the devices, a share on each
            split="validation",
            # lars, for about a million images | sgd | lbfgs, for any number: it takes
            # all of them in every iteration, and needs no rate
            optimizer="lars",
            learning_rate=0.1,  # for 256 images a step; not of lbfgs
            momentum=0.9,
            weight_decay=0.0,  # of the kernel
            epochs=90,  # of lbfgs: iterations, at most
            warmup_epochs=10,
            train_batch_size=16384,  # at most train_split
            augment=False,  # a crop and a flip in every epoch, and features anew
            batch_size=config_dict.placeholder(int),  # of features; train.batch_size
            resize=256,
            every=duration(epochs=50),
        )
        | changes
    )


def reconstruction(**changes):
    """Pictures of what a masked objective makes of images, in figures/."""
    return ConfigDict(
        dict(
            name="reconstruction",
            data="",  # unset: data.name
            split="validation",
            images=8,  # the first of the split
            resize=256,
            every=duration(epochs=10),
        )
        | changes
    )
