"""Loading, overriding, checking and comparing configs."""

import json
import subprocess
import sys

import pytest

from vit_jax import config as configs
from vit_jax.config import ConfigError, load, resolve_duration
from vit_jax.data.facts import DatasetFacts

UNSET = {"epochs": None, "steps": None, "examples": None}
DIGITS = "configs/digits.py"
FACTS = DatasetFacts(
    name="digits",
    path="",
    version="1.0.0",
    file_format="array_record",
    splits={"train": 1438, "test": 359},
    shards={},
    num_classes=10,
    class_names=None,
    features=("image", "label"),
)

HEADER = (
    "from configs import base\ndef get_config({arg}):\n    config = base.get_config()\n"
)


def write(folder, *lines, arg="", name="mine"):
    """A config file in a configs/ folder of the user's own."""
    (folder / "configs").mkdir(exist_ok=True)
    file = folder / "configs" / f"{name}.py"
    body = "".join(f"    {line}\n" for line in (*lines, "return config"))
    file.write_text(HEADER.format(arg=arg) + body)
    return str(file)


def problems_of(spec, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(spec, overrides)
    return caught.value.problems


def check(*overrides, spec=DIGITS, devices=8, facts=None):
    return configs.check(load(spec, overrides), facts=facts, num_devices=devices)


# Files


def test_imports_no_jax():
    code = (
        f"import sys; from vit_jax import config; config.load({DIGITS!r})\n"
        "print([m for m in ('jax', 'flax', 'tensorflow') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("path", ["configs/digits.py", "configs/digits", "digits.py"])
def test_finds_a_shipped_config_in_an_empty_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(path).data.name == "digits"


def test_finds_the_users_own_file_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "config.seed = 5", name="digits")
    assert load(DIGITS).seed == 5


def test_names_the_nearest_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (problem,) = problems_of("configs/digit.py")
    assert "did you mean 'configs/digits.py'?" in problem
    assert "configs/vit_i21k.py" in problem


def test_an_absolute_path_means_itself(tmp_path):
    assert "no config file" in problems_of(str(tmp_path / "configs/digits.py"))[0]


def test_own_folder_imports_base_and_its_own_files(tmp_path):
    write(tmp_path, "config.seed = 3", name="parent")
    file = tmp_path / "configs/child.py"
    file.write_text(
        "from configs import base, parent\n"
        "def get_config():\n"
        "    config = parent.get_config()\n"
        "    config.optim = base.adamw(b2=0.95)\n"
        "    return config\n"
    )
    path, modules = sys.path[:], set(sys.modules)
    config = load(str(file))
    assert (config.seed, config.optim.b2) == (3, 0.95)
    assert sys.path == path
    assert not [m for m in sys.modules.keys() - modules if m.startswith("configs")]
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_package_named_configs_elsewhere_is_in_nobodys_way(tmp_path, monkeypatch):
    (tmp_path / "other/configs").mkdir(parents=True)
    (tmp_path / "other/configs/__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    assert load(write(tmp_path)).seed == 0


def test_argument(tmp_path):
    file = write(tmp_path, "config.model.variant = v", arg="v='B/16'")
    assert load(f"{file}:L/16").model.variant == "L/16"
    assert load(file).model.variant == "B/16"
    plain = write(tmp_path, name="plain")
    assert "takes no argument, got 'L/16'" in problems_of(f"{plain}:L/16")[0]


def test_error_in_the_file_names_its_line(tmp_path):
    (problem,) = problems_of(write(tmp_path, "config.model.widht = 3"))
    assert "mine.py, line 4" in problem
    assert 'Did you mean "width"' in problem
    assert "\n" not in problem
    assert "FieldReference" not in problem


def test_syntax_error_names_its_line(tmp_path):
    assert "line 4: SyntaxError" in problems_of(write(tmp_path, "config.seed = = 1"))[0]


def test_keys_that_base_lacks_and_has(tmp_path):
    problems = problems_of(
        write(
            tmp_path,
            "config.unlock()",
            "config.train.batchsize = 3",
            "del config.train.ema",
            "config.optim = base.adamw(beta1=0.8)",
            "config.evals = dict(val=base.classification(splits='test'))",
        )
    )
    text = "\n".join(problems)
    assert "unknown key 'train.batchsize'; did you mean 'train.batch_size'?" in text
    assert "key 'train.ema' is missing" in text
    assert "unknown key 'optim.beta1'" in text
    assert "'evals.val.splits'; did you mean 'evals.val.split'?" in text
    assert len(problems) == 4


def test_a_file_that_did_not_start_from_base(tmp_path):
    file = tmp_path / "bare.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict(dict(seed=0))\n"
    )
    assert any("'model.variant' is missing" in text for text in problems_of(str(file)))


def test_durations_are_completed(tmp_path):
    config = load(
        write(
            tmp_path,
            "config.train.duration = dict(epochs=9)",
            "config.evals = dict(val=base.classification(every=dict(steps=7)))",
        ),
        ["config.train.duration.steps=5"],
    )
    assert config.train.duration.to_dict() == UNSET | {"steps": 5}
    assert config.evals.val.every.to_dict() == UNSET | {"steps": 7}


def test_an_int_for_a_float_field_takes_fractions_on_the_command_line(tmp_path):
    file = write(tmp_path, "config.optim = base.adamw(weight_decay=0, clip_norm=1)")
    config = load(file, ["config.optim.weight_decay=0.3"])
    assert config.optim.weight_decay == 0.3
    assert isinstance(config.optim.clip_norm, float)


def test_wrong_types_in_a_replaced_section(tmp_path):
    file = write(tmp_path, "config.optim = base.adamw(b1='high', eps=None)")
    text = "\n".join(problems_of(file))
    assert "optim.b1 is 'high', but must be a float" in text
    assert "optim.eps is None, but must be a float" in text


def test_locked_throughout():
    config = load(DIGITS)
    with pytest.raises(AttributeError):
        config.evals.val.splitt = "test"
    with pytest.raises(AttributeError):
        config.train.duration.epoch = 3


# Overrides


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("--config.optim.learning_rate=1e-3", 1e-3),
        ("config.optim.learning_rate=1", 1.0),
        ("--config.train.batch_size=1_024", 1024),
        ("--config.model.image_size=(32, 64)", (32, 64)),
        ("--config.model.image_size=384", (384,)),
        ("--config.model.patch_sizes=8,16,24", (8, 16, 24)),
        ("--config.model.patch_sizes=8", (8,)),
        ("--config.model.stem=(3, 4, 9)", (3, 4, 9)),
        ("--config.model.stem=()", ()),
        ("--config.data.mean=0.1,0.2,0.3", (0.1, 0.2, 0.3)),
        ("--config.data.shuffle=False", False),
        ("--config.log.tensorboard", True),
        ("--config.model.mlp_dim=96", 96),
        ("--config.model.cls_token=true", True),
        ("--config.data.dir=/data/a b=c", "/data/a b=c"),
        ("--config.data.dir=", ""),
        ("--config.model.head_bias=-6.9", -6.9),
        ("--config.evals.val.resize=36", 36),
    ],
)
def test_override(override, value):
    config = load(DIGITS, [override])
    field = config
    for name in override.lstrip("-").partition("=")[0].split(".")[1:]:
        field = field[name]
    assert field == value
    assert type(field) is type(value)


def test_no_prefix_and_the_last_of_two():
    config = load(DIGITS, ["--noconfig.data.shuffle", "config.seed=1", "config.seed=2"])
    assert config.data.shuffle is False
    assert config.seed == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.duration.steps=20", UNSET | {"steps": 20}),
        ("train.duration.examples=999", UNSET | {"examples": 999}),
        ("train.duration.epochs=0.5", UNSET | {"epochs": 0.5}),
    ],
)
def test_a_unit_on_the_command_line_clears_the_others(override, expected):
    assert load(DIGITS, [f"config.{override}"]).train.duration.to_dict() == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("config.optim.learning_rat=1", "did you mean 'optim.learning_rate'?"),
        ("config.learning_rate=1", "did you mean 'optim.learning_rate'?"),
        ("config.model.widht=1", "did you mean 'model.width'?"),
        ("config.evals.test.every.steps=1", "did you mean 'evals.val.every.steps'?"),
        ("config.train.batch_size=1.5", "train.batch_size must be of type int, got"),
        ("config.train.batch_size=", "must be of type int, got ''"),
        ("config.optim.b1=big", "optim.b1 must be of type float, got 'big'"),
        ("config.data.shuffle=maybe", "must be of type bool, got 'maybe'"),
        ("config.model.width=a", "model.width must be of type int, got 'a'"),
        ("config.model.variant=16", "model.variant is text, got the number 16"),
        ("config.optim=sgd", "optim is a section; set one of its keys: optim.b1"),
        ("config.seed", "seed needs a value"),
        ("--noconfig.seed", "seed needs a value"),
        ("--seed=1", "is not of the form --config.KEY=VALUE"),
    ],
)
def test_override_error(override, message):
    (problem,) = problems_of(DIGITS, override)
    assert message in problem
    assert "\n" not in problem


def test_two_units_on_the_command_line():
    name = "config.train.duration"
    (problem,) = problems_of(DIGITS, f"{name}.steps=1", f"{name}.epochs=1")
    assert problem == "train.duration is given in steps and epochs: keep one"


def test_several_problems_are_one_message():
    overrides = ["config.nope=1", "config.seed=x", "config.train.duration.steps=3"]
    with pytest.raises(ConfigError) as caught:
        load(DIGITS, overrides)
    assert len(caught.value.problems) == 2
    assert str(caught.value).startswith("2 problems in the config:\n  - ")


# Durations


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"steps": 7}, 7),
        ({"steps": 0}, 0),
        ({"examples": 100}, 2),
        ({"examples": 64}, 1),
        ({"epochs": 1.0}, 16),  # 15.625
        ({"epochs": 0.5}, 8),  # 7.8125
        ({"epochs": 0.16}, 3),  # 2.5 rounds up
        ({"epochs": 1e-6}, 1),
        ({"epochs": 0.0}, 0),
    ],
)
def test_resolve_duration(fields, steps):
    given = dict(batch_size=64, num_examples=1000)
    assert resolve_duration(UNSET | fields, **given) == steps
    assert resolve_duration(UNSET | fields, **given, total_steps=5) == min(steps, 5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "log.every needs exactly one of epochs, steps, examples; set: none"),
        ({"epochs": 1.0, "steps": 3}, "set: epochs, steps"),
        ({"steps": -1}, "log.every.steps must not be negative"),
        ({"epochs": float("nan")}, "log.every.epochs must not be negative"),
        ({"epochs": 1.0}, "the size of the split is not known"),
    ],
)
def test_resolve_duration_errors(fields, message):
    with pytest.raises(ConfigError, match=message):
        resolve_duration(
            UNSET | fields, batch_size=8, num_examples=None, name="log.every"
        )


# Checks


def test_a_good_config_has_no_problems():
    assert check() == []
    assert check(facts=FACTS) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.variant=b/16", "model.variant: model variant 'b/16'"),
        ("model.variant=mu/3", "does not divide image size (8, 8)"),
        ("model.num_heads=7", "num_heads 7 does not divide width 64"),
        ("model.depth=0", "model.depth must be at least 1, got 0"),
        ("model.width=-4", "model.width must be at least 1, got -4"),
        ("model.pool=mean", "model.pool 'mean' is unknown; known: cls, gap, map"),
        ("model.image_size=(8,8,3)", "model.image_size must be (height, width)"),
        ("model.image_size=big", "model.image_size must be (height, width)"),
        ("model.channels=4", "model.channels must be 1 or 3, got 4"),
        ("model.drop_path=1", "model.drop_path must be in [0, 1)"),
        ("model.variant=R50+S/8", "'R50+S/8' is no hybrid; known: R+SIZE/16, R26"),
        ("model.num_classes=-1", "model.num_classes must be at least 0, got -1"),
        ("model.rope=spiral", "model.rope 'spiral' is unknown; known: none, axial"),
        ("model.registers=-1", "model.registers must be at least 0, got -1"),
        ("model.patch_sizes=2,3", "patch_sizes: (3, 3) does not divide image size"),
        ("model.patch_sizes=big", "model.patch_sizes must be whole numbers, got"),
        ("model.stem=1.5", "model.stem must be whole numbers, got (1.5,)"),
        ("model.stem=1", "stem (1,) has a stride of 4, which does not divide patch"),
        ("model.distillation=token", "cls_token must be True for distillation 'token'"),
        ("objective.name=superviced", "did you mean 'supervised'?"),
        ("objective.loss=sigmoyd", "known: softmax, sigmoid; did you mean 'sigmoid'?"),
        ("objective.label_smoothing=1.0", "objective.label_smoothing must be in"),
        ("objective.class_weights=(1.0,2.0)", "are 2, but there are 10 classes"),
        ("objective.threshold=0.5", "is for objective.loss 'sigmoid', not 'softmax'"),
        ("optim.name=adam", "optim.name 'adam' is unknown; known: adamw, sgd"),
        ("optim.name=sgd", "optim.momentum is missing; 'sgd' needs it"),
        ("optim.name=sgd", "optim.b1 is not a setting of 'sgd'"),
        ("optim.decay_mask=kernel", "did you mean 'kernels'?"),
        ("optim.mu_dtype=float16", "optim.mu_dtype 'float16' is unknown"),
        ("optim.nu_dtype=int8", "optim.nu_dtype 'int8' is unknown; known: float32, b"),
        ("optim.name=lamb", "optim.trust_mask is missing; 'lamb' needs it"),
        ("optim.learning_rate=nan", "optim.learning_rate must be finite"),
        ("optim.layer_decay=0", "optim.layer_decay must be in (0, 1], got 0.0"),
        ("optim.b2=1", "optim.b2 must be in [0, 1), got 1.0"),
        ("optim.eps=0", "optim.eps must be positive and finite, got 0.0"),
        ("schedule.name=cosin", "did you mean 'cosine'?"),
        ("schedule.name=wsd", "schedule 'wsd' needs a cooldown"),
        ("evals.val.name=clasification", "did you mean 'classification'?"),
        ("evals.val.batch_size=100", "evals.val.batch_size 100 is not divisible"),
        ("evals.val.every.steps=0", "evals.val.every must be positive"),
        ("data.augment.crop=incepton", "did you mean 'inception'?"),
        ("data.augment.pad=-1", "pad must not be negative"),
        ("data.augment.area=0.5", "data.augment.area needs two numbers"),
        ("data.augment.mixup=-1", "data.augment.mixup must be finite and not neg"),
        ("data.augment.cutmix=-1", "data.augment.cutmix must be finite and not n"),
        ("data.augment.color_jitter=-1", "data.augment.color_jitter must be fin"),
        ("data.augment.randaugment_layers=-1", "randaugment_layers must be fin"),
        ("data.augment.randaugment_magnitude=-1", "randaugment_magnitude must be"),
        ("data.augment.policy=randaugmnt", "did you mean 'randaugment'?"),
        ("data.augment.mix_per=row", "mix_per 'row' is unknown; known: batch, exam"),
        ("data.augment.mix_prob=1.5", "data.augment.mix_prob must be in [0, 1]"),
        ("data.augment.mix_switch=-1", "data.augment.mix_switch must be in [0, 1]"),
        ("data.augment.erase=2", "data.augment.erase must be in [0, 1], got 2"),
        ("data.augment.erase_fill=mean", "known: noise, zero"),
        ("data.augment.repeats=0", "data.augment.repeats must be at least 1"),
        ("data.augment.repeats=3", "repeats 3 does not divide train.batch_size"),
        ("data.augment.views=0", "data.augment.views must be at least 1"),
        ("data.augment.views=2", "objective 'supervised' takes one view"),
        ("data.threads=-1", "data.threads must be finite and not negative, got -1"),
        ("data.workers=-1", "data.workers must be finite and not negative, got -1"),
        ("data.max_bad=-1", "data.max_bad must be finite and not negative, got -1"),
        ("data.max_pixels=0", "data.max_pixels must be at least 1, got 0"),
        ("evals.val.resize=-1", "evals.val.resize must be finite and not negative"),
        ("seed=-1", "seed must be in 0..4294967295 (32 bits), got -1"),
        (f"seed={1 << 32}", "seed must be in 0..4294967295 (32 bits), got 42949"),
        (f"seed={1 << 64}", "seed must be in 0..4294967295 (32 bits), got 18446"),
        ("train.max_nonfinite=0", "train.max_nonfinite must be at least 1, got 0"),
        ("train.rollback.factor=-1", "train.rollback.factor must be finite and not"),
        ("train.rollback.factor=nan", "train.rollback.factor must be finite and not"),
        ("train.rollback.window=0", "train.rollback.window must be at least 1, got"),
        ("train.rollback.max=-1", "train.rollback.max must be finite and not neg"),
        ("train.watchdog.seconds=-1", "train.watchdog.seconds must be finite and"),
        ("train.watchdog.factor=inf", "train.watchdog.factor must be finite and no"),
        ("train.watchdog.compile_seconds=nan", "watchdog.compile_seconds must be f"),
        ("data.mean=(0.5,0.5)", "data.mean has 2 values"),
        ("data.std=0", "data.std must be positive numbers"),
        ("data.mean=gray", "data.mean must be numbers"),
        ("train.batch_size=100", "not divisible by the mesh's slices*data*fsdp 8"),
        ("train.batch_size=0", "train.batch_size must be at least 1"),
        ("train.accumulate=3", "slices*data*fsdp 8 times train.accumulate 3"),
        ("train.accumulate=0", "train.accumulate must be at least 1"),
        ("train.ema=1", "train.ema must be in [0, 1)"),
        ("train.duration.steps=0", "train.duration must be positive"),
        ("mesh.fsdp=3", "3 does not divide the number of devices, 8"),
        ("mesh.data=4", "4 is not the number of devices, 8"),
        ("mesh.fsdp=-1", "at most one -1"),
        ("mesh.tensor=0", "sizes must be positive"),
        ("checkpoint.keep=1", "checkpoint.keep must be at least 2"),
        ("checkpoint.best=val/acc", "did you mean 'val/accuracy'?"),
        ("checkpoint.best=test/accuracy", "known: val/accuracy, val/top5, val/loss, "),
    ],
)
def test_check(override, message):
    problems = check(f"config.{override}")
    assert any(message in problem for problem in problems), problems


def test_no_more_parts_of_tokens_than_there_are():
    patches = "config.model.patch_size=(4,4)"
    for parts, problems in (
        (4, []),
        (8, ["mesh.sequence is 8, but an image has 4 tok"]),
    ):
        found = check(patches, f"config.mesh.sequence={parts}")
        assert [text[:42] for text in found] == [text[:42] for text in problems]
    assert all("\n" not in problem for problem in problems)


def test_check_reports_all_at_once():
    problems = check(
        "config.model.num_heads=7",
        "config.optim.decay_mask=kernel",
        "config.mesh.data=3",
        "config.train.ema=2",
        "config.data.augment.crop=none",
    )
    assert len(problems) == 5


@pytest.mark.parametrize(
    "override",
    [
        *("mesh.fsdp=2", "mesh.tensor=8", "checkpoint.best=", "model.image_size=8"),
        *(f"seed={(1 << 32) - 1}", "data.max_bad=0", "evals.val.resize=0"),
        *("train.rollback.max=0", "train.watchdog.seconds=0"),
    ],
)
def test_check_passes(override):
    assert check(f"config.{override}") == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "data.split=training",
            "data.split: data set 'digits': no split 'training'; it has: train, test",
        ),
        ("evals.val.split=dev", "evals.val.split: data set 'digits': no split 'dev'"),
        ("model.num_classes=100", "has 10"),
        # 150 epochs of 1,438 examples in batches of 128 are 1,685 steps.
        ("schedule.warmup.steps=1686", "longer than the run of 1685 steps"),
        ("schedule.cooldown.epochs=141", "longer than the run of 1685 steps"),
    ],
)
def test_check_against_the_data_set(override, message):
    (problem,) = check(f"config.{override}", facts=FACTS)
    assert message in problem


def test_epochs_of_an_unknown_data_set_are_no_problem():
    assert check("config.schedule.warmup.epochs=1000") == []
    (problem,) = check(
        "config.schedule.warmup.steps=9", "config.train.duration.steps=8"
    )
    assert "schedule.warmup (9 steps)" in problem


# Records


def test_json_round_trip():
    config = load(DIGITS)
    saved = json.loads(json.dumps(configs.snapshot(config)))
    assert saved["versions"].keys() >= {"python", "vit_jax", "jax", "flax", "numpy"}
    assert saved["config"]["model"]["image_size"] == [8, 8]
    restored = configs.from_json(saved["config"])
    assert restored.to_dict() == config.to_dict()
    assert configs.diff(saved["config"], config) == []
    assert configs.check(restored, facts=None, num_devices=8) == []


def test_diff():
    old = load(DIGITS)
    new = load(DIGITS, ["config.optim.learning_rate=0.01", "config.log.every.steps=9"])
    assert configs.diff(old, new) == [
        "log.every.steps: 50 -> 9",
        "optim.learning_rate: 0.002 -> 0.01",
    ]
    assert configs.unsafe_changes(old, new) == ["optim.learning_rate: 0.002 -> 0.01"]


def test_diff_of_an_evaluation_that_is_new():
    old = configs.to_json(load(DIGITS))
    new = json.loads(json.dumps(old))
    new["evals"]["more"] = {"name": "classification"}
    assert configs.diff(old, new) == ["evals.more.name: (absent) -> 'classification'"]


@pytest.mark.parametrize(
    ("override", "safe"),
    [
        ("mesh.fsdp=2", True),
        ("data.dir=/elsewhere", True),
        ("data.threads=3", True),
        ("model.attention=cudnn", True),
        ("model.remat=full", True),
        ("evals.val.every.epochs=1", True),
        ("checkpoint.keep=5", True),
        ("model.attention_dropout=0.1", False),
        ("model.dtype=bfloat16", False),
        ("train.accumulate=2", False),
        ("train.duration.epochs=151", False),
        ("data.augment.pad=2", False),
        ("seed=1", False),
    ],
)
def test_unsafe_changes(override, safe):
    old, new = load(DIGITS), load(DIGITS, [f"config.{override}"])
    assert len(configs.diff(old, new)) == 1
    assert (configs.unsafe_changes(old, new) == []) is safe
