import functools
import math
import re

import pytest

from tests.foreign import timm, torch
from vit_jax.weights import WeightsError, timm_config

MODULES = ("vision_transformer", "deit")
# Entry points with norms of patches or within a branch; ResPostBlock (rpn) has its norms
# after a branch under the names of the others.
NORMS_ELSEWHERE = ("aimv2", "beit3")


@functools.cache
def entry_points():
    """Arguments of the model that each plain entry point of timm would build."""
    built = {}

    def record(model_class, variant, pretrained=False, **arguments):
        built[variant] = arguments
        return torch.nn.Identity()

    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            place = getattr(timm.models, module)
            patch.setattr(place, "build_model_with_cfg", record)
            for name in timm.list_models(module=module):
                timm.models.model_entrypoint(name)()
    return built


def _read(name, **content):
    return timm_config.read("file", {"architecture": name, **content})


def test_every_plain_entry_point_of_timm_is_known_and_no_other():
    known = set()
    for name in timm.list_models():
        try:
            _read(name)
        except WeightsError:
            continue
        known.add(name)
    plain = {
        name
        for name, arguments in entry_points().items()
        if not name.startswith(NORMS_ELSEWHERE) and "rpn" not in name
    }
    assert len(plain) > 150
    assert known == plain


def test_heads_are_those_of_the_entry_points():
    for name, arguments in entry_points().items():
        if name.startswith(NORMS_ELSEWHERE) or "rpn" in name:
            continue
        heads = _read(name).num_heads(arguments["embed_dim"], None)
        assert heads == arguments["num_heads"], name


def test_activations_are_those_of_the_entry_points():
    seen = set()
    for name, arguments in entry_points().items():
        if name.startswith(NORMS_ELSEWHERE) or "rpn" in name:
            continue
        wanted = arguments.get("act_layer", "gelu")
        mlp = "swiglu" if "mlp_layer" in arguments else "dense"
        seen.add(str(wanted))
        if wanted == "quick_gelu":
            with pytest.raises(WeightsError, match="quick_gelu"):
                _read(name).activation(mlp)
        elif mlp == "dense":
            assert _read(name).activation(mlp) == wanted, name
        else:
            assert wanted is torch.nn.SiLU
    assert {"gelu", "gelu_tanh", "quick_gelu"} < seen


def test_epsilons_are_those_of_the_entry_points():
    seen = set()
    for name, arguments in entry_points().items():
        if name.startswith(NORMS_ELSEWHERE) or "rpn" in name:
            continue
        layer = arguments.get("norm_layer") or timm.layers.LayerNorm
        epsilon = timm.layers.get_norm_layer(layer)(8).eps
        kind, read = _read(name).norm("layer")
        assert (kind, read) == ("layer", epsilon), name
        seen.add(read)
    assert seen == {1e-5, 1e-6}


def test_arguments_replace_those_of_the_entry_point():
    config = _read(
        "vit_base_patch32_siglip_256",
        model_args={"num_heads": 3, "act_layer": "gelu", "norm_layer": "RMS_Norm"},
    )
    assert config.num_heads(24, None) == 3
    assert config.activation("dense") == "gelu"
    assert config.norm("rms") == ("rms", 1e-6)
    assert _read("vit_base_patch32_siglip_256").activation("dense") == "gelu_tanh"


def test_the_config_counts_before_the_user():
    assert _read("vit_base_patch16_224").num_heads(768, 3) == 12
    assert timm_config.read("file", {}).num_heads(768, 3) == 3


def test_a_swiglu_has_a_silu():
    config = _read("vit_base_patch16_224", model_args={"act_layer": "gelu"})
    with pytest.raises(WeightsError, match="swiglu MLPs have silu"):
        config.activation("swiglu")


@pytest.mark.parametrize("flat", [False, True])
def test_preprocessing_is_as_recorded(flat):
    recorded = {
        "input_size": [3, 224, 192],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "crop_pct": 0.75,
        "interpolation": "bilinear",
        "num_classes": 2,
        "label_names": ["cat", "dog"],
    }
    content = recorded if flat else {"pretrained_cfg": recorded}
    config = _read("vit_base_patch16_224", **content)
    prepared = config.preprocessing((224, 192), 3)
    assert prepared.mean == (0.1, 0.2, 0.3)
    assert prepared.std == (0.4, 0.5, 0.6)
    assert (prepared.resize, prepared.interpolation) == (256, "bilinear")
    assert config.image_size() == (224, 192)
    assert config.num_classes() == 2
    assert config.class_names(2) == ("cat", "dog")
    assert config.class_names(3) == ()


def test_what_a_file_does_not_say_is_as_timm_has_it():
    config = timm_config.read("file", {})
    ours = config.preprocessing((224, 224), 3)
    theirs = timm.data.resolve_data_config({"input_size": (3, 224, 224)})
    assert (ours.mean, ours.std) == (theirs["mean"], theirs["std"])
    assert ours.interpolation == theirs["interpolation"]
    assert ours.resize == math.floor(224 / theirs["crop_pct"])
    assert len(config.preprocessing((224, 224), 4).mean) == 4


def test_nothing_is_cut_off_when_both_sides_are_squashed():
    recorded = {"crop_mode": "squash", "crop_pct": 1.0}
    config = _read("vit_base_patch16_224", pretrained_cfg=recorded)
    assert config.preprocessing((224, 224), 3).resize == 0


@pytest.mark.parametrize(
    "content",
    [
        {"model_args": [1], "pretrained_cfg": "no", "label_names": 3},
        {"model_args": {"img_size": "big"}, "num_classes": "many"},
        {"pretrained_cfg": {"input_size": [3, -1, 0], "mean": [1.0, 2.0]}},
    ],
)
def test_nonsense_says_nothing(content):
    config = _read("vit_base_patch16_224", **content)
    assert config.image_size() is None
    assert config.num_classes() == 0
    assert config.class_names(3) == ()
    assert config.preprocessing((8, 8), 3).mean == (0.485, 0.456, 0.406)


def test_other_architectures_are_named():
    with pytest.raises(WeightsError, match=re.escape("'resnet50' is not one")):
        _read("resnet50")
