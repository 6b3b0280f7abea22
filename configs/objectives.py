"""The objectives with their defaults; ``configs/base.py`` gives them out as its own.

A config's `objective` is one of them, replaced whole.
"""

from ml_collections import ConfigDict, config_dict

_LABELS = ("loss", "label_smoothing", "class_weights")


def mae(**changes):
    """Masked autoencoder (arXiv 2111.06377): pixels of hidden patches, no labels."""
    return ConfigDict(
        dict(
            name="mae",
            mask_rate=0.75,  # share of the patches that is hidden
            norm_pixels=True,  # targets normalised patch by patch
            decoder_width=512,
            decoder_depth=8,
            decoder_heads=16,
            decoder_position="sincos2d_mae",  # sincos2d_mae | learned
        )
        | changes
    )


def masked_patch(**changes):
    """Corrupted patches' colours (arXiv 2010.11929, B.1.2) or pixels, no labels."""
    return ConfigDict(
        dict(
            name="masked_patch",
            # mean_colour and colours_4x4 (3 bits a channel) | pixels_l2 | pixels_l1
            target="mean_colour",
            mask_rate=0.5,  # share of the patches that is corrupted
            mask_unit=0,  # side of the corrupted squares in pixels; 0: one patch
            hidden_rate=0.8,  # of those: become the mask embedding
            swapped_rate=0.1,  # of those: another patch's embedding; the rest is kept
        )
        | changes
    )


def supervised(**changes):
    """Classification with labels."""
    return ConfigDict(
        dict(
            name="supervised",
            loss="softmax",  # softmax | sigmoid (summed over classes)
            label_smoothing=0.0,
            # A number a class, as they are; or ("FILE",), an .npy or a number a line
            class_weights=(),
            # Labels above it become 1, others 0: sigmoid, and what mixup made
            threshold=config_dict.placeholder(float),
        )
        | changes
    )


def autoregressive(**changes):
    """Next-patch prediction, AIM (arXiv 2401.08541); no labels, and no head."""
    return ConfigDict(
        dict(
            name="autoregressive",
            norm_pixels=True,  # targets normalised patch by patch
            decoder_width=2048,  # of the MLP on each token, its hidden layers 4 times
            decoder_depth=12,
            chunk=0,  # patches of an image that it sees at a time; 0 = all
        )
        | changes
    )


def distillation(**changes):
    """Learning from a frozen teacher: DeiT's, and function matching.

    DeiT (arXiv 2012.12877) with hard labels is the default; its soft form is
    ``match="soft"`` with a temperature. Function matching (arXiv 2106.05237) is
    ``match="soft", alpha=1.0, token=False``, mixup and long training.
    """
    section = ConfigDict(
        dict(
            name="distillation",
            match="hard",  # hard (the teacher's first choice) | soft (KL divergence)
            alpha=0.5,  # share of the teacher in the loss; 1.0: labels are not used
            temperature=1.0,  # of soft
            token=True,  # the teacher through model.distillation=head; False: one head
            **{name: supervised()[name] for name in _LABELS},  # as supervised's
            threshold=config_dict.placeholder(float),
            teacher=dict(
                # A work directory (or one step: DIR/checkpoints/STEP), a file or a
                # folder in any format that is read; the teacher must know the same
                # classes. It is read at every start, and must stay the same one
                path="",
                logits="",  # in its place: its answers by example id, .npy or .npz
                variant="",  # what vit-jax plan takes it for where path is not set
                # Without path and logits: a ViT of `variant` that knows nothing, its
                # parameters drawn from this seed; for trying a recipe
                random_seed=config_dict.placeholder(int),
                ema=False,  # of a work directory: the moving average
                num_heads=config_dict.placeholder(int),  # where the file does not say
                # What images are resized to; unset: the file's, in some formats a guess
                image_size=config_dict.placeholder(tuple),
                dtype="bfloat16",  # of its computation; its parameters are kept in it
            ),
        )
    )
    section.update(changes)
    return section
