"""Folders written for transformers: its own classes compute the same from them."""

import json

import numpy as np
import pytest

from tests.foreign import randomise, run, transformers
from tests.models import tiny
from tests.weights import hf_models
from tests.weights.hf_models import MODELS, arrays_of, images_for, save
from vit_jax.weights import WeightsError
from vit_jax.weights.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Card,
    Preprocessing,
    complete,
)
from vit_jax.weights.huggingface import write
from vit_jax.weights.load import open_checkpoint
from vit_jax.weights.surgery import grid_of
from vit_jax.weights.table import constant, whole

TOLERANCE = 2e-5
CLS = {"pool": "cls", "cls_token": True, "position": "learned_cls"}
DINO = {
    **CLS,
    "pool": "cls_gap",
    "layer_scale": 0.5,
    "activation": "gelu",
    "image_size": (20, 20),
    "mlp_dim": 48,
}

# Changes of a tiny model (grid 3 x 4), and the class that it becomes.
MINE = {
    "vit": (CLS, "ViTForImageClassification"),
    "vit_exact": (
        CLS | {"activation": "gelu", "norm_epsilon": 1e-3},
        "ViTForImageClassification",
    ),
    "vit_base": (CLS | {"num_classes": 0}, "ViTModel"),
    "vit_pooler": (CLS | {"num_classes": 0, "pre_logits": 16}, "ViTModel"),
    "deit": (
        CLS | {"distillation": "head"},
        "DeiTForImageClassificationWithTeacher",
    ),
    "deit_one_head": (CLS | {"distillation": "token"}, "DeiTForImageClassification"),
    "deit_base": (CLS | {"distillation": "token", "num_classes": 0}, "DeiTModel"),
    "dinov2": (DINO, "Dinov2ForImageClassification"),
    "dinov2_gated": (
        DINO | {"mlp": "swiglu", "mlp_dim": 64},
        "Dinov2ForImageClassification",
    ),
    "dinov2_base": (DINO | {"num_classes": 0, "pool": "cls"}, "Dinov2Model"),
    "dinov2_registers": (
        DINO | {"registers": 3},
        "Dinov2WithRegistersForImageClassification",
    ),
    "dinov2_registers_base": (
        DINO | {"registers": 3, "num_classes": 0, "pool": "cls"},
        "Dinov2WithRegistersModel",
    ),
}
# The same models with positions that the library keeps otherwise.
FOLDED = {
    "learned": (CLS | {"position": "learned"}, "ViTForImageClassification"),
    "sincos2d": (CLS | {"position": "sincos2d"}, "ViTForImageClassification"),
    "sincos2d_mae": (
        CLS | {"position": "sincos2d_mae", "distillation": "head"},
        "DeiTForImageClassificationWithTeacher",
    ),
    "none": (CLS | {"position": "none"}, "ViTForImageClassification"),
    "learned_prefix": (
        DINO | {"registers": 3, "position": "learned_prefix"},
        "Dinov2WithRegistersForImageClassification",
    ),
}


def build(**changes):
    """Complete settings, and random parameters by path."""
    _, shapes = tiny.vit_shapes(**changes)
    return complete(tiny.settings(**changes)), tiny.flatten(tiny.fill(shapes))


def card(settings, **changes):
    return Card("tiny", Preprocessing(settings["image_size"]), **changes)


def from_pretrained(folder, settings):
    """The module of a folder, all of whose arrays were expected and there."""
    auto = transformers.AutoModel
    if settings["num_classes"]:
        auto = transformers.AutoModelForImageClassification
    module, info = auto.from_pretrained(folder, output_loading_info=True)
    beside = {"pooler.dense.weight", "pooler.dense.bias"}  # AutoModel always makes one
    assert not set(info["missing_keys"]) - beside
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    return module.eval()


@pytest.mark.parametrize("name", (MINE | FOLDED).keys())
def test_the_librarys_classes_compute_the_same(name, tmp_path):
    changes, expected_class = (MINE | FOLDED)[name]
    settings, params = build(**changes)
    folder = tmp_path / "written"
    write(folder, settings, params, card(settings))
    module = from_pretrained(folder, settings)
    assert type(module).__name__ == expected_class
    images = images_for(settings)
    leaves = {path: constant(array) for path, array in params.items()}
    expected = hf_models.ours(settings, leaves, images)
    actual = hf_models.outputs(module, images)
    np.testing.assert_allclose(actual[0], expected[0], rtol=0, atol=TOLERANCE)
    if settings["num_classes"] or settings["pre_logits"] or "dinov2" in name:
        np.testing.assert_allclose(actual[1], expected[1], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", MINE)
def test_written_and_read_again_is_the_same(name, tmp_path):
    settings, params = build(**MINE[name][0])
    folder = tmp_path / "written"
    write(folder, settings, params, card(settings))
    opened = open_checkpoint(str(folder))
    assert opened.format == "huggingface"
    different = {key for key in settings if settings[key] != opened.settings[key]}
    assert different <= ({"activation"} if settings["mlp"] == "swiglu" else set())
    assert opened.leaves.keys() == params.keys()
    for path, leaf in opened.leaves.items():
        np.testing.assert_array_equal(whole(leaf), params[path], path)
    assert not [name for name in opened.arrays.unused if "mask_token" not in name]


WRITABLE = sorted(
    name
    for name in MODELS
    if name.startswith(("vit", "deit", "dinov2")) and name != "vit_masked"
)


@pytest.mark.parametrize("name", WRITABLE)
def test_theirs_read_and_written_is_theirs(name, tmp_path):
    folder = save(randomise(MODELS[name]()), tmp_path / "theirs")
    opened = open_checkpoint(folder)
    params = {path: whole(leaf) for path, leaf in opened.leaves.items()}
    write(tmp_path / "ours", opened.settings, params, opened.card)
    theirs, ours = arrays_of(folder), arrays_of(tmp_path / "ours")
    if name == "vit_unbiased":  # ours has biases, which are zero
        extra = {key for key in ours if key.endswith(".bias")} - theirs.keys()
        assert extra and not any(np.any(ours.pop(key)) for key in extra)
    assert ours.keys() == theirs.keys()
    for key, array in theirs.items():
        if "mask_token" not in key:  # of training, and not read
            np.testing.assert_array_equal(ours[key], array, key)
    recorded, config = (
        json.loads((place / "config.json").read_text())
        for place in (tmp_path / "theirs", tmp_path / "ours")
    )
    free = {"qkv_bias", "layerscale_value", "hidden_act"}
    for key in config.keys() & recorded.keys() - free:
        assert _pair(config[key]) == _pair(recorded[key]), key


def _pair(value):
    """Sizes are one number or two."""
    return [value, value] if isinstance(value, int) else value


WRAPPED = {
    "gap": {},
    "map": {"pool": "map"},
    "registers": CLS | {"registers": 2, "position": "learned"},
    "scaled": CLS | {"layer_scale": 0.5},
    "wide": DINO | {"pool": "cls", "mlp_dim": 50},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_other_models_go_through_timm(name, tmp_path):
    settings, params = build(**WRAPPED[name])
    folder = tmp_path / "written"
    write(folder, settings, params, card(settings))
    module = from_pretrained(folder, settings)
    assert type(module).__name__ == "TimmWrapperForImageClassification"
    images = images_for(settings)
    leaves = {path: constant(array) for path, array in params.items()}
    _, expected = hf_models.ours(settings, leaves, images)
    actual = run(module, images).logits.numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)


NOT_WRITTEN = {
    "pre_logits": CLS | {"pre_logits": 16},
    "cls_gap": CLS | {"pool": "cls_gap"},
    "parallel_blocks": CLS | {"parallel_blocks": True},
    "rope": CLS | {"rope": "axial"},
    "image_size": DINO | {"image_size": (12, 20)},
    "mlp_dim": DINO | {"mlp_dim": 50},
}


@pytest.mark.parametrize("name", NOT_WRITTEN)
def test_what_neither_can_express_is_refused(name, tmp_path):
    settings, params = build(**NOT_WRITTEN[name])
    with pytest.raises(WeightsError, match="cannot be written as 'huggingface'") as got:
        write(tmp_path / "written", settings, params, card(settings))
    assert "\n" not in str(got.value)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(tmp_path):
    settings, params = build(**CLS)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=str(tmp_path)):
        write(tmp_path, settings, params, card(settings))
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


def test_card_and_labels(tmp_path):
    settings, params = build(**CLS)
    names = tuple(f"class {index}" for index in range(7))
    preprocessing = Preprocessing((12, 20), IMAGENET_MEAN, IMAGENET_STD, 16, "bicubic")
    folder = tmp_path / "written"
    write(folder, settings, params, Card("tiny", preprocessing, names))
    opened = open_checkpoint(str(folder))
    assert opened.inferred.class_names == names
    assert opened.inferred.preprocessing == preprocessing
    config = from_pretrained(folder, settings).config
    assert config.id2label == dict(enumerate(names))
    assert config.image_size == [12, 20] and config.patch_size == [4, 5]
    assert (folder / "README.md").read_text()
    assert {file.name for file in folder.iterdir()} == {
        *("model.safetensors", "config.json", "preprocessor_config.json", "README.md")
    }


def test_grid_and_gelu_of_a_written_model_matter(tmp_path):
    """The comparison above would see a transposed grid or the other GELU."""
    settings, params = build(**CLS)
    images = images_for(settings)
    write(tmp_path / "right", settings, params, card(settings))
    right = run(from_pretrained(tmp_path / "right", settings), images).logits.numpy()
    height, width = grid_of(settings)
    table = np.asarray(params["position_embedding"])
    grid = table[:, 1:].reshape(1, width, height, -1).swapaxes(1, 2)
    turned = np.concatenate([table[:, :1], grid.reshape(1, height * width, -1)], axis=1)
    for name, changed in {
        "turned": (settings, {**params, "position_embedding": turned}),
        "gelu": (settings | {"activation": "gelu"}, params),
    }.items():
        write(tmp_path / name, *changed, card(settings))
        wrong = run(from_pretrained(tmp_path / name, settings), images).logits.numpy()
        assert np.abs(wrong - right).max() > 10 * TOLERANCE, name
