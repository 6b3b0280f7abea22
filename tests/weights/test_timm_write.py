import json
import os

import numpy as np
import pytest

from tests.foreign import timm, torch, transformers
from tests.weights import timm_models as tm
from vit_jax.weights import WeightsError, load
from vit_jax.weights import timm as timm_format
from vit_jax.weights.arrays import open_arrays
from vit_jax.weights.base import Card, Preprocessing
from vit_jax.weights.table import decode, whole

# What ours have that timm can express; each is another row of the writer's tables.
OPTIONS = {
    "gap": {},
    "gap, norm of features": {"final_norm": "features", "activation": "gelu"},
    "gap beside cls": {"cls_token": True},
    "cls": {"pool": "cls", "cls_token": True, "position": "learned_cls"},
    "cls without position": {"pool": "cls", "cls_token": True},
    "map": {"pool": "map"},
    "map with prefix": {
        **{"pool": "map", "cls_token": True, "registers": 2},
        "position": "learned_prefix",
    },
    "registers": {"registers": 2, "layer_scale": 0.1, "qk_norm": True},
    "rms": {"norm": "rms", "qk_norm": True},
    "epsilon 1e-5": {"norm_epsilon": 1e-5},
    "swiglu": {"mlp": "swiglu", "pool": "cls", "cls_token": True},
    "swiglu, rms": {"mlp": "swiglu", "norm": "rms"},
    "distilled": {
        **{"distillation": "head", "cls_token": True, "pool": "cls"},
        "position": "learned_cls",
    },
    "no positions": {"position": "none"},
    "no head": {"num_classes": 0},
    "any size": {"dynamic_size": True},
}


def _open(folder):
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def _read(folder):
    """Complete settings, numbers by path, and what else was inferred."""
    arrays = open_arrays(str(folder))
    inferred = timm_format.infer(arrays)
    settings = tm.complete(inferred.settings)
    leaves = decode(arrays, inferred.rows, settings["depth"]) | dict(inferred.implied)
    assert not arrays.unused
    return settings, {path: whole(leaf) for path, leaf in leaves.items()}, inferred


@pytest.mark.parametrize("name", OPTIONS)
def test_timm_and_we_read_what_was_written(name, tmp_path):
    settings, params, model = tm.random_model(**OPTIONS[name])
    folder = tmp_path / "folder"
    timm_format.write(folder, settings, params, tm.CARD)
    assert tm.gap(tm.theirs(_open(folder)), tm.ours(model)) <= tm.TOLERANCE
    again, numbers, _ = _read(folder)
    tm.assert_same(numbers, params)
    assert again == settings


@pytest.mark.parametrize("name", tm.MODELS)
def test_what_was_read_is_written_bit_by_bit(name, tmp_path):
    architecture, arguments = tm.MODELS[name]
    model = tm.build(architecture, **arguments)
    settings, params, inferred = _read(tm.save_folder(model, tmp_path / "first"))
    card = Card("tiny", inferred.preprocessing)
    timm_format.write(tmp_path / "second", settings, params, card)
    again = _open(tmp_path / "second")
    tm.assert_same(again.state_dict(), model.state_dict())
    assert tm.gap(tm.theirs(again), tm.theirs(model)) == 0.0


@pytest.mark.parametrize(
    "changes",
    [
        {"position": "sincos2d"},
        {"position": "sincos2d_mae", "cls_token": True, "registers": 1},
        {"position": "learned_cls", "cls_token": True, "registers": 2},
        {"distillation": "head", "cls_token": True, "pool": "cls"},
        {
            **{"distillation": "head", "cls_token": True, "pool": "cls"},
            "position": "none",
        },
    ],
)
def test_positions_become_the_table_that_timm_has(changes, tmp_path):
    settings, params, model = tm.random_model(**changes)
    folder = tmp_path / "folder"
    timm_format.write(folder, settings, params, tm.CARD)
    assert tm.gap(tm.theirs(_open(folder)), tm.ours(model)) <= tm.TOLERANCE
    again = load(str(folder)).model
    assert tm.gap(tm.ours(again), tm.ours(model)) <= tm.TOLERANCE


@pytest.mark.parametrize(
    "name", ["gap", "map", "map with prefix", "distilled", "swiglu"]
)
def test_transformers_opens_the_folder(name, tmp_path):
    settings, params, model = tm.random_model(**OPTIONS[name])
    names = tuple(f"class {number}" for number in range(7))
    card = Card("tiny", Preprocessing(tm.IMAGE), class_names=names)
    timm_format.write(tmp_path / "folder", settings, params, card)
    wrapped = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "folder"
    ).eval()
    inputs = torch.from_numpy(np.moveaxis(tm.images(), -1, 1).copy())
    with torch.no_grad():
        logits = wrapped(inputs).logits.numpy()
    assert tm.gap(logits, tm.ours(model)) <= tm.TOLERANCE
    assert wrapped.config.id2label == dict(enumerate(names))


def test_what_transformers_saves_again_is_read_bit_by_bit(tmp_path):
    settings, params, _ = tm.random_model(pool="map")
    timm_format.write(tmp_path / "folder", settings, params, tm.CARD)
    auto = transformers.AutoModelForImageClassification
    auto.from_pretrained(tmp_path / "folder").save_pretrained(tmp_path / "again")
    again, numbers, _ = _read(tmp_path / "again")
    tm.assert_same(numbers, params)
    assert again == settings


def test_transformers_opens_a_folder_without_a_head(tmp_path):
    settings, params, model = tm.random_model(num_classes=0)
    timm_format.write(tmp_path / "folder", settings, params, tm.CARD)
    wrapped = transformers.AutoModel.from_pretrained(tmp_path / "folder").eval()
    inputs = torch.from_numpy(np.moveaxis(tm.images(), -1, 1).copy())
    with torch.no_grad():
        features = wrapped(inputs).pooler_output.numpy()
    assert tm.gap(features, tm.ours(model)) <= tm.TOLERANCE


@pytest.mark.parametrize(
    "changes",
    [
        {"pool": "cls_gap", "cls_token": True},
        {"final_norm": "both"},
        {"norm_epsilon": 1e-12},
        {"norm": "rms", "norm_epsilon": 1e-5},
        {"mlp": "swiglu", "norm_epsilon": 1e-5},
        {"mlp": "swiglu", "pool": "map"},
        {"rope": "axial"},
        {"parallel_blocks": True},
        {"pre_logits": 6},
        {"stem": ()},
        {"distillation": "token", "cls_token": True, "pool": "cls"},
        {"distillation": "head", "cls_token": True, "pool": "gap"},
        {"distillation": "head", "cls_token": True, "pool": "cls", "registers": 1},
    ],
)
def test_what_timm_does_not_have_is_refused(changes, tmp_path):
    settings = tm.complete(tm.tiny.settings(**changes))
    with pytest.raises(WeightsError, match="cannot be written as 'timm'") as caught:
        timm_format.write(tmp_path / "folder", settings, {}, tm.CARD)
    named = [
        name for name in changes if f"{name}={changes[name]!r}" in str(caught.value)
    ]
    assert named
    assert not list(tmp_path.iterdir())


def test_the_epsilon_that_is_written_is_the_one_that_timm_has(tmp_path):
    settings, params, _ = tm.random_model(norm_epsilon=1e-5, pool="map")
    for path in ("embedding/kernel", "embedding/bias", "position_embedding"):
        params[path] = params[path] * 0.01  # small numbers, where an epsilon counts
    timm_format.write(tmp_path / "folder", settings, params, tm.CARD)
    opened = _open(tmp_path / "folder")
    norms = [part for part in opened.modules() if isinstance(part, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-5}
    assert len(norms) == 2 * 2 + 2
    right = tm.theirs(opened)
    assert tm.gap(tm.ours(load(str(tmp_path / "folder")).model), right) <= tm.TOLERANCE
    for norm in norms:
        norm.eps = 1e-6
    assert tm.gap(tm.theirs(opened), right) > 1e-3


@pytest.mark.parametrize(
    ("size", "resize"), [(224, 256), (224, 224), (384, 439), (240, 275), (512, 0)]
)
def test_preprocessing_is_timms_and_comes_back(size, resize, tmp_path):
    image = (size, size)
    prepared = Preprocessing(image, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), resize, "bicubic")
    settings, params, _ = tm.random_model(image_size=image, patch_size=image)
    timm_format.write(tmp_path / "folder", settings, params, Card("tiny", prepared))
    assert _read(tmp_path / "folder")[2].preprocessing == prepared
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    data = timm.data.resolve_data_config(pretrained_cfg=config["pretrained_cfg"])
    assert data["input_size"] == [3, size, size]
    assert (data["mean"], data["std"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    resized, cropped, *_ = timm.data.create_transform(**data).transforms
    assert resized.size == (resize or image)
    assert tuple(cropped.size) == image


@pytest.mark.parametrize("mlp_dim", [37, 4304, 5461])
def test_odd_mlps_keep_their_width(mlp_dim, tmp_path):
    settings, params, _ = tm.random_model(mlp_dim=mlp_dim, width=42, depth=1)
    timm_format.write(tmp_path / "folder", settings, params, tm.CARD)
    assert _open(tmp_path / "folder").blocks[0].mlp.fc1.out_features == mlp_dim


def test_class_names_and_licence_are_written(tmp_path):
    settings, params, _ = tm.random_model()
    names = tuple("abcdefg")
    card = Card("tiny", Preprocessing(tm.IMAGE), names, licence="apache-2.0")
    timm_format.write(tmp_path / "folder", settings, params, card)
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["label_names"] == list(names)
    assert config["pretrained_cfg"]["license"] == "apache-2.0"
    assert load(str(tmp_path / "folder")).record.class_names == names
    readme = (tmp_path / "folder" / "README.md").read_text()
    assert "apache-2.0" in readme


def test_nothing_is_overwritten_and_nothing_is_left_behind(tmp_path):
    settings, params, _ = tm.random_model()
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(WeightsError, match="is there already"):
        timm_format.write(folder, settings, params, tm.CARD)
    broken = {path: array for path, array in params.items() if path != "head/bias"}
    with pytest.raises(KeyError):
        timm_format.write(tmp_path / "other", settings, broken, tm.CARD)
    assert os.listdir(tmp_path) == ["folder"]
    assert not os.listdir(folder)
