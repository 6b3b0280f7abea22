"""Every recipe against one table, typed from what is published and not from configs/.

Where the numbers come from: big_vision's configs (vit_s16_i1k, vit_i1k, vit_i21k,
train_vit_g, transfer, proj/distill/bit_i1k), arXiv 2010.11929 tables 3 and 4 and
B.1.2, 2106.10270, 2012.12877 table 9, facebookresearch/deit README_revenge.md,
facebookresearch/mae PRETRAIN.md and FINETUNE.md, microsoft/SimMIM, arXiv 2401.08541.

Images: ImageNet-1k 1,281,167 (99 % of them 1,268,355; 98 % 1,255,544), ImageNet-21k
14,145,922 and JFT 302,948,800 without the 51,200 held out. Steps are epochs * images /
batch, rounded. Decay is AdamW's: big_vision's, which the rate does not multiply, over
the rate.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
import pytest

from tests.test_recipes import NAMES, load
from vit_jax import setup
from vit_jax.data.facts import split_size
from vit_jax.plan.program import describe


class Row(NamedTuple):
    batch: int
    steps: int
    warmup: int
    optimizer: str
    rate: Any  # peak
    decay: Any  # a multiple of the rate
    schedule: str
    policy: Any = ()  # RandAugment's layers and magnitude, or a name
    mixup: float = 0.0
    cutmix: float = 0.0
    erase: float = 0.0
    bias: float = 0.0  # of the head, at the start
    drop_path: float = 0.0
    dropout: float = 0.0
    smoothing: float = 0.0
    end: Any = 0.0  # last rate


BIG_VISION: Any = dict(warmup=10_000, optimizer="adamw", rate=1e-3, schedule="cosine")
S16: Any = dict(batch=1024, decay=1e-4 / 1e-3, policy=(2, 10), mixup=0.2, **BIG_VISION)
I1K: Any = dict(batch=4096, steps=92_897, decay=1e-4 / 1e-3, bias=-6.9, **BIG_VISION)
I21K: Any = dict(
    batch=4096, steps=1_036_078, decay=1e-4 / 1e-3, bias=-10.0, **BIG_VISION
)
STRONG: Any = dict(mixup=0.8, cutmix=1.0)
PAPER: Any = dict(batch=4096, warmup=10_000, optimizer="adamw")
PAPER_I1K: Any = dict(
    steps=93_835, rate=3e-3, decay=0.3, dropout=0.1, bias=-6.9, **PAPER
)
PAPER_I21K: Any = dict(
    rate=1e-3, decay=0.03, dropout=0.1, bias=-10.0, end=1e-5, **PAPER
)
PAPER_JFT: Any = dict(decay=0.1, bias=-10.0, end=1e-5, schedule="linear", **PAPER)
DEIT: Any = dict(
    **dict(batch=1024, steps=375_342, warmup=6_256, optimizer="adamw", rate=1e-3),
    **dict(decay=0.05, schedule="cosine", policy=(2, 9), erase=0.25, end=1e-5),
    **dict(drop_path=0.1, smoothing=0.1, **STRONG),
)
DEIT3: Any = dict(
    **dict(batch=2048, steps=500_456, warmup=3_128, optimizer="lamb", decay=0.05),
    **dict(schedule="cosine", policy="three_augment", end=1e-5, **STRONG),
)
DEIT3_TUNED: Any = dict(
    **dict(batch=512, steps=50_046, warmup=12_511, optimizer="adamw", rate=1e-5),
    **dict(decay=0.1, schedule="cosine", policy=(2, 9), smoothing=0.1, end=1e-5),
    **STRONG,
)
DEIT3_I21K: Any = dict(
    **dict(batch=2048, warmup=34_536, optimizer="lamb", rate=1e-3, decay=0.02),
    **dict(schedule="cosine", policy="three_augment", cutmix=1.0, smoothing=0.1),
    end=1e-5,
)
DEIT3_I21K_TUNED: Any = DEIT3_I21K | dict(steps=31_278, warmup=3_128, rate=3e-4)
MAE: Any = dict(
    **dict(batch=4096, steps=250_228, warmup=12_511, optimizer="adamw", rate=2.4e-3),
    **dict(decay=0.05, schedule="cosine"),
)
MAE_TUNED: Any = dict(
    **dict(batch=1024, warmup=6_256, optimizer="adamw", decay=0.05, schedule="cosine"),
    **dict(policy=(2, 9), erase=0.25, smoothing=0.1, end=1e-6, **STRONG),
)
AIM = Row(4096, 500_000, 31_250, "adamw", 1e-3, 0.05, "cosine")
G = Row(16_384, 1_000_000, 10_000, "adafactor", 8e-4, 3.0, "rsqrt", bias=-10.0)
SGD: Any = dict(batch=512, optimizer="sgd", decay=0.0, schedule="cosine")

TABLE = {
    "vit_s16_i1k": Row(steps=111_477, **S16),
    "vit_s16_i1k:150": Row(steps=185_794, **S16),
    "vit_s16_i1k:300": Row(steps=371_588, **S16),
    "vit_s16_i1k:S/16,300": Row(steps=371_588, **S16),
    "vit_i1k:Ti/16": Row(policy=(2, 0), **I1K),
    "vit_i1k:S/32": Row(policy=(2, 15), mixup=0.2, **I1K),
    "vit_i1k:S/16": Row(policy=(2, 15), mixup=0.5, **I1K),
    "vit_i1k:B/32": Row(policy=(2, 15), mixup=0.5, **I1K),
    "vit_i1k": Row(policy=(2, 15), mixup=0.5, **I1K),
    "vit_i1k:L/16": Row(policy=(2, 15), mixup=0.5, **I1K),
    "vit_i1k:B/16,aug_strong2,wd_0.03,do_0.1,sd_0.1": Row(
        **I1K | dict(decay=0.03, policy=(2, 20), mixup=0.8, dropout=0.1, drop_path=0.1)
    ),
    "vit_i21k:Ti/16": Row(**I21K),
    "vit_i21k:S/32": Row(**I21K),
    "vit_i21k:S/16": Row(policy=(2, 0), **I21K),
    "vit_i21k:B/32": Row(policy=(2, 10), mixup=0.2, **I21K),
    "vit_i21k": Row(policy=(2, 10), mixup=0.2, **I21K),
    "vit_i21k:L/16": Row(policy=(2, 15), mixup=0.5, **I21K),
    "vit_i21k:B/16,aug_none": Row(**I21K),
    "vit_i21k:B/16,aug_light1": Row(policy=(2, 0), **I21K),
    "vit_i21k:L/16,aug_light2": Row(policy=(2, 10), mixup=0.2, **I21K),
    "vit_i21k:B/16,aug_medium1": Row(policy=(2, 15), mixup=0.2, **I21K),
    "vit_i21k:B/16,aug_medium2": Row(policy=(2, 15), mixup=0.5, **I21K),
    "vit_i21k:B/16,aug_strong1": Row(policy=(2, 20), mixup=0.5, **I21K),
    "vit_i21k:B/16,aug_strong2,sd_0.1": Row(
        policy=(2, 20), mixup=0.8, drop_path=0.1, **I21K
    ),
    "vit_paper": Row(schedule="cosine", **PAPER_I1K),
    "vit_paper:i1k,L/32": Row(schedule="cosine", **PAPER_I1K),
    "vit_paper:i21k,B/16": Row(steps=310_823, schedule="linear", **PAPER_I21K),
    "vit_paper:i21k,L/16": Row(steps=310_823, schedule="linear", **PAPER_I21K),
    "vit_paper:i21k,L/16,30": Row(steps=103_608, schedule="linear", **PAPER_I21K),
    "vit_paper:jft,B/16": Row(steps=517_735, rate=8e-4, **PAPER_JFT),
    "vit_paper:jft,L/32": Row(steps=517_735, rate=6e-4, **PAPER_JFT),
    "vit_paper:jft,L/16": Row(steps=1_035_470, rate=4e-4, **PAPER_JFT),
    "vit_paper:jft,L/16,7": Row(steps=517_735, rate=4e-4, **PAPER_JFT),
    "vit_paper:jft,H/14": Row(steps=1_035_470, rate=3e-4, **PAPER_JFT),
    "vit_g_i21k": G,
    "vit_g_i21k:G/14": G,
    "deit_i1k:Ti/16": Row(**DEIT),
    "deit_i1k": Row(**DEIT),
    "deit_i1k:B/16": Row(**DEIT),
    "deit_i1k:S/16,distilled": Row(**DEIT),
    "deit3_i1k:S/16": Row(rate=4e-3, drop_path=0.05, **DEIT3),
    "deit3_i1k": Row(rate=3e-3, drop_path=0.2, **DEIT3),
    "deit3_i1k:L/16": Row(rate=3e-3, drop_path=0.45, **DEIT3),
    "deit3_i1k:H/14": Row(rate=3e-3, drop_path=0.6, **DEIT3),
    "deit3_i1k:B/16,finetune": Row(drop_path=0.2, **DEIT3_TUNED),
    "deit3_i1k:L/16,finetune": Row(drop_path=0.45, **DEIT3_TUNED),
    "deit3_i1k:H/14,finetune": Row(drop_path=0.55, **DEIT3_TUNED),
    "deit3_i21k:S/16": Row(steps=1_657_725, drop_path=0.05, **DEIT3_I21K),
    "deit3_i21k": Row(steps=1_657_725, drop_path=0.1, **DEIT3_I21K),
    "deit3_i21k:L/16": Row(steps=1_657_725, drop_path=0.3, **DEIT3_I21K),
    "deit3_i21k:H/14": Row(steps=621_647, drop_path=0.5, **DEIT3_I21K),
    "deit3_i21k:S/16,finetune": Row(drop_path=0.05, **DEIT3_I21K_TUNED),
    "deit3_i21k:B/16,finetune": Row(drop_path=0.15, **DEIT3_I21K_TUNED),
    "deit3_i21k:L/16,finetune": Row(drop_path=0.4, **DEIT3_I21K_TUNED),
    "deit3_i21k:H/14,finetune": Row(drop_path=0.45, **DEIT3_I21K_TUNED),
    "distill_i1k": Row(
        *(4096, 367_835, 5_000, "adamw", 1e-3, 3e-4 / 1e-3, "cosine"), mixup=1.0
    ),
    "mae_i1k:B/16": Row(**MAE),
    "mae_i1k": Row(**MAE),
    "mae_i1k:H/14": Row(**MAE),
    "mae_i1k:L/16,probe": Row(**MAE),
    "mae_finetune_i1k": Row(steps=125_114, rate=2e-3, drop_path=0.1, **MAE_TUNED),
    "mae_finetune_i1k:L/16": Row(steps=62_557, rate=4e-3, drop_path=0.2, **MAE_TUNED),
    "mae_finetune_i1k:H/14": Row(steps=62_557, rate=4e-3, drop_path=0.3, **MAE_TUNED),
    "masked_patch_i1k": Row(4096, 1_000_000, 10_000, "adamw", 2e-4, 0.1, "cosine"),
    "simmim_i1k": Row(
        *(2048, 500_456, 6_256, "adamw", 4e-4, 0.05, "cosine"), drop_path=0.1
    ),
    "aim_i1k": AIM,
    "aim_i1k:AIM-7B": AIM,
    "transfer:imagenet2012": Row(steps=20_000, warmup=500, rate=0.03, **SGD),
    "transfer": Row(steps=10_000, warmup=500, rate=0.003, **SGD),
    "transfer:cifar100": Row(steps=10_000, warmup=500, rate=0.01, **SGD),
    "transfer:oxford_iiit_pet": Row(steps=500, warmup=100, rate=0.003, **SGD),
    "transfer:oxford_flowers102": Row(steps=500, warmup=100, rate=0.003, **SGD),
}
OURS = {"aim_digits", "digits", "distill_digits", "fashion"}  # nothing published


def test_no_recipe_is_left_out():
    assert {spec.partition(":")[0] for spec in TABLE} == set(NAMES) - OURS


@pytest.mark.parametrize("spec", TABLE)
def test_as_published(spec):
    config, row = load(spec), TABLE[spec]
    optim = config.optim
    steps = setup.resolve_steps(config, split_size(describe(config), config.data.split))
    augment, objective, model = config.data.augment, config.objective, config.model
    named = augment.policy != "randaugment"
    found = Row(
        batch=config.train.batch_size,
        steps=steps.total,
        warmup=steps.warmup,
        optimizer=optim.name,
        rate=pytest.approx(optim.learning_rate),
        decay=pytest.approx(optim.get("head_weight_decay", optim.weight_decay)),
        schedule=config.schedule.name,
        policy={"none": (), "randaugment": ()}.get(augment.policy, augment.policy)
        if named
        else (augment.randaugment_layers, augment.randaugment_magnitude),
        mixup=augment.mixup,
        cutmix=augment.cutmix,
        erase=augment.erase,
        bias=model.head_bias,
        drop_path=model.drop_path,
        dropout=model.dropout,
        smoothing=objective.get("label_smoothing", 0.0),
        end=pytest.approx(config.schedule.final * optim.learning_rate),
    )
    assert row == found


def decayed(config, rate):
    """What a step at the peak takes off a head's weight of 1 that has no gradient."""
    steps = setup.Steps(10, 0, 0, 1, 1, {})
    tx, _ = setup.build_optimizer(config, steps)
    params = {
        "encoder": {
            "blocks": {"mlp": {"hidden": {"kernel": jnp.ones((2, 40, 40))}}},
            "head": {"kernel": jnp.ones((40, 40)), "bias": jnp.ones(40)},
        }
    }
    zeros = optax.tree.zeros_like(params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    head = updates["encoder"]["head"]
    assert float(jnp.abs(head["bias"]).max()) == 0.0
    return -float(head["kernel"][0, 0]) / rate


@pytest.mark.parametrize(
    "spec",
    # One of each way to give it; LAMB's update has the size of the weight, whatever the
    # decay, so that it is compared as the config has it.
    [
        *("vit_s16_i1k", "vit_i1k", "vit_paper", "vit_g_i21k", "mae_i1k", "transfer"),
        *("mae_finetune_i1k", "deit_i1k", "distill_i1k", "aim_i1k", "masked_patch_i1k"),
    ],
)
def test_decay_is_a_multiple_of_the_rate(spec):
    config, row = load(spec), TABLE[spec]
    # Two roundings to float32.
    assert decayed(config, row.rate) == pytest.approx(row.decay, rel=3e-7, abs=0)


def test_decays_of_vit_g():
    assert load("vit_g_i21k").optim.weight_decay == 0.03  # the body's


@pytest.mark.parametrize(
    ("size", "layer_decay"), [("B/16", 0.65), ("L/16", 0.75), ("H/14", 0.75)]
)
def test_mae_finetune_i1k(size, layer_decay):
    """facebookresearch/mae, FINETUNE.md, and models_vit.py with --global_pool."""
    config = load(f"mae_finetune_i1k:{size}")
    model = config.model
    assert config.optim.layer_decay == layer_decay
    assert (config.optim.b1, config.optim.b2, config.optim.clip_norm) == (0.9, 0.999, 0)
    assert (model.pool, model.final_norm, model.cls_token) == ("gap", "features", True)
    assert config.evals.val.resize == 256  # 224 / 0.875


@pytest.mark.parametrize(("size", "epochs"), [("B/16", 90), ("L/16", 50), ("H/14", 50)])
def test_mae_linear_probe(size, epochs):
    """facebookresearch/mae, FINETUNE.md, linear probing."""
    probe = load(f"mae_i1k:{size},probe").evals.probe
    assert (probe.name, probe.optimizer) == ("linear_probe", "lars")
    assert (probe.learning_rate, probe.weight_decay) == (0.1, 0.0)  # for 256 images
    assert (probe.epochs, probe.warmup_epochs) == (epochs, 10)
    assert (probe.train_batch_size, probe.augment) == (16_384, True)
    assert not load(f"mae_i1k:{size}").evals


@pytest.mark.parametrize(
    ("spec", "pool", "position", "pre_logits"),
    [
        ("vit_i1k", "cls", "learned", -1),
        ("vit_paper:i1k,B/16", "cls", "learned_cls", -1),
        ("vit_paper:jft,H/14", "cls", "learned_cls", -1),
        ("deit3_i21k", "cls", "learned", 0),
    ],
)
def test_heads_and_positions(spec, pool, position, pre_logits):
    model = load(spec).model
    assert (model.pool, model.position, model.pre_logits) == (
        *(pool, position, pre_logits),
    )


@pytest.mark.parametrize(("data", "clip"), [("i1k", 1.0), ("i21k", 0.0), ("jft", 0.0)])
def test_the_paper_clips_on_imagenet_alone(data, clip):
    assert load(f"vit_paper:{data},B/16").optim.clip_norm == clip


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vit_i1k:H/14", "no published level for 'H/14'; known: Ti/16"),
        ("vit_i21k:B/16,aug_huge", r"'aug_huge' is not of AugReg's grid: aug_none \|"),
        ("vit_i21k:B/16,wd_0.3", r"wd_0.1 \| 0.03"),
        ("vit_paper:jft,B/16,14", r"known: i1k,B/16.*jft,L/16\[,7\]"),
        ("vit_paper:B/16", "no recipe for 'B/16'"),
        ("vit_s16_i1k:S/16,B/16", r"known: 90, 150, 300 \(epochs\)"),
        ("mae_finetune_i1k:S/16", "known: B/16, L/16, H/14"),
        ("mae_i1k:B/16,tune", r"known: B/16\[,probe\]"),
        ("deit3_i21k:M/16", r"known: S/16\[,finetune\]"),
        ("deit3_i21k:B/16,", "no recipe for 'B/16,'"),
    ],
)
def test_arguments(spec, message):
    with pytest.raises(ValueError, match=message):
        load(spec)
