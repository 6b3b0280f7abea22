import json

import numpy as np
import pytest

from tests import foreign
from tests.foreign import timm, torch
from tests.weights import timm_models as tm
from vit_jax.weights import WeightsError, load
from vit_jax.weights import timm as timm_format
from vit_jax.weights.arrays import Arrays, open_arrays

FAR = 1e-3  # what a wrong detail costs at least, fifty times the tolerance


@pytest.mark.parametrize("name", tm.MODELS)
def test_logits_are_those_of_timm(name, tmp_path):
    architecture, arguments = tm.MODELS[name]
    model = tm.build(architecture, **arguments)
    loaded = load(tm.save_folder(model, tmp_path))
    record = loaded.record
    assert (record.format, record.unused, record.missing) == ("timm", (), ())
    assert tm.gap(tm.ours(loaded.model), tm.theirs(model)) <= tm.TOLERANCE


def test_the_table_has_every_kind_of_pooling_and_position(tmp_path):
    seen = set()
    for name, (architecture, arguments) in tm.MODELS.items():
        folder = tm.save_folder(tm.build(architecture, **arguments), tmp_path / name)
        settings = timm_format.infer(open_arrays(folder)).settings
        for option in ("pool", "position", "final_norm", "norm", "mlp", "activation"):
            seen.add((option, settings[option]))
    assert {"cls", "gap", "map"} == {value for key, value in seen if key == "pool"}
    positions = {value for key, value in seen if key == "position"}
    assert positions == {"learned", "learned_cls", "learned_prefix", "none"}
    assert len(seen) == 3 + 4 + 2 + 2 + 2 + 2


def test_a_state_dict_alone_needs_the_heads(tmp_path):
    model = tm.build()
    file = tm.save(tmp_path / "model.safetensors", model.state_dict())
    with pytest.raises(WeightsError, match=r"num_heads \(--num_heads\): for width 24"):
        load(file, image_size=tm.IMAGE)
    loaded = load(file, num_heads=3, image_size=tm.IMAGE)
    assert tm.gap(tm.ours(loaded.model), tm.theirs(model)) <= tm.TOLERANCE
    with pytest.raises(WeightsError, match="5 heads do not divide width 24"):
        load(file, num_heads=5, image_size=tm.IMAGE)


def test_a_grid_that_is_no_square_needs_the_image_size(tmp_path):
    file = tm.save(tmp_path / "model.safetensors", tm.build().state_dict())
    with pytest.raises(WeightsError, match="image_size"):
        load(file, num_heads=3)
    square = tm.build(img_size=[12, 15])
    file = tm.save(tmp_path / "square.safetensors", square.state_dict())
    assert load(file, num_heads=3).model.image_size == (12, 15)


def test_positions_that_could_be_of_two_grids_need_the_image_size(tmp_path):
    """3 x 3 patches, or 2 x 2 with CLS and four registers."""
    model = tm.build(img_size=[12, 15], reg_tokens=4, no_embed_class=True)
    file = tm.save(tmp_path / "model.safetensors", model.state_dict())
    with pytest.raises(WeightsError, match="9 positions, which are squares with and"):
        load(file, num_heads=3)
    assert load(file, num_heads=3, image_size=(12, 15)).model.image_size == (12, 15)
    assert load(tm.save_folder(model, tmp_path / "folder")).model.grid == (3, 3)


@pytest.mark.parametrize("distilled", [False, True])
def test_deit_files(distilled, tmp_path):
    """The .pth files that DeiT was released as have a state dict under "model"."""
    model = tm.build(tm.DISTILLED if distilled else tm.PLAIN)
    file = tmp_path / "deit.pth"
    torch.save({"model": model.state_dict(), "epoch": 299}, file)
    loaded = load(str(file), num_heads=3, image_size=tm.IMAGE)
    assert loaded.model.settings.distillation == ("head" if distilled else "none")
    assert loaded.record.preprocessing.mean == (0.485, 0.456, 0.406)
    assert tm.gap(tm.ours(loaded.model), tm.theirs(model)) <= tm.TOLERANCE


def test_deit_iii_files(tmp_path):
    """Their scales have other names, and CLS has no row among the positions."""
    model = tm.build(no_embed_class=True, init_values=0.1)
    names = {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"}
    arrays = _renamed(model.state_dict(), names)
    assert arrays.keys() != model.state_dict().keys()
    file = tmp_path / "deit_3.pth"
    torch.save({"model": arrays}, file)
    loaded = load(str(file), num_heads=3, image_size=tm.IMAGE)
    assert loaded.model.settings.position == "learned"
    assert tm.gap(tm.ours(loaded.model), tm.theirs(model)) <= tm.TOLERANCE


def test_dinov2_files(tmp_path):
    """Its registers come without positions, CLS with one; its SwiGLU is w12 and w3."""
    arguments = {"mlp_ratio": 80 / 24, "reg_tokens": 2, "num_classes": 0}
    model = tm.build(tm.GATED, no_embed_class=True, **arguments)
    names = {"reg_token": "register_tokens", "fc1": "w12", "fc2": "w3"}
    arrays = _renamed(model.state_dict(), names)
    row = torch.full((1, 1, 24), 0.3)
    arrays["pos_embed"] = torch.cat([row, arrays["pos_embed"]], dim=1)
    arrays["cls_token"] = arrays["cls_token"] - row
    arrays["mask_token"] = torch.ones(1, 24)
    file = tm.save(tmp_path / "dinov2.safetensors", arrays)
    loaded = load(file, num_heads=3, image_size=tm.IMAGE)
    assert loaded.record.unused == ("mask_token",)
    assert loaded.model.settings.position == "learned_cls"
    assert tm.gap(tm.ours(loaded.model), tm.theirs(model)) <= tm.TOLERANCE


def _renamed(arrays, names):
    renamed = {}
    for name, array in arrays.items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = array
    return renamed


def test_a_swiglu_with_its_gate_apart(tmp_path):
    model = timm.models.vision_transformer.VisionTransformer(
        **tm.SIZES, num_classes=7, mlp_layer=timm.layers.SwiGLU, act_layer="silu"
    )
    foreign.randomise(model)
    file = tm.save(tmp_path / "model.safetensors", model.state_dict())
    loaded = load(file, num_heads=3, image_size=tm.IMAGE)
    assert tm.gap(tm.ours(loaded.model), tm.theirs(model)) <= tm.TOLERANCE


@pytest.mark.parametrize("pool", ["cls", "map"])
def test_biases_that_are_not_there_are_zero(pool, tmp_path):
    arguments = {"qkv_bias": False, "proj_bias": False}
    if pool == "map":
        arguments = {"global_pool": "map", "class_token": False}
    model = tm.build(**arguments)
    model.patch_embed.proj.bias = None
    if pool == "map":
        model.attn_pool.q.bias = model.attn_pool.kv.bias = None
    loaded = load(tm.save_folder(model, tmp_path))
    assert loaded.record.missing == ()
    assert not np.any(loaded.model.embedding.bias[...])
    assert tm.gap(tm.ours(loaded.model), tm.theirs(model)) <= tm.TOLERANCE


def test_the_tanh_layer_of_older_files(tmp_path):
    model = tm.build()
    file = tmp_path / "old.safetensors"
    arrays = model.state_dict() | {
        "pre_logits.fc.weight": torch.from_numpy(_random(6, 24)),
        "pre_logits.fc.bias": torch.from_numpy(_random(6)),
        "head.weight": torch.from_numpy(_random(7, 6)),
    }
    loaded = load(tm.save(file, arrays), num_heads=3, image_size=tm.IMAGE)
    inputs = torch.from_numpy(np.moveaxis(tm.images(), -1, 1).copy())
    with torch.no_grad():
        features = model.forward_head(model.forward_features(inputs), pre_logits=True)
        features = features @ arrays["pre_logits.fc.weight"].T
        features = torch.tanh(features + arrays["pre_logits.fc.bias"])
        expected = features @ arrays["head.weight"].T + arrays["head.bias"]
    assert tm.gap(tm.ours(loaded.model), expected.numpy()) <= tm.TOLERANCE


def _random(*shape):
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files_are_widened(dtype, tmp_path):
    model = tm.build().to(dtype)
    file = tm.save(tmp_path / "half.safetensors", model.state_dict())
    loaded = load(file, num_heads=3, image_size=tm.IMAGE)
    expected = tm.theirs(model.to(torch.float32))
    assert tm.gap(tm.ours(loaded.model), expected) <= tm.TOLERANCE


def _swapped(arrays):
    """Keys where queries should be."""
    query, key, value = arrays["blocks.0.attn.qkv.weight"].chunk(3)
    return {"blocks.0.attn.qkv.weight": torch.cat([key, query, value])}


def _interleaved(arrays):
    """Query, key and value of one head before those of the next."""
    kernel = arrays["blocks.0.attn.qkv.weight"].reshape(3, 3, 8, 24)
    return {"blocks.0.attn.qkv.weight": kernel.transpose(0, 1).reshape(72, 24)}


def _columns_first(arrays):
    """Positions in the order of columns."""
    cls, patches = arrays["pos_embed"][:, :1], arrays["pos_embed"][:, 1:]
    patches = patches.reshape(1, 3, 4, 24).transpose(1, 2).reshape(1, 12, 24)
    return {"pos_embed": torch.cat([cls, patches], dim=1)}


def _flipped_patches(arrays):
    """Patches read from right to left."""
    return {timm_format.PATCHES: arrays[timm_format.PATCHES].flip(-1)}


@pytest.mark.parametrize(
    "change", [_swapped, _interleaved, _columns_first, _flipped_patches]
)
def test_what_another_order_in_the_arrays_would_cost(change, tmp_path):
    model = tm.build()
    arrays = model.state_dict()
    file = tm.save(tmp_path / "model.safetensors", arrays | change(arrays))
    loaded = load(file, num_heads=3, image_size=tm.IMAGE)
    assert tm.gap(tm.ours(loaded.model), tm.theirs(model)) > FAR


@pytest.mark.parametrize(
    ("architecture", "arguments", "least"),
    [
        (tm.PLAIN, {"act_layer": "gelu_tanh"}, 1e-4),
        ("vit_base_patch16_clip_224", {}, FAR),  # epsilon 1e-5
        (tm.PLAIN, {"num_heads": 6}, FAR),
        (tm.PLAIN, {"global_pool": "avg"}, FAR),
    ],
)
def test_what_another_detail_in_the_config_would_cost(
    architecture, arguments, least, tmp_path
):
    model = tm.build()
    with torch.no_grad():  # small numbers, where an epsilon counts
        for part in (model.patch_embed.proj.weight, model.patch_embed.proj.bias):
            part.mul_(0.01)
        model.pos_embed.mul_(0.01)
        model.cls_token.mul_(0.01)
    folder = tm.save_folder(model, tmp_path)
    right = tm.ours(load(folder).model)
    assert tm.gap(right, tm.theirs(model)) <= tm.TOLERANCE
    config = json.loads((tmp_path / "config.json").read_text())
    config["architecture"] = architecture
    config["model_args"] |= arguments
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert tm.gap(tm.ours(load(folder).model), right) > least


def test_arrays_of_no_consequence_are_listed(tmp_path):
    model = tm.build()
    arrays = model.state_dict() | {"mask_token": _tensor(1, 24), "scale": _tensor(1)}
    file = tm.save(tmp_path / "model.safetensors", arrays)
    record = load(file, num_heads=3, image_size=tm.IMAGE).record
    assert set(record.unused) == {"mask_token", "scale"}


def test_a_map_head_that_the_config_does_not_use_is_listed(tmp_path):
    """As in the SigLIP towers of which timm has a variant with a mean."""
    head = {
        name: array
        for name, array in tm.build(**tm.MODELS["map"][1]).state_dict().items()
        if name.startswith("attn_pool.")
    }
    model = tm.build(**tm.MODELS["mean"][1])
    tm.save_folder(model, tmp_path)
    file = tm.save(tmp_path / "model.safetensors", model.state_dict() | head)
    loaded = load(file)
    assert set(loaded.record.unused) == head.keys()
    assert tm.gap(tm.ours(loaded.model), tm.theirs(model)) <= tm.TOLERANCE


def test_all_missing_arrays_are_named(tmp_path):
    arrays = tm.build().state_dict()
    gone = ["blocks.1.attn.proj.weight", "head.bias", "norm.bias"]
    for name in gone:
        del arrays[name]
    file = tm.save(tmp_path / "model.safetensors", arrays)
    with pytest.raises(WeightsError) as caught:
        load(file, num_heads=3, image_size=tm.IMAGE)
    assert "3 arrays are missing" in str(caught.value)
    assert all(name in str(caught.value) for name in gone)


def _tensor(*shape):
    return torch.ones(shape)


OTHERS = {
    "a norm before the blocks": ({"pre_norm": True}, "norm_pre"),
    "no norm after the blocks": ({"final_norm": False}, "no norm behind"),
    "norm of attention": ({"scale_attn_norm": True}, "attn.norm.weight"),
    "norm in the MLP": ({"scale_mlp_norm": True}, "mlp.norm.weight"),
    "norm of patches": ({"embed_norm_layer": "layernorm"}, "patch_embed.norm"),
    "differences of attention": ({"attn_layer": "diff"}, "lambda"),
    "maximum": ({"global_pool": "max"}, "global_pool 'max'"),
    "mean with CLS": (
        {"global_pool": "avg", "pool_include_prefix": True},
        "'gap' pooling with the CLS",
    ),
    "map without CLS": ({"global_pool": "map"}, "'map' pooling without the CLS"),
    "another activation": ({"act_layer": "quick_gelu"}, "activation 'quick_gelu'"),
    "another norm": ({"norm_layer": "simplenorm"}, "norm_layer 'simplenorm'"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_models_that_compute_something_else_are_refused(name, tmp_path):
    arguments, message = OTHERS[name]
    folder = tm.save_folder(tm.build(**arguments), tmp_path)
    with pytest.raises(WeightsError, match=message) as caught:
        load(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("block", ["ParallelScalingBlock", "ParallelThingsBlock"])
def test_other_blocks_are_refused(block, tmp_path):
    module = timm.models.vision_transformer
    model = module.VisionTransformer(
        **tm.SIZES, num_classes=7, block_fn=getattr(module, block)
    )
    file = tm.save(
        tmp_path / "model.safetensors", foreign.randomise(model).state_dict()
    )
    with pytest.raises(WeightsError):
        load(file, num_heads=3, image_size=tm.IMAGE)


def test_what_is_recognised():
    names = ("patch_embed.proj.weight", "blocks.0.norm1.weight")
    arrays = dict.fromkeys(names, np.zeros(1))
    assert timm_format.recognise(Arrays("file", arrays))
    decoder = arrays | {"decoder_embed.weight": np.zeros(1)}
    assert not timm_format.recognise(Arrays("file", decoder))
    for name in names:
        assert not timm_format.recognise(Arrays("file", {name: np.zeros(1)}))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("pos_embed", (13, 24), r"pos_embed is \(13, 24\), not"),
        ("patch_embed.proj.weight", (24, 60), "not .out in height width"),
        ("head.weight", (7, 24, 1), "head.weight is"),
        ("blocks.1.attn.qkv.weight", (71, 24), "blocks.1.attn.qkv.weight is"),
    ],
)
def test_shapes_that_cannot_be(name, shape, message, tmp_path):
    arrays = tm.build().state_dict() | {name: torch.ones(shape)}
    file = tm.save(tmp_path / "model.safetensors", arrays)
    with pytest.raises(WeightsError, match=message):
        load(file, num_heads=3, image_size=tm.IMAGE)
