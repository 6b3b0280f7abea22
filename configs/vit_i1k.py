"""ViT on ImageNet-1k from scratch with AugReg's regularisation (arXiv 2106.10270).

The settings are those of big_vision's configs/vit_i1k.py. Published for it: "about
79 %" top-1 for B/16 (an author in google-research/big_vision, issue 7); none for the
other sizes. A size alone takes the augmentation that suits it; the grid is there by
words behind it, as in configs/vit_i21k.py:

    vit-jax train --config=configs/vit_i1k.py:S/16,aug_light1,wd_0.03,do_0.1,sd_0.1

10k steps of linear warmup, then a cosine to 0. Weight decay is AdamW's, a multiple of
the learning rate: 0.1 here is big_vision's 1e-4 at its rate of 1e-3.
"""

from configs import base, vit_i21k

# By size, from Ti/16 to L/16 the more the larger; names as in vit_i21k.LEVELS.
LEVEL_OF = {
    "Ti/16": "light1",
    "S/32": "medium1",
    "S/16": "medium2",
    "B/32": "medium2",
    "B/16": "medium2",
    "L/16": "medium2",
}


def get_config(arg="B/16"):
    """The recipe of a published size, or another point of the grid."""
    size, point = vit_i21k.parse(arg, LEVEL_OF)
    config = base.get_config()

    config.model.variant = size
    config.model.image_size = (224, 224)
    config.model.num_classes = 1000
    config.model.pool = "cls"
    config.model.position = "learned"  # of patches; CLS has none
    config.model.pre_logits = -1  # `rep_size=True` in big_vision
    config.model.head_bias = -6.9  # every class begins improbable: log(1/1000)

    config.objective = base.supervised(loss="sigmoid")

    # The last percent of train is what choices are made on; validation is only read.
    config.data.name = "imagenet2012"
    config.data.split = "train[:99%]"
    config.data.augment.crop = "inception"
    config.data.augment.area = (0.05, 1.0)
    config.data.augment.flip = True
    vit_i21k.regularise(config, **point)

    config.schedule.name = "cosine"
    config.schedule.warmup = base.duration(steps=10_000)
    config.train.batch_size = 4096
    config.train.duration = base.duration(epochs=300)

    every = dict(every=base.duration(epochs=5))
    config.evals = dict(
        minival=base.classification(split="train[99%:]", resize=256, **every),
        val=base.classification(split="validation", resize=256, **every),
    )
    config.checkpoint.best = "minival/accuracy"
    return config
