import functools
import zipfile

import numpy as np
import pytest

from tests.models import tiny
from tests.weights import reference_original as reference
from tests.weights.npz import (
    CARD,
    IMAGE,
    TIMM,
    TOLERANCE,
    assert_same,
    gap,
    logits,
    open_model,
    parameters,
    random_model,
    read,
    save,
)
from tests.weights.reference_original import LINEN, PRE_LINEN
from vit_jax.weights import original_npz
from vit_jax.weights.arrays import Arrays, open_arrays
from vit_jax.weights.base import Preprocessing, complete
from vit_jax.weights.files import WeightsError
from vit_jax.weights.load import load

POSITION = "Transformer/posembed_input/pos_embedding"
QUERY = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"


@pytest.mark.parametrize("numbers", [PRE_LINEN, LINEN])
@pytest.mark.parametrize("tree", ["", "opt/target/", "params/", "img/"])
def test_reads_every_generation_of_names(tmp_path, tree, numbers):
    arrays = reference.checkpoint(tree=tree, numbers=numbers)
    path = save(tmp_path / "a.npz", arrays)
    model, opened = open_model(path)
    expected = reference.forward(arrays, reference.images(IMAGE), tree=tree)
    assert gap(logits(model, reference.images(IMAGE)), expected) <= TOLERANCE
    assert (opened.format, opened.arrays.unused) == ("npz", ())


@pytest.mark.parametrize("cls", [True, False])
@pytest.mark.parametrize(("pre_logits", "classes"), [(0, 7), (11, 7), (11, 0), (0, 0)])
def test_reads_every_head(tmp_path, cls, pre_logits, classes):
    arrays = reference.checkpoint(cls=cls, pre_logits=pre_logits, classes=classes)
    model, opened = open_model(save(tmp_path / "a.npz", arrays))
    expected = reference.forward(arrays, reference.images(IMAGE))
    assert gap(logits(model, reference.images(IMAGE)), expected) <= TOLERANCE
    assert opened.settings["pool"] == ("cls" if cls else "gap")
    assert opened.arrays.unused == ()


@pytest.mark.parametrize(
    ("units", "kernel", "group_norm"),
    [((), (2, 2), (1, 1, 1)), ((1,), (2, 1), ()), ((2, 1), (1, 1), (1, 1, 1))],
)
def test_reads_hybrids(tmp_path, units, kernel, group_norm):
    stride = 4 * 2 ** max(len(units) - 1, 0)
    patch_size = (kernel[0] * stride, kernel[1] * stride)
    size = (3 * patch_size[0], 3 * patch_size[1])
    arrays = reference.checkpoint(units=units, patch_size=kernel, group_norm=group_norm)
    model, opened = open_model(save(tmp_path / "a.npz", arrays))
    images = reference.images(size)
    expected = reference.forward(arrays, images)
    assert gap(logits(model, images), expected) <= TOLERANCE
    assert gap(reference.forward(arrays, images, standardise=False), expected) > 1e-3
    assert opened.arrays.unused == ()
    assert opened.settings["stem"] == units
    assert opened.settings["patch_size"] == patch_size
    assert opened.settings["channels"] == 3


def test_load(tmp_path):
    arrays = reference.checkpoint(tree="opt/target/", units=(1,), patch_size=(2, 1))
    images = reference.images((24, 12))
    model, record = load(save(tmp_path / "a.npz", arrays))
    expected = reference.forward(arrays, images, tree="opt/target/")
    assert gap(logits(model, images), expected) <= TOLERANCE
    assert (record.format, record.unused, record.missing) == ("npz", (), ())


def test_infers_settings_and_preprocessing():
    inferred = original_npz.infer(Arrays("a.npz", reference.checkpoint(pre_logits=11)))
    assert inferred.settings == {
        "image_size": IMAGE,
        "patch_size": (4, 5),
        "channels": 3,
        "width": 24,
        "depth": 2,
        "mlp_dim": 40,
        "num_heads": 3,
        "num_classes": 7,
        "pool": "cls",
        "cls_token": True,
        "position": "learned_cls",
        "pre_logits": 11,
    }
    assert inferred.preprocessing == Preprocessing(
        IMAGE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize=0
    )


def test_a_file_with_more_than_a_model_lists_the_rest(tmp_path):
    arrays = reference.checkpoint(tree="opt/target/")
    extra = {"opt/state/step": np.array(3), "opt/target/txt/head/bias": np.ones(4)}
    model, opened = open_model(save(tmp_path / "a.npz", arrays | extra))
    assert opened.arrays.unused == tuple(extra)
    assert model.num_classes == 7


@pytest.mark.parametrize("grid", [(3, 4), (4, 3)])
def test_a_grid_that_is_no_square_needs_the_image_size(tmp_path, grid):
    arrays = reference.checkpoint(grid=grid)
    path = save(tmp_path / "a.npz", arrays)
    size = (grid[0] * 4, grid[1] * 5)
    images = reference.images(size)
    model, _ = open_model(path, image_size=size)
    expected = reference.forward(arrays, images)
    assert gap(logits(model, images), expected) <= TOLERANCE
    with pytest.raises(WeightsError, match=r"12 patches.*--image_size"):
        open_model(path)
    with pytest.raises(WeightsError, match="5 x 5"):
        open_model(path, image_size=(20, 25))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("embedding/kernel", (60, 24), r"embedding/kernel is \(60, 24\)"),
        ("embedding/kernel", (0, 5, 3, 24), "it is empty"),
        ("head/bias", (), r"head/bias is \(\); it should be \[features\]"),
        ("embedding/kernel", (4, 5, 3, 25), "3 heads of 8 in a width of 25"),
        (QUERY, (24, 24), "query/kernel is"),
        (POSITION, (10, 24), "pos_embedding is"),
        ("conv_root/kernel", (7, 7, 3, 128), "root has 128 channels"),
    ],
)
def test_shapes_that_cannot_be(name, shape, message):
    arrays = reference.checkpoint() | {name: np.ones(shape, np.float32)}
    with pytest.raises(WeightsError, match=message) as caught:
        original_npz.infer(Arrays("a.npz", arrays))
    assert "\n" not in str(caught.value)


def test_missing_arrays_are_named(tmp_path):
    arrays = reference.checkpoint()
    gone = "Transformer/encoderblock_1/MlpBlock_3/Dense_1/bias"
    del arrays[gone]
    with pytest.raises(WeightsError, match=gone):
        open_model(save(tmp_path / "a.npz", arrays))


def test_num_heads_is_in_the_file():
    arrays = Arrays("a.npz", reference.checkpoint())
    assert original_npz.infer(arrays, num_heads=3).settings["num_heads"] == 3
    with pytest.raises(WeightsError, match="has 3 heads, not 4"):
        original_npz.infer(arrays, num_heads=4)


# What a reader can get wrong without any error shows in the numbers.


def test_gelu_is_the_tanh_approximation(tmp_path):
    arrays, images = reference.checkpoint(), reference.images(IMAGE)
    exact = reference.forward(arrays, images, gelu="exact")
    model, _ = open_model(save(tmp_path / "a.npz", arrays))
    assert gap(logits(model, images), exact) > 10 * TOLERANCE


def test_norm_epsilon(tmp_path):
    arrays, images = reference.checkpoint(), reference.images(IMAGE)
    for name in ("embedding/kernel", "embedding/bias", "cls", POSITION):
        arrays[name] *= 0.002  # a variance in which the epsilon can be seen
    model, _ = open_model(save(tmp_path / "a.npz", arrays))
    actual = logits(model, images)
    assert gap(actual, reference.forward(arrays, images)) <= TOLERANCE
    for eps in (1e-5, 1e-12):
        other = reference.forward(arrays, images, eps=eps)
        assert gap(actual, other) > 100 * TOLERANCE


@pytest.mark.parametrize(
    ("one", "other"),
    [("query", "key"), ("key", "value"), ("LayerNorm_0", "LayerNorm_2")],
)
def test_modules_are_not_mixed_up(tmp_path, one, other):
    arrays, images = reference.checkpoint(), reference.images(IMAGE)
    swap = {one: other, other: one}
    swapped = {
        "/".join(swap.get(part, part) for part in name.split("/")): array
        for name, array in arrays.items()
    }
    model, _ = open_model(save(tmp_path / "a.npz", swapped))
    actual = logits(model, images)
    assert gap(actual, reference.forward(swapped, images)) <= TOLERANCE
    assert gap(actual, reference.forward(arrays, images)) > 100 * TOLERANCE


# Writing.


@pytest.mark.parametrize("numbers", [PRE_LINEN, LINEN])
@pytest.mark.parametrize(
    "options", [{}, {"cls": False, "pre_logits": 11}, {"units": (1,), "group_norm": ()}]
)
def test_a_foreign_file_written_again_is_the_same(tmp_path, numbers, options):
    arrays = reference.checkpoint(numbers=numbers, **options)
    model, opened = open_model(save(tmp_path / "a.npz", arrays))
    path = tmp_path / "b.npz"
    original_npz.write(path, opened.settings, parameters(model), CARD)
    assert_same(read(path), reference.checkpoint(**options))  # with released names


@pytest.mark.parametrize(
    "changes",
    [
        {"pool": "cls", "cls_token": True, "position": "learned_cls"},
        {"pool": "gap", "position": "learned", "pre_logits": 11, "num_classes": 0},
        {"stem": (1, 1), "patch_size": (8, 8), "image_size": (24, 24)},
    ],
)
def test_ours_written_and_loaded_is_the_same(tmp_path, changes):
    settings, params, _ = random_model(**changes)
    original_npz.write(tmp_path / "a.npz", settings, params, CARD)
    loaded, opened = open_model(str(tmp_path / "a.npz"))
    assert_same(parameters(loaded), params)
    assert opened.settings == settings


@pytest.mark.parametrize("position", ["learned", "sincos2d", "sincos2d_mae"])
@pytest.mark.parametrize("cls", [True, False])
def test_other_positions_become_a_table(tmp_path, position, cls):
    pool = "cls" if cls else "gap"
    settings, params, model = random_model(pool=pool, cls_token=cls, position=position)
    path = tmp_path / "a.npz"
    original_npz.write(path, settings, params, CARD)
    arrays, images = read(path), reference.images(IMAGE)
    assert arrays[POSITION].shape == (1, 9 + cls, 24)
    expected = reference.forward(arrays, images)
    assert gap(logits(model, images), expected) <= TOLERANCE
    assert gap(logits(open_model(str(path))[0], images), expected) <= TOLERANCE


@pytest.mark.parametrize("cls", [True, False])
def test_timm_reads_what_is_written(tmp_path, cls):
    from tests.foreign import run as run_torch
    from tests.foreign import timm

    pool, position = ("cls", "learned_cls") if cls else ("gap", "learned")
    settings, params, model = random_model(pool=pool, cls_token=cls, position=position)
    path = tmp_path / "a.npz"
    original_npz.write(path, settings, params, CARD)
    theirs = timm.models.vision_transformer.VisionTransformer(
        **TIMM, global_pool="token" if cls else "avg", class_token=cls
    )
    theirs.load_pretrained(str(path))
    images = reference.images(IMAGE)
    expected = run_torch(theirs.eval(), images).numpy()
    assert gap(logits(model, images), expected) <= 2e-5


def test_timm_reads_hybrids_that_are_written(tmp_path):
    from tests.foreign import run as run_torch
    from tests.foreign import timm

    hybrid = timm.models.vision_transformer_hybrid
    settings, params, model = random_model(
        pool="cls",
        cls_token=True,
        position="learned_cls",
        stem=(1, 1),
        patch_size=(8, 8),
        image_size=(24, 24),
    )
    path = tmp_path / "a.npz"
    original_npz.write(path, settings, params, CARD)
    options = TIMM | {"img_size": 24, "patch_size": 1}
    embed = functools.partial(
        hybrid.HybridEmbed, backbone=hybrid._resnetv2(layers=(1, 1))
    )
    theirs = hybrid.VisionTransformer(**options, embed_layer=embed)
    theirs.load_pretrained(str(path))
    images = reference.images((24, 24))
    expected = run_torch(theirs.eval(), images).numpy()
    # timm's epsilons in this ResNet are not the original's.
    assert gap(logits(model, images), expected) <= 2e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": "gap", "cls_token": True}, "pool='gap'"),
        ({"pool": "map"}, "pool='map'"),
        ({"registers": 2}, "registers=2"),
        ({"distillation": "token"}, "distillation='token'"),
        ({"activation": "gelu"}, "activation='gelu'"),
        ({"norm_epsilon": 1e-5}, "norm_epsilon=1e-05"),
        ({"layer_scale": 0.1}, "layer_scale=0.1"),
        ({"rope": "axial"}, "rope='axial'"),
        ({"position": "none"}, "position='none'"),
        ({"mlp": "swiglu", "norm": "rms"}, "mlp='swiglu', norm='rms'"),
    ],
)
def test_refuses_what_the_original_does_not_have(tmp_path, changes, message):
    settings = complete(tiny.settings(**changes))
    with pytest.raises(WeightsError, match=message):
        original_npz.write(tmp_path / "a.npz", settings, {}, CARD)
    assert not list(tmp_path.iterdir())


def test_writing_is_all_or_nothing(tmp_path):
    settings, params, _ = random_model()
    path = tmp_path / "new" / "a.npz"
    with pytest.raises(WeightsError, match="no place for blocks/other"):
        original_npz.write(path, settings, params | {"blocks/other": 0}, CARD)
    assert not list(path.parent.iterdir())
    original_npz.write(path, settings, params, CARD)
    before = path.read_bytes()
    with pytest.raises(WeightsError, match="not overwritten"):
        original_npz.write(path, settings, params, CARD)
    assert path.read_bytes() == before
    with zipfile.ZipFile(path) as archive:  # the same numbers are the same file
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}
    with pytest.raises(WeightsError, match=r"ends in \.npz"):
        original_npz.write(tmp_path / "a.safetensors", settings, params, CARD)


def test_recognises_its_own(tmp_path):
    settings, params, _ = random_model()
    original_npz.write(tmp_path / "a.npz", settings, params, CARD)
    assert original_npz.recognise(open_arrays(str(tmp_path / "a.npz")))
    assert not original_npz.recognise(Arrays("a", {"embedding/kernel": np.ones(2)}))
