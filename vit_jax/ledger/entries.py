"""Every recipe of configs/, with the figures published for it and where they are from.

A new recipe is a new `Entry`; `python scripts/plan_recipes.py` then adds its row to
planned.json. What a recipe departs in from the published run is in the docstring of its
config, which `vit-jax recipes NAME` shows.
"""

from collections.abc import Mapping

from vit_jax.ledger.records import SMALL, Entry, Published

VIT = "2010.11929"
DEIT = "2012.12877"
AUGREG = "2106.10270"
PATIENT = "2106.05237"
MAE = "2111.06377"
AIM = "2401.08541"

_DEIT = "facebookresearch/deit, README_deit.md"
_DEIT3 = "facebookresearch/deit, README_revenge.md"
_MAE = "facebookresearch/mae, FINETUNE.md"
_LONG_MAE = "fine-tuned, after --config.train.duration.epochs=1600"
_FROM_SCRATCH = "google-research/vision_transformer, issue 62"
_AUGREG = "google-research/vision_transformer, README"
_TRANSFER = "big_vision, configs/transfer.py"
_AIM = "apple/ml-aim, aim-v1 README"

_TEACHER = ("--config.objective.teacher.path=TEACHER",)
_NO_REGNET = (
    "the published teacher is a RegNetY-16GF, a convolutional network; here it is a ViT"
)


def _sizes(
    name: str,
    paper: str,
    figures: Mapping[str, float],
    source: str,
    when: str = "",
    *,
    how: str = "",
    not_comparable: str = "",
    needs: tuple[str, ...] = (),
) -> tuple[Entry, ...]:
    """An entry a size that was published, ``how`` behind its argument."""
    return tuple(
        Entry(
            f"{name}:{size}{how}",
            paper,
            (Published(value, source, when, not_comparable=not_comparable),),
            needs=needs,
        )
        for size, value in figures.items()
    )


def _transfer(data: str, value: float, name: str) -> Entry:
    """Fine-tuning of AugReg's B/32, which big_vision's config has figures for."""
    return Entry(
        f"transfer:{data}",
        VIT,
        (Published(value, _TRANSFER, "from AugReg B/32", f"top-1 on {name}"),),
        needs=("--config.model.init_from=B_32.npz",),
        planned_with=("model.variant=B/32", "model.pool=cls"),
    )


ENTRIES: tuple[Entry, ...] = (
    *(
        Entry(
            f"vit_s16_i1k:{epochs}",
            "2205.01580",
            (Published(value, source, f"after {epochs} epochs"),),
        )
        for epochs, value, source in (
            ("90", 76.5, "big_vision, configs/vit_s16_i1k.py"),
            ("300", 80.0, "arXiv 2205.01580, abstract"),
        )
    ),
    Entry(
        "vit_s16_i1k:150",
        "2205.01580",
        note="a figure is recalled only; see the config",
    ),
    *(
        Entry(
            f"vit_paper:i1k,{size}",
            VIT,
            (Published(value, _FROM_SCRATCH, "without fine-tuning"),),
        )
        for size, value in {
            "B/16": 74.79,
            "B/32": 69.19,
            "L/16": 72.59,
            "L/32": 66.90,
        }.items()
    ),
    *(
        Entry(
            f"vit_paper:{data},{size}",
            VIT,
            note="figures are of fine-tuning and recalled only; see the config",
        )
        for data, sizes in {
            "i21k": ("B/16", "B/32", "L/16", "L/32"),
            "jft": ("B/16", "B/32", "L/16", "L/32", "H/14"),
        }.items()
        for size in sizes
    ),
    Entry(
        "vit_i1k:B/16",
        AUGREG,
        (
            Published(
                79.0,
                "an author in google-research/big_vision, issue 7",
                'after 300 epochs, "about"',
            ),
        ),
    ),
    *(
        Entry(f"vit_i1k:{size}", AUGREG, note="no figure of this size is published")
        for size in ("Ti/16", "S/32", "S/16", "B/32", "L/16")
    ),
    *_sizes(
        "vit_i21k",
        AUGREG,
        {
            "Ti/16": 78.22,
            "S/32": 79.58,
            "S/16": 83.73,
            "B/32": 83.59,
            "B/16": 85.49,
            "L/16": 85.59,
        },
        _AUGREG,
        "fine-tuned at 384 pixels",
    ),
    *(
        Entry(
            f"vit_g_i21k:{size}",
            "2106.04560",
            note="the paper's data, JFT-3B, is not public; no figure on these data",
        )
        for size in ("g/14", "G/14")
    ),
    *_sizes(
        "deit_i1k",
        DEIT,
        {"Ti/16": 72.2, "S/16": 79.9, "B/16": 81.8},
        _DEIT,
        "after 300 epochs",
    ),
    *_sizes(
        "deit_i1k",
        DEIT,
        {"Ti/16": 74.5, "S/16": 81.2, "B/16": 83.4},
        _DEIT,
        "after 300 epochs",
        how=",distilled",
        not_comparable=_NO_REGNET,
        needs=_TEACHER,
    ),
    *_sizes("deit3_i1k", "2204.07118", {"S/16": 81.4}, _DEIT3, "after 800 epochs"),
    *_sizes(
        "deit3_i1k",
        "2204.07118",
        {"B/16": 83.8, "L/16": 84.9, "H/14": 85.2},
        _DEIT3,
        "after its second part, ',finetune'",
    ),
    *_sizes(
        "deit3_i1k",
        "2204.07118",
        {"B/16": 83.8, "L/16": 84.9, "H/14": 85.2},
        _DEIT3,
        "at 224 pixels",
        how=",finetune",
        needs=("--config.model.init_from=runs/FIRST_PART",),
    ),
    *_sizes(
        "deit3_i21k",
        "2204.07118",
        {"S/16": 83.1, "B/16": 85.7, "L/16": 87.0, "H/14": 87.2},
        _DEIT3,
        "after its second part, ',finetune'",
    ),
    *_sizes(
        "deit3_i21k",
        "2204.07118",
        {"S/16": 83.1, "B/16": 85.7, "L/16": 87.0, "H/14": 87.2},
        _DEIT3,
        "from ImageNet-21k, at 224 pixels",
        how=",finetune",
        needs=("--config.model.init_from=runs/FIRST_PART",),
    ),
    Entry(
        "distill_i1k:S/16",
        PATIENT,
        (
            Published(
                82.8,
                "big_vision, configs/proj/distill/README.md",
                not_comparable="of a ResNet-50 that learns from BiT-R152x2; here a ViT "
                "learns from a ViT",
            ),
        ),
        needs=_TEACHER,
    ),
    *_sizes("mae_i1k", MAE, {"B/16": 83.66}, _MAE, _LONG_MAE),
    Entry(
        "mae_i1k:L/16",
        MAE,
        (
            Published(
                85.5,
                "facebookresearch/mae, PRETRAIN.md",
                "fine-tuned, after 800 epochs",
            ),
            Published(85.95, _MAE, _LONG_MAE),
        ),
    ),
    *_sizes("mae_i1k", MAE, {"H/14": 86.93}, _MAE, _LONG_MAE),
    *_sizes(
        "mae_i1k",
        MAE,
        {"B/16": 67.8, "L/16": 76.0, "H/14": 77.2},
        "facebookresearch/mae, README",
        "linear probe, after --config.train.duration.epochs=1600",
        how=",probe",
    ),
    *_sizes(
        "mae_finetune_i1k",
        MAE,
        {"B/16": 83.66, "L/16": 85.95, "H/14": 86.93},
        _MAE,
        "pre-trained for 1,600 epochs",
        needs=("--config.model.init_from=runs/mae",),
    ),
    Entry(
        "masked_patch_i1k:B/16",
        VIT,
        (
            Published(
                79.9,
                "google-research/vision_transformer, issue 2",
                "fine-tuned, after 1M steps",
                not_comparable="pre-trained on JFT, which is not public",
            ),
        ),
    ),
    Entry(
        "simmim_i1k:B/16",
        "2111.09886",
        (
            Published(
                83.8,
                "microsoft/SimMIM, README",
                "fine-tuned at 224 pixels, after 800 epochs",
            ),
        ),
    ),
    *(
        Entry(
            f"aim_i1k:{size}",
            AIM,
            tuple(
                Published(
                    value,
                    _AIM,
                    "with an attention probe",
                    not_comparable="pre-trained on two billion images, DFN-2B+",
                )
                for value in figures
            ),
            note="" if figures else "no figure of this size is recorded here",
        )
        for size, figures in {
            "AIM-600M": (79.4,),
            "AIM-1B": (),
            "AIM-3B": (),
            "AIM-7B": (84.0,),
        }.items()
    ),
    _transfer("imagenet2012", 83.27, "ImageNet-1k"),
    _transfer("cifar10", 98.55, "CIFAR-10"),
    _transfer("cifar100", 91.35, "CIFAR-100"),
    _transfer("oxford_iiit_pet", 93.78, "Oxford-IIIT Pets"),
    _transfer("oxford_flowers102", 99.43, "Oxford Flowers-102"),
    Entry("digits", "", topologies=SMALL),
    Entry("aim_digits", AIM, topologies=SMALL),
    *(
        Entry(
            f"distill_digits:{kind}",
            paper,
            needs=("--config.objective.teacher.path=runs/digits",),
            planned_with=("objective.teacher.path=", "objective.teacher.variant=mu/2"),
            topologies=SMALL,
        )
        for kind, paper in {"matching": PATIENT, "deit": DEIT}.items()
    ),
    *(
        Entry(f"fashion:{kind}", paper, topologies=SMALL)
        for kind, paper in {
            "supervised": "",
            "mae": MAE,
            "masked_patch": VIT,
            "aim": AIM,
            "random": "",
            "few": "",
            "student": "",
        }.items()
    ),
    Entry(
        "fashion:distill",
        PATIENT,
        needs=("--config.objective.teacher.path=runs/fashion",),
        planned_with=("objective.teacher.path=", "objective.teacher.variant=mu/7"),
        topologies=SMALL,
    ),
    Entry(
        "transfer:digits",
        VIT,
        needs=("--config.model.init_from=runs/digits",),
        # The model of configs/digits.py.
        planned_with=(
            "model.variant=mu/2",
            "model.width=64",
            "model.depth=4",
            "model.num_heads=4",
            "model.channels=1",
            "data.mean=(0.5,)",
            "data.std=(0.5,)",
        ),
        topologies=SMALL,
    ),
)
