"""Folders of transformers: the same outputs as the library's own classes."""

import functools
import json
import pathlib

import numpy as np
import pytest

from tests.foreign import randomise
from tests.weights import hf_models
from tests.weights.hf_models import MODELS, arrays_of, images_for, save
from vit_jax.weights import WeightsError, load
from vit_jax.weights.arrays import Arrays
from vit_jax.weights.base import HALF, IMAGENET_MEAN, IMAGENET_STD
from vit_jax.weights.huggingface import infer, recognise
from vit_jax.weights.load import open_checkpoint
from vit_jax.weights.table import constant, decode, whole

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A function: name of MODELS -> (module, folder), made once."""
    made = {}

    def folder(name):
        if name not in made:
            module = randomise(MODELS[name]())
            made[name] = module, save(module, tmp_path_factory.mktemp(name))
        return made[name]

    return folder


def without_config(folder, target):
    """A copy of the arrays alone."""
    target.mkdir()
    content = pathlib.Path(folder, "model.safetensors").read_bytes()
    (target / "model.safetensors").write_bytes(content)
    return str(target)


def in_memory(folder, *, config=None, **changes):
    """Arrays of a folder, some of them others (None: left out), and its config."""
    found = {**arrays_of(folder), **changes}
    found = {name: array for name, array in found.items() if array is not None}
    recorded = json.loads(pathlib.Path(folder, "config.json").read_text())
    return Arrays("folder", found, config={**recorded, **(config or {})})


def array_is(name, parts):
    return any(part in name for part in parts)


# What an image encoder does not need: parts of training, and text.
BESIDE = ("mask_token", "register_tokens", "decoder.", "text_model.", "logit_")


@pytest.mark.parametrize("name", MODELS)
def test_same_tokens_and_logits(name, folders):
    module, folder = folders(name)
    opened = open_checkpoint(folder)
    images = images_for(opened.settings)
    expected = hf_models.outputs(module, images)
    actual = hf_models.ours(opened.settings, opened.leaves, images)
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)
    beside = BESIDE + (("vision_model.head.",) if name == "siglip_classifier" else ())
    assert not [array for array in opened.arrays.unused if not array_is(array, beside)]


@pytest.mark.parametrize("name", MODELS)
def test_both_generations_of_names_are_one_model(name, folders, tmp_path):
    module, folder = folders(name)
    renamed = save(module, tmp_path / "renamed", renamed=True)
    first, second = open_checkpoint(folder), open_checkpoint(renamed)
    assert first.settings == second.settings
    assert first.leaves.keys() == second.leaves.keys()
    for path, leaf in first.leaves.items():
        np.testing.assert_array_equal(whole(leaf), whole(second.leaves[path]), path)


def test_the_generations_differ(folders, tmp_path):
    module, folder = folders("vit")
    renamed = save(module, tmp_path / "renamed", renamed=True)
    assert "vit.layers.0.attention.q_proj.weight" in arrays_of(renamed)
    name = "vit.encoder.layer.0.attention.attention.query.weight"
    assert name in arrays_of(folder)


def swap(first, second):
    """Exchanges two parameters."""

    def change(settings, leaves):
        leaves[first], leaves[second] = leaves[second], leaves[first]

    return change


def setting(**changes):
    return lambda settings, leaves: settings.update(changes)


def table_of(change):
    """Changes the position table, ``[1, rows, D]``."""

    def apply(settings, leaves):
        table = whole(leaves["position_embedding"])
        leaves["position_embedding"] = constant(change(table))

    return apply


def transposed_grid(table):
    rows, grid = table[:, :1], table[:, 1:].reshape(1, 3, 4, -1)
    return np.concatenate([rows, grid.swapaxes(1, 2).reshape(1, 12, -1)], axis=1)


def first_head_only(settings, leaves):
    settings["distillation"] = "token"
    del leaves["head_distillation/kernel"], leaves["head_distillation/bias"]


def register_rows(settings, leaves):
    settings["position"] = "learned_prefix"
    table_of(lambda table: np.insert(table, [1] * 3, table[:, 1:4], axis=1))(
        settings, leaves
    )


TRAPS = {
    "gelu": ("vit", setting(activation="gelu_tanh")),
    "epsilon": ("vit_unbiased", setting(norm_epsilon=1e-6)),
    "register_epsilon": ("dinov2_registers", setting(norm_epsilon=1e-6)),
    "grid": ("vit", table_of(transposed_grid)),
    "query_and_value": (
        "vit",
        swap("blocks/attention/query/kernel", "blocks/attention/value/kernel"),
    ),
    "cls_row": ("vit", table_of(lambda table: np.roll(table, 1, axis=1))),
    "distillation_row": ("deit", table_of(lambda t: t[:, [1, 0, *range(2, 14)]])),
    "heads": ("deit", first_head_only),
    "gate": (
        "dinov2_gated",
        swap("blocks/mlp/gate/kernel", "blocks/mlp/hidden/kernel"),
    ),
    "registers": ("dinov2_registers", register_rows),
    "rope": ("dinov3", setting(rope="axial")),
    "no_rope": ("dinov3", setting(rope="none")),
    "rope_base": ("dinov3_biases", setting(rope_base=100.0)),
    "map_query_and_value": (
        "siglip",
        swap("pooling/attention/query/kernel", "pooling/attention/value/kernel"),
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_wrong_detail_is_seen(trap, folders):
    name, change = TRAPS[trap]
    module, folder = folders(name)
    opened = open_checkpoint(folder)
    settings, leaves = dict(opened.settings), dict(opened.leaves)
    change(settings, leaves)
    images = images_for(settings)
    _, expected = hf_models.outputs(module, images)
    _, actual = hf_models.ours(settings, leaves, images)
    assert np.abs(actual - expected).max() > 10 * TOLERANCE


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"vit_unbiased"}))
def test_without_a_config_the_arrays_tell_the_family(name, folders, tmp_path):
    _, folder = folders(name)
    alone = without_config(folder, tmp_path / "alone")
    with pytest.raises(WeightsError, match="give num_heads"):
        open_checkpoint(alone)
    with_config = open_checkpoint(folder)
    opened = open_checkpoint(
        alone, num_heads=3, image_size=with_config.settings["image_size"]
    )
    # Only a config says these.
    changed = {"norm_epsilon", "activation", "rope_base"}
    for key, value in with_config.settings.items():
        assert key in changed or opened.settings[key] == value, key
    assert opened.leaves.keys() == with_config.leaves.keys()


# Heads, epsilon, GELU, mean and standard deviation. SigLIP's configs are this sparse.
DEFAULTS = {
    "vit": (12, 1e-12, "gelu", HALF, HALF),
    "deit": (12, 1e-12, "gelu", IMAGENET_MEAN, IMAGENET_STD),
    "dinov2": (12, 1e-6, "gelu", IMAGENET_MEAN, IMAGENET_STD),
    "dinov2_registers": (12, 1e-6, "gelu", IMAGENET_MEAN, IMAGENET_STD),
    "dinov3": (6, 1e-5, "gelu", IMAGENET_MEAN, IMAGENET_STD),
    "siglip": (12, 1e-6, "gelu_tanh", HALF, HALF),
    "siglip_vision": (12, 1e-6, "gelu_tanh", HALF, HALF),
}
LEFT_OUT = (
    *("num_attention_heads", "layer_norm_eps", "hidden_act", "num_hidden_layers"),
    *("qkv_bias", "query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias"),
)


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_a_config_leaves_out_is_the_librarys_default(name, folders):
    config = {**dict.fromkeys(LEFT_OUT), "vision_config": {}}
    if name != "siglip":
        del config["vision_config"]
    arrays = in_memory(folders(name)[1], config=config)
    found = infer(arrays)
    settings, images = found.settings, found.preprocessing
    chosen = (settings[key] for key in ("num_heads", "norm_epsilon", "activation"))
    assert (*chosen, images.mean, images.std) == DEFAULTS[name]
    implied = {"blocks/attention/key/bias"} if name == "dinov3" else set()
    assert found.implied.keys() == implied
    decode(arrays, found.rows, 2)  # no other bias is asked for


def test_class_names_and_their_absence(folders):
    _, folder = folders("vit")
    assert infer(in_memory(folder)).class_names == ()
    names = {str(index): f"class {index}" for index in reversed(range(7))}
    found = infer(in_memory(folder, config={"id2label": names}))
    assert found.class_names == tuple(f"class {index}" for index in range(7))
    found = infer(in_memory(folder, config={"id2label": {"0": "cat", "1": "dog"}}))
    assert found.class_names == ()


def test_square_tables_and_pixels_left_over(folders):
    """DINOv2's table is a square's; SigLIP's last pixels are in no patch."""
    found = infer(in_memory(folders("dinov2")[1], config={"image_size": [16, 25]}))
    assert found.settings["image_size"] == (20, 20)
    config = {"image_size": 23}
    found = infer(in_memory(folders("siglip_vision")[1], config=config))
    assert found.settings["image_size"] == (20, 20)


LAYER = "vit.encoder.layer.1.attention.attention.query.weight"
BAD_CONFIGS = {
    "model_type 'swin' is not read here; known: vit, deit": {"model_type": "swin"},
    "model_type \\['vit'\\] is not read": {"model_type": ["vit"]},
    "hidden_act 'quick_gelu'.*known: gelu, ": {"hidden_act": "quick_gelu"},
    "has 2 layers, its config.json says 3": {"num_hidden_layers": 3},
    "5 heads do not divide a width of 24": {"num_attention_heads": 5},
    "num_attention_heads is '3'": {"num_attention_heads": "3"},
    "layer_norm_eps is True": {"layer_norm_eps": True},
    "image_size is \\[12\\]": {"image_size": [12]},
    "image_size \\(12, 30\\), 3 x 6 patches, but .* for 12": {"image_size": [12, 30]},
}


@pytest.mark.parametrize("message", BAD_CONFIGS)
def test_configs_that_do_not_fit_are_refused(message, folders):
    arrays = in_memory(folders("vit")[1], config=BAD_CONFIGS[message])
    with pytest.raises(WeightsError, match=message) as caught:
        infer(arrays)
    assert "\n" not in str(caught.value)


BAD_ARRAYS = {
    "hold.* several encoders": {
        "other.embeddings.patch_embeddings.projection.weight": np.zeros((24, 3, 4, 5))
    },
    "1 arrays of the encoder are not known, such as vit.encoder.layer.0.lambda_1": {
        "vit.encoder.layer.0.lambda_1": np.zeros(24)
    },
    "not known, such as vit.embeddings.class_embedding": {
        "vit.embeddings.class_embedding": np.zeros(24)
    },
    "classifier.weight is \\(7,\\)": {"classifier.weight": np.zeros(7)},
    "is \\(24, 3, 4\\), which are not 4 axes": {
        "vit.embeddings.patch_embeddings.projection.weight": np.zeros((24, 3, 4))
    },
}


@pytest.mark.parametrize("message", BAD_ARRAYS)
def test_arrays_that_do_not_fit_are_refused(message, folders):
    with pytest.raises(WeightsError, match=message):
        infer(in_memory(folders("vit")[1], **BAD_ARRAYS[message]))


def test_a_missing_array_is_named(folders):
    arrays = in_memory(folders("vit")[1], **{LAYER: None})
    with pytest.raises(WeightsError, match="1 arrays are missing: " + LAYER):
        decode(arrays, infer(arrays).rows, 2)


def test_other_activations_are_refused_where_they_matter(folders):
    arrays = in_memory(folders("vit_pooler")[1], config={"pooler_act": "relu"})
    with pytest.raises(WeightsError, match="pooler_act 'relu'"):
        infer(arrays)
    arrays = in_memory(folders("dinov3_gated")[1], config={"hidden_act": "gelu"})
    with pytest.raises(WeightsError, match=r"hidden_act 'gelu'.*known: silu"):
        infer(arrays)
    gated = infer(in_memory(folders("dinov2_gated")[1], config={"hidden_act": "relu"}))
    assert gated.settings["mlp"] == "swiglu"  # its gate is fixed


def test_heads_that_differ_from_the_config_are_refused(folders):
    with pytest.raises(WeightsError, match="num_heads is 3 by its config"):
        infer(in_memory(folders("vit")[1]), num_heads=4)


def test_other_libraries_are_not_recognised():
    array = np.zeros((24, 3, 4, 5), np.float32)
    assert not recognise(Arrays("timm", {"patch_embed.proj.weight": array}))
    assert recognise(Arrays("hf", {"embeddings.patch_embedding.weight": array}))


def test_rotary_positions_take_images_of_another_size(folders):
    module, folder = folders("dinov3")
    opened = open_checkpoint(folder)
    settings = opened.settings | {"dynamic_size": True}
    images = images_for(settings | {"image_size": (20, 15)})
    actual = hf_models.ours(settings, opened.leaves, images)
    for ours, theirs in zip(actual, hf_models.outputs(module, images), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def test_a_model_in_several_files(folders, tmp_path):
    module, folder = folders("vit")
    module.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model, record = load(str(tmp_path))
    assert record.format == "huggingface"
    assert not record.missing and not record.unused
    for path, leaf in open_checkpoint(folder).leaves.items():
        array = functools.reduce(getattr, path.split("/"), model)[...]
        np.testing.assert_array_equal(array, whole(leaf), path)
