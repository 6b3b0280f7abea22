import ml_dtypes
import numpy as np
import pytest

from tests.models import tiny
from tests.weights import reference_big_vision as reference
from tests.weights import reference_original
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
from vit_jax.weights import big_vision_npz, original_npz
from vit_jax.weights.arrays import Arrays
from vit_jax.weights.base import Preprocessing, complete
from vit_jax.weights.files import WeightsError
from vit_jax.weights.load import load

POSITION, OLD_POSITION = "pos_embedding", "Transformer/pos_embedding"
IMAGES = reference_original.images(IMAGE)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("tree", ["params/", "params/img/", "", "img/", "opt/target/"])
def test_reads_every_tree_and_layout(tmp_path, tree, scan):
    arrays = reference.checkpoint(tree=tree, scan=scan)
    model, opened = open_model(save(tmp_path / "a.npz", arrays))
    expected = reference.forward(arrays, IMAGES, tree=tree)
    assert gap(logits(model, IMAGES), expected) <= TOLERANCE
    assert (opened.format, opened.arrays.unused) == ("big_vision", ())


@pytest.mark.parametrize(
    ("pool", "position", "pre_logits", "classes"),
    [
        ("cls", POSITION, 0, 7),
        ("cls", None, 11, 0),
        ("gap", POSITION, 0, 0),
        ("gap", None, 11, 7),  # the codebase's own S/16
        ("map", POSITION, 0, 0),
        ("map", POSITION, 11, 7),
        ("map", None, 0, 7),
    ],
)
def test_reads_every_pool_position_and_head(
    tmp_path, pool, position, pre_logits, classes
):
    arrays = reference.checkpoint(
        pool=pool, position=position, pre_logits=pre_logits, classes=classes
    )
    model, opened = open_model(save(tmp_path / "a.npz", arrays), image_size=IMAGE)
    assert gap(logits(model, IMAGES), reference.forward(arrays, IMAGES)) <= TOLERANCE
    assert opened.settings["pool"] == pool
    assert opened.settings["position"] == ("learned" if position else "sincos2d")
    assert opened.arrays.unused == ()


# The forms of before 2022; the last is the original's, with newer arrays around it.
OLD = [
    {"position": OLD_POSITION},
    {"position": OLD_POSITION, "numbers": PRE_LINEN, "tree": "opt/target/"},
    {"position": OLD_POSITION, "pool": "cls", "cls_row": True},
    {"position": POSITION, "pool": "cls", "cls_row": True},
    {"position": OLD_POSITION, "pool": "cls"},
    {"pool": "map", "map_head": ""},
    {"pool": "map", "map_head": "", "position": OLD_POSITION, "numbers": PRE_LINEN},
]


@pytest.mark.parametrize("options", OLD)
def test_reads_old_forms(tmp_path, options):
    tree = options.get("tree", "params/")
    arrays = reference.checkpoint(**options)
    model, opened = open_model(save(tmp_path / "a.npz", arrays))
    expected = reference.forward(arrays, IMAGES, tree=tree)
    assert gap(logits(model, IMAGES), expected) <= TOLERANCE
    assert (opened.format, opened.arrays.unused) == ("big_vision", ())


def test_the_oldest_form_is_the_originals(tmp_path):
    arrays = reference_original.checkpoint(tree="params/", numbers=LINEN)
    model, opened = open_model(save(tmp_path / "a.npz", arrays))
    expected = reference_original.forward(arrays, IMAGES, tree="params/")
    assert gap(logits(model, IMAGES), expected) <= TOLERANCE
    assert opened.format == "npz"
    assert not big_vision_npz.recognise(Arrays("a.npz", arrays))


@pytest.mark.parametrize("scan", [False, True])
def test_reads_bfloat16(tmp_path, scan):
    arrays = {
        name: array.astype(ml_dtypes.bfloat16)
        for name, array in reference.checkpoint(scan=scan).items()
    }
    path = save(tmp_path / "a.npz", arrays)
    assert {array.dtype for array in read(path).values()} == {np.dtype("V2")}
    model, _ = open_model(path)
    assert gap(logits(model, IMAGES), reference.forward(arrays, IMAGES)) <= TOLERANCE


def test_siglip_lists_its_other_tower(tmp_path):
    arrays = reference.checkpoint(tree="params/img/", pool="map", classes=0)
    text = {
        "params/txt/Encoder_0/encoderblock_0/LayerNorm_0/scale": np.ones(4),
        "params/txt/pos_embedding": np.ones((1, 5, 4)),
        "params/t": np.ones(1),
        "params/b": np.ones(1),
    }
    model, opened = open_model(save(tmp_path / "a.npz", arrays | text))
    assert opened.arrays.unused == tuple(text)
    expected = reference.forward(arrays, IMAGES, tree="params/img/")
    assert gap(logits(model, IMAGES), expected) <= TOLERANCE
    assert opened.inferred.preprocessing == Preprocessing(IMAGE)


def test_load(tmp_path):
    arrays = reference.checkpoint(scan=True, pool="map")
    model, record = load(save(tmp_path / "a.npz", arrays))
    assert gap(logits(model, IMAGES), reference.forward(arrays, IMAGES)) <= TOLERANCE
    assert (record.format, record.unused, record.missing) == ("big_vision", (), ())


@pytest.mark.parametrize("scan", [False, True])
def test_infers_settings_and_preprocessing(scan):
    arrays = reference.checkpoint(pool="cls", scan=scan, grid=(7, 7))
    inferred = big_vision_npz.infer(Arrays("a.npz", arrays))
    assert inferred.settings == {
        "image_size": (28, 35),
        "patch_size": (4, 5),
        "channels": 3,
        "width": 24,
        "depth": 2,
        "mlp_dim": 40,
        "num_heads": 3,
        "num_classes": 7,
        "pool": "cls",
        "cls_token": True,
        "position": "learned",
        "pre_logits": 0,
    }
    assert inferred.preprocessing == Preprocessing(
        (28, 35), (0.5,) * 3, (0.5,) * 3, resize=32, interpolation="area"
    )


def test_computed_positions_are_for_224_pixels():
    arrays = Arrays("a.npz", reference.checkpoint(position=None))
    infer = big_vision_npz.infer
    assert infer(arrays).settings["image_size"] == (224, 220)
    assert infer(arrays, image_size=(8, 25)).settings["image_size"] == (8, 25)


@pytest.mark.parametrize("cls_row", [False, True])
@pytest.mark.parametrize("grid", [(3, 4), (4, 3), (2, 5)])
def test_a_grid_that_is_no_square_needs_the_image_size(tmp_path, grid, cls_row):
    # 10 positions of 2 x 5 patches look like 3 x 3 and CLS, if nothing is said
    arrays = reference.checkpoint(pool="cls", cls_row=cls_row, grid=grid)
    path = save(tmp_path / "a.npz", arrays)
    size = (grid[0] * 4, grid[1] * 5)
    _, opened = open_model(path, image_size=size)
    assert opened.settings["image_size"] == size
    assert opened.settings["position"] == ("learned_cls" if cls_row else "learned")
    if grid != (2, 5) or cls_row:
        with pytest.raises(WeightsError, match="--image_size"):
            open_model(path)


def test_shapes_that_cannot_be():
    arrays = reference.checkpoint() | {"params/embedding/kernel": np.ones((60, 24))}
    with pytest.raises(WeightsError, match=r"embedding/kernel is \(60, 24\)"):
        big_vision_npz.infer(Arrays("a.npz", arrays))
    with pytest.raises(WeightsError, match="has 3 heads, not 4"):
        big_vision_npz.infer(Arrays("a.npz", reference.checkpoint()), num_heads=4)


def test_an_uneven_scan(tmp_path):
    arrays = reference.checkpoint(scan=True)
    name = "params/Transformer/encoderblock/LayerNorm_1/bias"
    arrays[name] = arrays[name][:1]
    with pytest.raises(WeightsError, match="should be the 2 layers"):
        open_model(save(tmp_path / "a.npz", arrays))


# What a reader can get wrong without any error shows in the numbers.


@pytest.mark.parametrize("pool", ["gap", "map"])
@pytest.mark.parametrize("mistake", [{"gelu": "exact"}, {"eps": 1e-5}, {"eps": 1e-12}])
def test_gelu_and_epsilon(tmp_path, pool, mistake):
    arrays = reference.checkpoint(pool=pool)
    for name in ("embedding/kernel", "embedding/bias", POSITION):
        arrays[f"params/{name}"] *= 0.002  # a variance in which the epsilon can be seen
    model, _ = open_model(save(tmp_path / "a.npz", arrays))
    actual = logits(model, IMAGES)
    assert gap(actual, reference.forward(arrays, IMAGES)) <= TOLERANCE
    assert gap(actual, reference.forward(arrays, IMAGES, **mistake)) > 10 * TOLERANCE


@pytest.mark.parametrize("mistake", ["mae", "rows_first", "transposed"])
def test_computed_positions(tmp_path, mistake):
    arrays = reference.checkpoint(position=None)
    images = reference_original.images((12, 20))
    model, _ = open_model(save(tmp_path / "a.npz", arrays), image_size=(12, 20))
    actual = logits(model, images)
    assert gap(actual, reference.forward(arrays, images)) <= TOLERANCE
    wrong = reference.forward(arrays, images, sincos=mistake)
    assert gap(actual, wrong) > 100 * TOLERANCE


# Writing.


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"pool": "cls"},
        {"pool": "gap", "position": None, "pre_logits": 11},
        {"pool": "map", "classes": 0},
    ],
)
def test_a_foreign_file_written_again_is_the_same(tmp_path, options, scan):
    arrays = reference.checkpoint(scan=scan, **options)
    model, opened = open_model(save(tmp_path / "a.npz", arrays))
    path = tmp_path / "b.npz"
    big_vision_npz.write(path, opened.settings, parameters(model), CARD, scan=scan)
    assert_same(read(path), arrays)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"pool": "cls", "cls_token": True},
        {"pool": "gap", "position": "sincos2d", "image_size": (224, 220)},
        {"pool": "map", "pre_logits": 11, "num_classes": 0},
    ],
)
def test_ours_written_and_loaded_is_the_same(tmp_path, changes, scan):
    settings, params, _ = random_model(**changes)
    path = tmp_path / "a.npz"
    big_vision_npz.write(path, settings, params, CARD, scan=scan)
    loaded, opened = open_model(str(path))
    assert_same(parameters(loaded), params)
    assert opened.settings == settings


def test_cls_takes_its_position_along(tmp_path):
    settings, params, model = random_model(
        pool="cls", cls_token=True, position="learned_cls"
    )
    path = tmp_path / "a.npz"
    big_vision_npz.write(path, settings, params, CARD)
    arrays = read(path)
    expected = logits(model, IMAGES)
    assert arrays["params/pos_embedding"].shape == (1, 9, 24)
    assert gap(expected, reference.forward(arrays, IMAGES)) <= TOLERANCE
    assert gap(expected, logits(open_model(str(path))[0], IMAGES)) <= TOLERANCE
    arrays["params/cls"] = np.asarray(params["cls"])
    assert gap(expected, reference.forward(arrays, IMAGES)) > 100 * TOLERANCE


def test_mae_positions_become_a_table(tmp_path):
    settings, params, model = random_model(position="sincos2d_mae")
    path = tmp_path / "a.npz"
    big_vision_npz.write(path, settings, params, CARD)
    arrays = read(path)
    assert arrays["params/pos_embedding"].shape == (1, 9, 24)
    expected = reference.forward(arrays, IMAGES)
    assert gap(logits(model, IMAGES), expected) <= TOLERANCE


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("pool", ["cls", "gap", "map"])
def test_timm_reads_what_is_written(tmp_path, pool, scan):
    from tests.foreign import run as run_torch
    from tests.foreign import timm

    settings, params, model = random_model(pool=pool, cls_token=pool == "cls")
    path = tmp_path / "a.npz"
    big_vision_npz.write(path, settings, params, CARD, scan=scan)
    theirs = timm.models.vision_transformer.VisionTransformer(
        **TIMM,
        global_pool={"cls": "token", "gap": "avg", "map": "map"}[pool],
        class_token=pool == "cls",
        no_embed_class=True,
    )
    theirs.load_pretrained(str(path))
    expected = run_torch(theirs.eval(), IMAGES).numpy()
    assert gap(logits(model, IMAGES), expected) <= 2e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": "gap", "cls_token": True}, "pool='gap'"),
        ({"pool": "map", "cls_token": True}, "pool='map'"),
        ({"stem": (1,), "patch_size": (4, 4)}, r"stem=\(1,\)"),
        ({"registers": 2}, "registers=2"),
        ({"distillation": "head"}, "distillation='head'"),
        ({"activation": "gelu"}, "activation='gelu'"),
        ({"norm_epsilon": 1e-12}, "norm_epsilon=1e-12"),
        ({"qk_norm": True}, "qk_norm=True"),
        ({"final_norm": "features"}, "final_norm='features'"),
        ({"position": "none"}, "position='none'"),
    ],
)
def test_refuses_what_big_vision_does_not_have(tmp_path, changes, message):
    settings = complete(tiny.settings(**changes))
    with pytest.raises(WeightsError, match=message):
        big_vision_npz.write(tmp_path / "a.npz", settings, {}, CARD)
    assert not list(tmp_path.iterdir())


def test_the_two_formats_are_told_apart():
    ours = [
        {},
        {"tree": ""},
        {"position": None},
        {"scan": True},
        *OLD,
    ]
    for options in ours:
        arrays = Arrays("a.npz", reference.checkpoint(**options))
        assert big_vision_npz.recognise(arrays), options
        assert not original_npz.recognise(arrays), options
    for numbers in (PRE_LINEN, LINEN):
        arrays = reference_original.checkpoint(numbers=numbers)
        assert original_npz.recognise(Arrays("a.npz", arrays))
        assert not big_vision_npz.recognise(Arrays("a.npz", arrays))
    unknown = reference.checkpoint(position=None, numbers=PRE_LINEN)
    assert not big_vision_npz.recognise(Arrays("a.npz", unknown))
