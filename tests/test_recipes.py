"""The shipped recipes: published values, and models that build at their real size."""

from pathlib import Path

import jax
import pytest
from flax import nnx

from vit_jax import config as configs
from vit_jax import objectives
from vit_jax.data.facts import DatasetFacts, split_size
from vit_jax.models import vit

FOLDER = Path(__file__).resolve().parents[1] / "configs"
PARTS = {"base", "durations", "evaluators", "objectives", "optimizers"}
NAMES = sorted({file.stem for file in FOLDER.glob("*.py")} - PARTS)
IMAGENET = DatasetFacts(
    *("imagenet2012", "", "", "array_record"),
    splits={"train": 1_281_167, "validation": 50_000},
    shards={},
    num_classes=1000,
    class_names=None,
    features=("image", "label"),
)
I21K = ("Ti/16", "S/32", "S/16", "B/32", "B/16", "L/16")
SPECS = [
    *(name for name in NAMES if name != "transfer"),  # its model is in some weights
    "digits:Ti/2",
    *(f"vit_i21k:{size}" for size in I21K),
    "vit_g_i21k:G/14",
    *(f"mae_i1k:{size}" for size in ("B/16", "H/14", "B/16,probe")),
    *(f"vit_paper:{arg}" for arg in ("i21k,L/16", "jft,H/14")),
    "mae_finetune_i1k:H/14",
    *("deit3_i21k:H/14", "deit3_i21k:H/14,finetune"),
    *(f"deit_i1k:{size}" for size in ("Ti/16", "B/16", "S/16,distilled")),
    *(f"deit3_i1k:{size}" for size in ("S/16", "L/16", "H/14", "H/14,finetune")),
]


def load(spec):
    name, _, arg = spec.partition(":")
    return configs.load(f"{FOLDER / name}.py" + (f":{arg}" if arg else ""))


def build(config):
    settings = {key: config.model[key] for key in config.model if key != "init_from"}
    return objectives.build(
        config.objective.to_dict(),
        encoder=vit.build(key=jax.random.key(0), **settings),
        key=jax.random.key(1),
        mean=config.data.mean,
        std=config.data.std,
    )


@pytest.mark.parametrize("spec", SPECS)
def test_builds_and_predicts_at_its_real_size(spec):
    config = load(spec)
    objective = nnx.eval_shape(lambda: build(config))
    shape = (2, *config.model.image_size, config.model.channels)
    out = nnx.eval_shape(
        lambda model, images: model.predict(images),
        objective,
        jax.ShapeDtypeStruct(shape, "float32"),
    )
    width = objective.encoder.settings.num_features
    assert out["features"].shape == (2, width)
    if objective.has_logits:
        assert out["logits"].shape == (2, config.model.num_classes)
    else:
        assert "logits" not in out and config.model.num_classes == 0


@pytest.mark.parametrize("spec", SPECS)
def test_has_no_problems_on_eight_devices(spec):
    assert configs.check(load(spec), facts=None, num_devices=8) == []


def test_vit_s16_i1k():
    """big_vision's configs/vit_s16_i1k.py; its weight decay 1e-4 over its rate 1e-3."""
    config = load("vit_s16_i1k")
    assert config.train.batch_size == 1024
    assert config.train.duration.epochs == 90
    assert config.optim.to_dict() == {
        "name": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": pytest.approx(1e-4 / 1e-3),
        "decay_mask": "kernels",
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "mu_dtype": "bfloat16",
        "nu_dtype": "float32",
        "clip_norm": 1.0,
        "layer_decay": 1.0,
    }
    assert config.schedule.name == "cosine"
    assert config.schedule.warmup.steps == 10_000
    assert config.schedule.final == 0
    augment = config.data.augment
    assert (augment.crop, augment.area, augment.flip) == ("inception", (0.05, 1), True)
    assert augment.policy == "randaugment"
    assert (augment.randaugment_layers, augment.randaugment_magnitude) == (2, 10)
    assert augment.mixup == 0.2
    assert config.objective.to_dict() == {
        "name": "supervised",
        "loss": "softmax",
        "label_smoothing": 0.0,
        "class_weights": (),
        "threshold": None,
    }
    model = config.model
    assert (model.variant, model.pool, model.position) == ("S/16", "gap", "sincos2d")
    assert (model.pre_logits, model.head_bias, model.num_classes) == (-1, 0, 1000)
    assert config.data.split == "train[:99%]"
    assert config.evals.minival.split == "train[99%:]"
    assert config.evals.val.split == "validation"
    assert config.evals.val.resize == 256
    assert config.checkpoint.best == "minival/accuracy"


@pytest.mark.parametrize(
    ("variant", "layers", "magnitude", "mixup"),
    [
        ("Ti/16", 0, 0, 0),
        ("S/32", 0, 0, 0),
        ("S/16", 2, 0, 0),
        ("B/32", 2, 10, 0.2),
        ("B/16", 2, 10, 0.2),
        ("L/16", 2, 15, 0.5),
    ],
)
def test_vit_i21k(variant, layers, magnitude, mixup):
    """big_vision's configs/vit_i21k.py."""
    config = load(f"vit_i21k:{variant}")
    assert config.model.variant == variant
    augment = config.data.augment
    assert augment.policy == ("randaugment" if layers else "none")
    assert augment.randaugment_layers == layers
    assert augment.randaugment_magnitude == magnitude
    assert augment.mixup == mixup
    assert (augment.crop, augment.flip) == ("inception", True)
    assert config.train.batch_size == 4096
    assert config.train.duration.epochs == 300
    assert config.schedule.name == "cosine"
    assert config.schedule.warmup.steps == 10_000
    assert (config.optim.learning_rate, config.optim.weight_decay) == (1e-3, 0.1)
    assert (config.optim.mu_dtype, config.optim.clip_norm) == ("bfloat16", 1.0)
    assert (config.objective.loss, config.model.head_bias) == ("sigmoid", -10)
    assert (config.model.pool, config.model.position) == ("gap", "learned")
    assert (config.model.pre_logits, config.model.num_classes) == (0, 21_843)


def test_vit_i21k_knows_its_sizes():
    assert load("vit_i21k").model.variant == "B/16"
    with pytest.raises(configs.ConfigError, match="no published level for 'H/14'"):
        load("vit_i21k:H/14")


def test_digits():
    config = load("digits")
    assert (config.data.name, config.data.split) == ("digits", "train")
    assert (config.evals.val.split, config.evals.val.resize) == ("test", 0)
    assert (config.model.image_size, config.model.channels) == ((8, 8), 1)
    assert config.data.augment.flip is False
    assert config.model.dtype == "float32"
    assert load("digits:Ti/2").model.width is None


@pytest.mark.parametrize(
    ("dataset", "steps", "warmup", "learning_rate", "crop"),
    [
        ("imagenet2012", 20_000, 500, 0.03, "inception"),
        ("cifar10", 10_000, 500, 0.003, "random"),
        ("cifar100", 10_000, 500, 0.01, "random"),
        ("oxford_iiit_pet", 500, 100, 0.003, "inception"),
        ("oxford_flowers102", 500, 100, 0.003, "inception"),
    ],
)
def test_transfer(dataset, steps, warmup, learning_rate, crop):
    """big_vision's configs/transfer.py: its header's best values for AugReg B/32."""
    config = load(f"transfer:{dataset}")
    assert config.model.variant == "source" and config.model.image_size == (384, 384)
    assert config.train.batch_size == 512
    assert config.train.duration.steps == steps
    assert config.schedule.name == "cosine"
    assert config.schedule.warmup.steps == warmup
    assert config.schedule.final == 0.0
    assert config.optim.name == "sgd" and config.optim.momentum == 0.9
    assert config.optim.learning_rate == learning_rate
    assert config.optim.weight_decay == 0.0 and config.optim.clip_norm == 1.0
    assert config.objective.loss == "softmax" and config.model.head_bias == 0.0
    assert config.data.augment.crop == crop
    assert config.data.augment.resize == (448, 448) and config.data.augment.flip
    assert config.data.augment.mixup == 0.0
    assert config.data.augment.policy == "none"
    assert config.evals.val.resize == 448
    problems = configs.check(config, facts=None, num_devices=8)
    assert len(problems) == 1 and "model.init_from" in problems[0]


def test_transfer_names_its_data_sets():
    with pytest.raises(ValueError, match=r"'mnist' is unknown; known: imagenet2012"):
        load("transfer:mnist")


def test_vit_g_i21k():
    """big_vision's train_vit_g.py; decay of the head is a hundred times the body's."""
    config = load("vit_g_i21k:G/14")
    assert (config.model.variant, config.model.pool) == ("G/14", "map")
    assert config.optim.name == "adafactor"
    assert (config.optim.weight_decay, config.optim.head_weight_decay) == (0.03, 3.0)
    assert (config.optim.learning_rate, config.optim.clip_norm) == (8e-4, 1.0)
    schedule = config.schedule
    assert (schedule.name, schedule.timescale) == ("rsqrt", 10_000)
    assert (schedule.warmup.steps, schedule.cooldown.steps) == (10_000, 50_000)
    assert config.train.batch_size == 16_384
    assert config.train.duration.steps == 1_000_000


def without_labels(config, **optim):
    """What pre-training by masks has in common, and AdamW's settings."""
    assert config.model.num_classes == 0 and not config.evals
    assert config.checkpoint.best == ""
    assert (config.data.augment.crop, config.data.augment.flip) == ("inception", True)
    assert (config.data.augment.policy, config.data.augment.mixup) == ("none", 0)
    assert (config.schedule.name, config.schedule.final) == ("cosine", 0)
    known = dict(name="adamw", b1=0.9, eps=1e-8, layer_decay=1.0) | optim
    assert {key: config.optim[key] for key in known} == known


@pytest.mark.parametrize(
    ("variant", "width", "masked"), [("B/16", 768, 147), ("L/16", 1024, 147)]
)
def test_mae_i1k(variant, width, masked):
    """facebookresearch/mae, PRETRAIN.md, main_pretrain.py and models_mae.py."""
    config = load(f"mae_i1k:{variant}")
    without_labels(
        config,
        learning_rate=pytest.approx(2.4e-3),  # 1.5e-4 for 256 images
        weight_decay=0.05,
        decay_mask="matrices",
        b2=0.95,
        clip_norm=0.0,
    )
    assert config.train.batch_size == 4096
    assert config.train.duration.epochs == 800
    assert config.schedule.warmup.epochs == 40
    assert config.data.augment.area == (0.2, 1)
    assert config.data.mean == (0.485, 0.456, 0.406)
    assert config.data.std == (0.229, 0.224, 0.225)
    model = config.model
    assert (model.pool, model.position) == ("cls", "sincos2d_mae")
    assert (model.activation, model.norm_epsilon) == ("gelu", 1e-6)
    assert config.objective.to_dict() == {
        "name": "mae",
        "mask_rate": 0.75,
        "norm_pixels": True,
        "decoder_width": 512,
        "decoder_depth": 8,
        "decoder_heads": 16,
        "decoder_position": "sincos2d_mae",
    }
    objective = nnx.eval_shape(lambda: build(config))
    assert (objective.encoder.width, objective.num_masked) == (width, masked)
    assert objective.decoder.mlp_dim == 2048


def test_mae_i1k_knows_its_sizes():
    assert load("mae_i1k").model.variant == "L/16"
    with pytest.raises(configs.ConfigError, match="no published recipe for 'S/16'"):
        load("mae_i1k:S/16")


def test_masked_patch_i1k():
    """ViT paper, appendix B.1.2; the decay is that of its other pre-training."""
    config = load("masked_patch_i1k")
    without_labels(config, learning_rate=2e-4, weight_decay=0.1, b2=0.999)
    assert config.train.batch_size == 4096
    assert config.train.duration.steps == 1_000_000
    assert config.schedule.warmup.steps == 10_000
    assert config.data.augment.area == (0.05, 1)
    assert config.objective.to_dict() == {
        "name": "masked_patch",
        "target": "mean_colour",
        "mask_rate": 0.5,
        "mask_unit": 0,
        "hidden_rate": 0.8,
        "swapped_rate": 0.1,
    }
    assert (config.model.variant, config.model.position) == ("B/16", "learned_cls")
    objective = nnx.eval_shape(lambda: build(config))
    assert (objective.num_masked, objective.num_outputs) == (98, 512)


def test_simmim_i1k():
    """microsoft/SimMIM, simmim_pretrain__vit_base__img224__800ep.yaml, config.py."""
    config = load("simmim_i1k")
    without_labels(
        config,
        learning_rate=pytest.approx(4e-4),  # 1e-4 for 512 images
        weight_decay=0.05,
        decay_mask="kernels",
        b2=0.999,
        clip_norm=5.0,
    )
    assert config.train.batch_size == 2048
    assert config.train.duration.epochs == 800
    assert config.schedule.warmup.epochs == 10
    assert config.data.augment.area == (0.67, 1)
    assert config.data.mean == (0.485, 0.456, 0.406)
    model = config.model
    assert (model.variant, model.layer_scale, model.drop_path) == ("B/16", 0.1, 0.1)
    objective = nnx.eval_shape(lambda: build(config))
    assert objective.target == "pixels_l1"
    # ceil(0.6 * 49) squares of 2 x 2 patches; 16 x 16 x 3 pixels each.
    assert (objective.unit, objective.num_masked) == ((2, 2), 120)
    assert objective.num_outputs == 768


def imagenet_steps(config):
    """Total and warmup steps on ImageNet-1k's 1,281,167 training images."""
    examples = split_size(IMAGENET, config.data.split)
    return tuple(
        configs.resolve_duration(
            section, batch_size=config.train.batch_size, num_examples=examples
        )
        for section in (config.train.duration, config.schedule.warmup)
    )


@pytest.mark.parametrize("size", ["Ti/16", "S/16", "B/16"])
@pytest.mark.parametrize("how", ["", ",distilled"])
def test_deit_i1k(size, how):
    """facebookresearch/deit: the defaults of main.py, and arXiv 2012.12877, table 9."""
    config = load(f"deit_i1k:{size}{how}")
    model, augment = config.model, config.data.augment
    assert (model.variant, model.image_size) == (size, (224, 224))
    assert (model.pool, model.position, model.activation) == (
        *("cls", "learned_cls", "gelu"),
    )
    assert (model.drop_path, model.norm_epsilon, model.num_classes) == (0.1, 1e-6, 1000)
    assert (model.layer_scale, model.pre_logits, model.head_bias) == (0, 0, 0)
    assert config.train.batch_size == 1024
    assert imagenet_steps(config) == (375_342, 6256)
    assert config.optim.name == "adamw"
    assert config.optim.learning_rate == 5e-4 * 1024 / 512
    assert (config.optim.weight_decay, config.optim.eps) == (0.05, 1e-8)
    assert (config.optim.clip_norm, config.optim.decay_mask) == (0, "kernels")
    assert config.schedule.name == "cosine"
    peak = config.optim.learning_rate
    assert config.schedule.final * peak == pytest.approx(1e-5)
    assert config.train.ema == 0.99996
    assert (augment.crop, augment.area, augment.flip) == ("inception", (0.08, 1), True)
    assert augment.policy == "randaugment" and augment.color_jitter == 0
    assert (augment.randaugment_layers, augment.randaugment_magnitude) == (2, 9)
    assert (augment.mixup, augment.cutmix) == (0.8, 1.0)
    assert (augment.mix_prob, augment.mix_switch, augment.mix_per) == (1, 0.5, "batch")
    assert (augment.erase, augment.erase_fill) == (0.25, "noise")
    assert augment.repeats == 4  # three do not divide the batch
    assert config.data.mean == (0.485, 0.456, 0.406)
    assert config.data.std == (0.229, 0.224, 0.225)
    assert config.evals.val.resize == 256  # 224 / 0.875
    objective = config.objective
    assert (objective.loss, objective.label_smoothing) == ("softmax", 0.1)
    assert objective.name == ("distillation" if how else "supervised")
    assert model.distillation == ("head" if how else "none")
    if how:
        assert (objective.match, objective.alpha, objective.temperature) == (
            *("hard", 0.5, 1.0),
        )
        assert objective.token and objective.teacher.variant == "B/16"


@pytest.mark.parametrize(
    ("size", "pixels", "drop_path", "rate"),
    [
        ("S/16", 224, 0.05, 4e-3),
        ("B/16", 192, 0.2, 3e-3),
        ("L/16", 192, 0.45, 3e-3),
        ("H/14", 154, 0.6, 3e-3),  # of their 160 pixels 11 patches of 14 cover 154
    ],
)
def test_deit3_i1k(size, pixels, drop_path, rate):
    """facebookresearch/deit, README_revenge.md: the commands for ImageNet-1k."""
    config = load(f"deit3_i1k:{size}")
    model, augment = config.model, config.data.augment
    assert (model.variant, model.image_size) == (size, (pixels, pixels))
    assert (model.pool, model.position, model.activation) == ("cls", "learned", "gelu")
    assert (model.layer_scale, model.drop_path) == (1e-4, drop_path)
    assert config.train.batch_size == 2048
    assert imagenet_steps(config) == (500_456, 3128)
    assert (config.optim.name, config.optim.learning_rate) == ("lamb", rate)
    assert (config.optim.weight_decay, config.optim.trust_mask) == (0.05, "kernels")
    # Their loss is the mean over 1,000 classes, ours the sum: 1 and 1e-8 of theirs.
    assert config.optim.clip_norm == 1000.0
    assert config.optim.eps == pytest.approx(1e-5)
    assert config.schedule.name == "cosine"
    assert config.schedule.final * rate == pytest.approx(1e-5)
    assert config.train.ema == 0
    assert (augment.crop, augment.area, augment.flip) == ("inception", (0.08, 1), True)
    assert (augment.policy, augment.color_jitter) == ("three_augment", 0.3)
    assert (augment.mixup, augment.cutmix, augment.erase) == (0.8, 1.0, 0.0)
    objective = config.objective
    assert (objective.loss, objective.threshold) == ("sigmoid", 0.0)
    assert objective.label_smoothing == 0.0
    assert config.evals.val.resize == pixels  # a crop ratio of 1


@pytest.mark.parametrize(
    ("size", "drop_path"), [("B/16", 0.2), ("L/16", 0.45), ("H/14", 0.55)]
)
def test_deit3_i1k_at_224_pixels(size, drop_path):
    """facebookresearch/deit, README_revenge.md: "finetuning for ViT-B, L and H"."""
    config = load(f"deit3_i1k:{size},finetune")
    model, augment = config.model, config.data.augment
    assert (model.variant, model.image_size) == (size, (224, 224))
    assert (model.layer_scale, model.drop_path) == (1e-4, drop_path)
    assert config.train.batch_size == 512
    assert imagenet_steps(config) == (50_046, 12_511)
    assert (config.optim.name, config.optim.learning_rate) == ("adamw", 1e-5)
    assert (config.optim.weight_decay, config.optim.clip_norm) == (0.1, 0)
    assert config.schedule.final == 1.0
    assert augment.policy == "randaugment" and augment.repeats == 1
    assert (augment.randaugment_layers, augment.randaugment_magnitude) == (2, 9)
    assert (augment.mixup, augment.cutmix, augment.erase) == (0.8, 1.0, 0.0)
    objective = config.objective
    assert (objective.loss, objective.label_smoothing) == ("softmax", 0.1)
    assert objective.threshold is None


def test_distill_i1k():
    """big_vision's configs/proj/distill/bit_i1k.py, but for the rate: a ViT's."""
    config = load("distill_i1k")
    objective, augment = config.objective, config.data.augment
    assert (objective.name, objective.match) == ("distillation", "soft")
    assert (objective.alpha, objective.temperature) == (1.0, 1.0)
    assert not objective.token and objective.teacher.variant == "B/16"
    assert config.train.batch_size == 4096
    assert imagenet_steps(config) == (367_835, 5000)
    assert config.optim.learning_rate == 1e-3
    # Theirs is taken off at each step, whatever the rate: 3e-4.
    decay = config.optim.learning_rate * config.optim.weight_decay
    assert decay == pytest.approx(3e-4)
    assert (config.optim.mu_dtype, config.optim.clip_norm) == ("bfloat16", 1.0)
    assert (config.schedule.name, config.schedule.final) == ("cosine", 0)
    assert (augment.crop, augment.area, augment.flip) == ("inception", (0.05, 1), True)
    assert (augment.mixup, augment.cutmix, augment.policy) == (1.0, 0.0, "none")
    assert config.data.split == "train[:98%]"
    assert load("distill_i1k:Ti/16").model.variant == "Ti/16"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("deit_i1k:L/16", r"no recipe for 'L/16'; known: Ti/16\[,distilled\], S/16"),
        ("deit_i1k:S/16,soft", "no recipe for 'S/16,soft'"),
        ("deit3_i1k:S/16,finetune", "known: S/16, B/16, L/16, H/14, B/16,finetune"),
    ],
)
def test_recipes_know_their_sizes(spec, message):
    with pytest.raises(configs.ConfigError, match=message):
        load(spec)
