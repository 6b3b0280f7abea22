"""Distillation on 8x8 digits: a narrow student of a run of configs/digits.py.

    vit-jax train --config=configs/digits.py --workdir=runs/digits
    vit-jax train --config=configs/distill_digits.py --workdir=runs/student \
        --config.objective.teacher.path=runs/digits

Function matching; with `:deit` behind it DeiT's hard distillation through a token.
"""

from configs import base, digits

KINDS = ("matching", "deit")


def get_config(arg="matching"):
    """The recipe of a kind of distillation."""
    if arg not in KINDS:
        raise ValueError(f"{arg!r} is unknown; known: {', '.join(KINDS)}")
    config = digits.get_config()
    config.model.width = 32
    config.model.depth = 2
    config.model.num_heads = 2
    config.model.unroll = 2
    teacher = dict(path="runs/digits", dtype="float32")
    if arg == "deit":
        config.model.pool = "cls"
        config.model.distillation = "head"
        config.objective = base.distillation(teacher=teacher, label_smoothing=0.1)
    else:
        config.objective = base.distillation(
            match="soft", alpha=1.0, token=False, teacher=teacher
        )
    return config
