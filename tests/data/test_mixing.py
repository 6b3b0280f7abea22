"""Flip, normalisation, mixup and cutmix of a global batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import sharding
from vit_jax.data import mixing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pixels(rows, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (rows, 6, 5, 3), np.uint8)


def test_normalize():
    images = pixels(4)
    out = mixing.normalize(jnp.asarray(images), MEAN, STD)
    assert out.dtype == jnp.float32
    expected = (images / 255.0 - np.asarray(MEAN)) / np.asarray(STD)
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_normalize_to_minus_one_and_one():
    images = jnp.asarray([0, 255], jnp.uint8).reshape(2, 1, 1, 1)
    out = mixing.normalize(images, (0.5,), (0.5,))
    np.testing.assert_allclose(np.ravel(out), [-1.0, 1.0], atol=1e-6)


def test_flip_mirrors_half_of_the_rows_left_right():
    images = jnp.asarray(pixels(400), jnp.float32)
    out = np.asarray(mixing.flip(images, jax.random.key(0)))
    images = np.asarray(images)
    same = (out == images).all((1, 2, 3))
    mirrored = (out == images[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 150 < mirrored.sum() < 250  # five standard deviations
    other = np.asarray(mixing.flip(jnp.asarray(images), jax.random.key(1)))
    assert not np.array_equal(other, out)


def mix(images, labels, seed=0, **changes):
    settings = {
        "mixup_alpha": 0.0,
        "cutmix_alpha": 0.0,
        "prob": 1.0,
        "switch": 0.5,
        "per": "batch",
    }
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    key = jax.random.key(seed)
    mixed = mixing.mix(images, labels, key, **(settings | changes))
    return tuple(np.asarray(value) for value in mixed)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_mixup(alpha):
    images = normal(8, 4, 4, 3)
    labels = np.eye(8, dtype=np.float32)  # so that a row's weights can be read off
    weights = []
    for seed in range(20):
        mixed, targets = mix(images, labels, seed, mixup_alpha=alpha)
        weight = targets[0, 0]
        before = np.roll(np.arange(8), 1)  # the row before, around the end
        expected = weight * labels + (1 - weight) * labels[before]
        np.testing.assert_allclose(targets, expected, atol=1e-6)
        expected = weight * images + (1 - weight) * images[before]
        np.testing.assert_allclose(mixed, expected, atol=1e-5)
        np.testing.assert_allclose(targets.sum(-1), 1.0, atol=1e-6)
        weights.append(float(weight))
    assert min(weights) >= 0.5
    assert max(weights) <= 1.0
    assert len(set(weights)) > 10


def drawn(count=4000, **changes):
    settings = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "prob": 1.0, "switch": 0.5}
    weight, cut = mixing.draw_weights(jax.random.key(0), count, **(settings | changes))
    return np.asarray(weight), np.asarray(cut)


def test_mixup_weights_follow_beta():
    weights, cut = drawn(mixup_alpha=0.4)
    rng = np.random.default_rng(0)
    beta = rng.beta(0.4, 0.4, 100_000)
    expected = np.maximum(beta, 1 - beta).mean()
    assert weights.min() >= 0.5
    assert abs(weights.mean() - expected) < 0.02
    assert not cut.any()


def test_cutmix_weights_follow_beta():
    weights, cut = drawn(cutmix_alpha=0.5)
    beta = np.random.default_rng(0).beta(0.5, 0.5, 100_000)
    assert cut.all()
    assert abs(weights.mean() - 0.5) < 4 * beta.std() / 4000**0.5
    assert abs(weights.std() - beta.std()) < 0.02


@pytest.mark.parametrize("switch", [0.0, 0.3, 1.0])
def test_switch_is_the_share_of_cutmix(switch):
    weights, cut = drawn(mixup_alpha=0.8, cutmix_alpha=1.0, switch=switch)
    assert abs(cut.mean() - switch) <= 4 * (switch * (1 - switch) / 4000) ** 0.5
    assert (weights[~cut] >= 0.5).all()
    if switch:
        assert abs((weights[cut] < 0.5).mean() - 0.5) < 0.1


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_prob_is_the_share_that_is_mixed(alphas):
    chosen = {"mixup_alpha": alphas[0], "cutmix_alpha": alphas[1]}
    weights, _ = drawn(prob=0.25, **chosen)
    assert abs((weights < 1).mean() - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5
    weights, _ = drawn(prob=0.0, **chosen)
    assert (weights == 1).all()


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
@pytest.mark.parametrize("per", mixing.MIX_PER)
def test_mixed_pixels_and_labels_agree(alphas, per):
    images, labels = normal(32, 12, 10, 3), np.eye(32, dtype=np.float32)
    mixed, targets = mix(
        images,
        labels,
        mixup_alpha=alphas[0],
        cutmix_alpha=alphas[1],
        per=per,
    )
    partners = np.roll(images, 1, 0)
    weights = np.diagonal(targets)
    expected = weights[:, None] * labels + (1 - weights[:, None]) * np.roll(
        labels, 1, 0
    )
    np.testing.assert_allclose(targets, expected, atol=1e-6)
    kinds = set()
    for row, partner, out, weight in zip(images, partners, mixed, weights, strict=True):
        pasted = (out == partner).all(-1)
        if ((out == row).all(-1) | pasted).all():  # cutmix: a box of the true area
            kinds.add("cutmix")
            assert weight == pytest.approx(1 - pasted.mean(), abs=1e-6)
            rows, columns = pasted.any(1).sum(), pasted.any(0).sum()
            assert pasted.sum() == rows * columns
        else:
            kinds.add("mixup")
            blend = weight * row + (1 - weight) * partner
            np.testing.assert_allclose(out, blend, atol=1e-5)
    if per == "example":
        assert len(set(weights.tolist())) > 10
        assert len(kinds) == sum(alpha > 0 for alpha in alphas)
    else:
        assert len(set(weights.tolist())) == 1


def test_cutmix_boxes_by_hand():
    def box(weight, row, column):
        weights, centre = jnp.asarray([weight]), jnp.asarray([[row, column]])
        return [int(side[0]) for side in mixing.cutmix_box(weights, centre, 20, 40)]

    assert box(0.75, 0.5, 0.5) == [5, 15, 10, 30]  # half of each side
    assert box(0.75, 0.0, 0.99) == [0, 5, 29, 40]  # clipped
    assert box(1.0, 0.3, 0.3) == [6, 6, 12, 12]  # empty
    assert box(0.0, 0.5, 0.5) == [0, 20, 0, 40]
    assert box(0.5, 0.5, 0.5) == [3, 17, 6, 34]  # 14.1 and 28.3 pixels


def test_views_of_a_row_are_mixed_alike():
    images, labels = normal(6, 2, 8, 9, 3), np.eye(6, dtype=np.float32)
    settings = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "per": "example"}
    mixed, targets = mix(images, labels, **settings)
    for view in range(2):
        alone, same = mix(images[:, view], labels, **settings)
        np.testing.assert_array_equal(mixed[:, view], alone)
        np.testing.assert_array_equal(targets, same)


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
@pytest.mark.parametrize("per", mixing.MIX_PER)
def test_a_row_is_mixed_alike_in_any_batch(alphas, per):
    images, labels = normal(16, 8, 8, 1), np.eye(16, dtype=np.float32)
    settings = {"mixup_alpha": alphas[0], "cutmix_alpha": alphas[1], "prob": 0.8}
    whole, _ = mix(images, labels, 3, per=per, **settings)
    part, _ = mix(images[:6], labels[:6], 3, per=per, **settings)
    np.testing.assert_array_equal(part[1:], whole[1:6])  # row 0's partner is another


def test_one_hot():
    out = mixing.one_hot(jnp.asarray([2, 0, -1]), 3)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, [[0, 0, 1], [1, 0, 0], [0, 0, 0]])


def build(**changes):
    settings = {
        "num_classes": 10,
        "mean": MEAN,
        "std": STD,
        "flip_images": False,
        "mixup_alpha": 0.0,
        "cutmix_alpha": 0.0,
        "mix_prob": 1.0,
        "mix_switch": 0.5,
        "mix_per": "batch",
        "erase_rate": 0.0,
        "erase_fill": "noise",
    }
    return mixing.build_prepare(**(settings | changes))


EVERYTHING = {
    "flip_images": True,
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
    "mix_prob": 0.9,
    "mix_per": "example",
    "erase_rate": 0.5,
}


def batch_of(rows, views=0):
    rng = np.random.default_rng(1)
    shape = (rows, views, 6, 5, 3) if views else (rows, 6, 5, 3)
    return {
        "image": jnp.asarray(rng.integers(0, 256, shape, np.uint8)),
        "label": jnp.asarray(rng.integers(0, 10, rows), jnp.int32),
    }


@pytest.mark.parametrize("views", [0, 2])
def test_prepare_without_randomness(views):
    batch = batch_of(8, views)
    out = build()(batch, jax.random.key(0))
    assert set(out) == {"images", "labels"}
    np.testing.assert_array_equal(
        out["images"], mixing.normalize(batch["image"], MEAN, STD)
    )
    np.testing.assert_array_equal(out["labels"], np.eye(10)[batch["label"]])


@pytest.mark.parametrize("views", [0, 3])
@pytest.mark.parametrize(
    "change",
    [
        {"flip_images": True},
        {"erase_rate": 1.0},
        {"mixup_alpha": 0.5},
        {"cutmix_alpha": 1.0, "mix_per": "example"},
    ],
)
def test_prepare_turns_each_part_on(change, views):
    batch, key = batch_of(8, views), jax.random.key(0)
    plain, out = build()(batch, key), build(**change)(batch, key)
    assert out["images"].shape == plain["images"].shape
    assert not np.array_equal(out["images"], plain["images"])
    mixes = "mixup_alpha" in change or "cutmix_alpha" in change
    assert np.array_equal(out["labels"], plain["labels"]) == (not mixes)


def test_views_are_flipped_apart():
    images = jnp.asarray(normal(200, 2, 4, 5, 3))
    out = np.asarray(mixing.flip(images, jax.random.key(0)))
    flipped = (out == np.asarray(images)[..., ::-1, :]).all((2, 3, 4))
    assert 30 < (flipped[:, 0] != flipped[:, 1]).sum() < 170
    assert ((out == np.asarray(images)).all((2, 3, 4)) ^ flipped).all()


def test_prepare_draws_as_it_always_did():
    """Flip from the first half of the key, one mixup weight from the second."""
    batch, key = batch_of(8), jax.random.key(11)

    def before(batch, key):
        flip_key, mixup_key = jax.random.split(key)
        images = mixing.normalize(batch["image"], MEAN, STD)
        labels = mixing.one_hot(batch["label"], 10)
        mirrored = jax.random.bernoulli(flip_key, 0.5, (8, 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
        weight = jax.random.beta(mixup_key, 0.2, 0.2)
        weight = jnp.maximum(weight, 1.0 - weight)
        return {
            "images": weight * images + (1.0 - weight) * jnp.roll(images, 1, axis=0),
            "labels": weight * labels + (1.0 - weight) * jnp.roll(labels, 1, axis=0),
        }

    out = jax.jit(build(flip_images=True, mixup_alpha=0.2))(batch, key)
    for name, expected in jax.jit(before)(batch, key).items():
        np.testing.assert_array_equal(out[name], expected)


def test_erasing_comes_before_mixing_and_draws_for_itself():
    batch, key = batch_of(8), jax.random.key(2)
    erased = build(erase_rate=1.0, erase_fill="zero")(batch, key)["images"]
    both = build(erase_rate=1.0, erase_fill="zero", mixup_alpha=0.2)(batch, key)
    plain = build(mixup_alpha=0.2)(batch, key)
    np.testing.assert_array_equal(both["labels"], plain["labels"])
    assert not np.array_equal(both["images"], plain["images"])
    labels = np.eye(8, dtype=np.float32)
    mixed, _ = mixing.mix(
        erased,
        jnp.asarray(labels),
        jax.random.split(key)[1],
        mixup_alpha=0.2,
        cutmix_alpha=0.0,
        prob=1.0,
        switch=0.5,
        per="batch",
    )
    np.testing.assert_array_equal(both["images"], mixed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mix_per": "pair"}, "mix_per 'pair' is unknown; known: batch, example"),
        ({"erase_fill": "mean"}, "erase_fill 'mean' is unknown; known: noise, zero"),
    ],
)
def test_build_prepare_reports_unknown_names(change, message):
    with pytest.raises(ValueError, match=message):
        build(**change)


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize(
    "settings",
    [{"flip_images": True, "mixup_alpha": 0.2}, EVERYTHING],
    ids=["usual", "everything"],
)
def test_prepare_is_the_same_on_eight_devices(settings, views):
    batch, key = batch_of(16, views), jax.random.key(7)
    prepare = jax.jit(build(**settings))
    mesh = sharding.build_mesh(slices=1, data=4, fsdp=2, tensor=1, sequence=1)
    rows = sharding.batch_sharding(mesh)
    expected = prepare(batch, key)
    sharded = jax.jit(build(**settings), out_shardings=rows)(
        jax.device_put(batch, rows), jax.device_put(key, sharding.replicated(mesh))
    )
    assert len(sharded["images"].sharding.device_set) == 8
    assert sharded["images"].addressable_shards[0].data.shape[0] == 2
    for name, value in expected.items():
        np.testing.assert_allclose(sharded[name], value, atol=1e-6)


@pytest.mark.parametrize("per", mixing.MIX_PER)
def test_class_numbers_are_mixed_as_their_rows(per):
    images, labels = normal(8, 4, 4, 3), np.array([3, 0, 1, -1, 4, 4, 2, 0])
    settings = {"mixup_alpha": 0.5, "cutmix_alpha": 1.0, "per": per}
    encode = functools.partial(mixing.one_hot, num_classes=5)
    mixed, targets = mix(images, labels, encode=encode, **settings)
    same, expected = mix(images, encode(jnp.asarray(labels)), **settings)
    np.testing.assert_array_equal(mixed, same)
    np.testing.assert_array_equal(targets, expected)
