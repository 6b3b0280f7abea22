"""Masked patch prediction of the ViT paper (arXiv 2010.11929, appendix B.1.2).

Published for B/16, top-1 on ImageNet-1k after fine-tuning: 79.9 %, 2 % above training
from scratch; pre-trained on JFT for 1M steps (14 epochs), which is not public. On
ImageNet-1k that is 3,200 epochs; the paper saw little gain after 100k steps:
`--config.train.duration.steps=100000`.

Half of the patch embeddings are corrupted, and the mean colour of each, 3 bits a
channel, is predicted. Adam at 2e-4, 10k steps of warmup, a cosine; crops and flips as
for classification. The appendix gives no weight decay; 0.1 is that of the paper's other
pre-training. Other targets of the paper: `--config.objective.target=colours_4x4`, or
`pixels_l2`.
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

    config.objective = base.masked_patch(
        target="mean_colour", mask_rate=0.5, hidden_rate=0.8, swapped_rate=0.1
    )

    config.data.name = "imagenet2012"
    config.data.split = "train"
    config.data.augment.crop = "inception"
    config.data.augment.area = (0.05, 1.0)
    config.data.augment.flip = True

    config.optim = base.adamw(learning_rate=2e-4, weight_decay=0.1, clip_norm=1.0)
    config.schedule.name = "cosine"
    config.schedule.warmup = base.duration(steps=10_000)
    config.train.batch_size = 4096
    config.train.duration = base.duration(steps=1_000_000)
    config.checkpoint.every = base.duration(steps=5_000)
    config.checkpoint.best = ""  # nothing is evaluated: the newest counts
    return config
