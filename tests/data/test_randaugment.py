"""RandAugment: every operation on a case worked by hand, and the magnitude table."""

import numpy as np
import pytest

from vit_jax.data.randaugment import (
    FILL,
    OPS,
    autocontrast,
    brightness,
    color,
    contrast,
    cutout,
    equalize,
    invert,
    posterize,
    randaugment,
    rotate,
    sharpness,
    shear_x,
    shear_y,
    solarize,
    solarize_add,
    translate_x,
    translate_y,
)


def row(*values):
    return np.array([values], np.uint8)[:, :, None]


def values(image):
    assert image.dtype == np.uint8
    return image[0, :, 0].tolist()


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def ramp(size=224):
    """An image whose pixels say where they are: channels (row, column, 1)."""
    rows, columns = np.mgrid[:size, :size]
    return np.stack([rows, columns, np.ones_like(rows)], axis=-1).astype(np.uint8)


class Fixed(np.random.Generator):
    """A generator that always draws the same number."""

    def __init__(self, number):
        super().__init__(np.random.PCG64(0))
        self.number = number

    def random(self, *args, **kwargs):
        return self.number


# --- point operations


def test_invert():
    assert values(invert(row(0, 1, 200, 255))) == [255, 254, 55, 0]


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (8, [0, 77, 128, 255]),
        (4, [0, 64, 128, 240]),
        (1, [0, 0, 128, 128]),
        (0, [0, 0, 128, 128]),
        (10, [0, 77, 128, 255]),
    ],
)
def test_posterize(bits, expected):
    assert values(posterize(row(0, 77, 128, 255), bits)) == expected


def test_solarize():
    image = row(0, 99, 100, 255)
    assert values(solarize(image, 100)) == [0, 99, 155, 0]
    assert values(solarize(image, 0)) == [255, 156, 155, 0]
    assert values(solarize(image, 256)) == [0, 99, 100, 255]


def test_solarize_add():
    image = row(0, 127, 128, 250)
    assert values(solarize_add(image, 110)) == [110, 237, 128, 250]
    assert values(solarize_add(image, 200)) == [200, 255, 128, 250]


def test_autocontrast_stretches_each_channel():
    image = np.array([[[50, 7, 0], [100, 7, 255], [150, 7, 9]]], np.uint8)
    stretched = autocontrast(image)
    assert stretched[0, :, 0].tolist() == [0, 127, 255]
    assert stretched[0, :, 1].tolist() == [7, 7, 7]  # constant: as it was
    assert stretched[0, :, 2].tolist() == [0, 255, 9]
    assert values(autocontrast(row(10, 20, 40))) == [0, 85, 255]


def test_equalize_by_hand():
    # 510 pixels below the last value: a step of 2, and a value maps to the number of
    # pixels below it, plus one, halved.
    image = np.repeat(np.array([10, 20, 30], np.uint8), [200, 310, 90])
    image = image.reshape(20, 30, 1)
    equal = equalize(image)
    assert {v: int(equal[image == v][0]) for v in (10, 20, 30)} == {
        10: 0,
        20: 100,
        30: 255,
    }
    few = row(3, 200, 9)  # fewer than 255 pixels: a step of 0 changes nothing
    np.testing.assert_array_equal(equalize(few), few)


def test_equalize_treats_channels_apart():
    image = noise(32, 32, 3)
    image[:, :, 1] //= 4
    for channel in range(3):
        np.testing.assert_array_equal(
            equalize(image)[:, :, channel], equalize(image[:, :, channel, None])[..., 0]
        )
    assert equalize(image)[:, :, 1].max() == 255


def test_brightness():
    image = row(0, 10, 101, 200)
    assert values(brightness(image, 0)) == [0, 0, 0, 0]
    assert values(brightness(image, 0.5)) == [0, 5, 50, 100]
    assert values(brightness(image, 1.0)) == [0, 10, 101, 200]
    assert values(brightness(image, 1.5)) == [0, 15, 151, 255]


def test_contrast_turns_about_the_mean():
    image = row(0, 100, 200)
    assert values(contrast(image, 0)) == [100, 100, 100]
    assert values(contrast(image, 0.5)) == [50, 100, 150]
    assert values(contrast(image, 2)) == [0, 100, 255]
    rgb = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    assert np.all(contrast(rgb, 0) == 76)  # the gray value of red


def test_color_turns_about_gray():
    image = np.full((2, 2, 3), (200, 100, 50), np.uint8)
    gray = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)  # 124
    assert color(image, 0)[0, 0].tolist() == [gray] * 3
    assert color(image, 0.5)[0, 0].tolist() == [162, 112, 87]
    assert color(image, 1.5)[0, 0].tolist() == [238, 88, 13]
    np.testing.assert_array_equal(color(image, 1), image)
    one = noise(4, 4, 1)
    np.testing.assert_array_equal(color(one, 0.1), one)


def test_sharpness_turns_about_the_smoothed_image():
    image = np.zeros((5, 5, 1), np.uint8)
    image[2, 2] = 130
    smooth = sharpness(image, 0)[:, :, 0]
    expected = np.zeros((5, 5), int)
    expected[1:4, 1:4] = 10
    expected[2, 2] = 50
    np.testing.assert_array_equal(smooth, expected)
    assert sharpness(image, 1.5)[2, 2, 0] == 50 + 1.5 * 80
    np.testing.assert_array_equal(sharpness(image, 1), image)
    image = noise(6, 6, 3)
    border = np.ones((6, 6), bool)
    border[1:-1, 1:-1] = False
    np.testing.assert_array_equal(sharpness(image, 0)[border], image[border])


# --- geometric operations


@pytest.mark.parametrize("channels", [1, 3])
def test_translate_moves_by_whole_pixels(channels):
    image = ramp()[:, :, :channels]
    left = translate_x(image, 30 / 224)
    np.testing.assert_array_equal(left[:, :-30], image[:, 30:])
    assert np.all(left[:, -30:] == FILL)
    down = translate_y(image, -17 / 224)
    np.testing.assert_array_equal(down[17:], image[:-17])
    assert np.all(down[:17] == FILL)


def test_translate_scales_with_the_side():
    image = noise(8, 12, 3)
    moved = translate_x(image, 100 / 224)  # 5.36 pixels of 12
    np.testing.assert_array_equal(moved[:, :7], image[:, 5:])
    moved = translate_y(image, 100 / 224)  # 3.57 pixels of 8
    np.testing.assert_array_equal(moved[:4], image[4:])
    assert np.all(translate_y(image, 2.0) == FILL)


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("channels", [1, 3])
def test_rotate_is_counterclockwise_about_the_centre(size, channels):
    image = noise(size, size, channels)
    np.testing.assert_array_equal(rotate(image, 90), np.rot90(image))
    np.testing.assert_array_equal(rotate(image, -90), np.rot90(image, -1))
    np.testing.assert_array_equal(rotate(image, 180), np.rot90(image, 2))
    np.testing.assert_array_equal(rotate(image, 0), image)


def test_rotate_fills_the_corners():
    turned = rotate(np.zeros((21, 21, 3), np.uint8), 30)
    corners = turned[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.all(corners == FILL)
    assert np.all(turned[8:13, 8:13] == 0)
    assert 0.02 < np.mean(turned == FILL) < 0.25


def test_shear_moves_rows_and_columns_in_proportion():
    image = ramp(64)
    sheared = shear_x(image, 0.5)
    for y in (0, 10, 40):
        shift = y // 2
        np.testing.assert_array_equal(sheared[y, : 64 - shift], image[y, shift:])
        assert np.all(sheared[y, 64 - shift :] == FILL)
    np.testing.assert_array_equal(
        shear_y(image.transpose(1, 0, 2), 0.5), sheared.transpose(1, 0, 2)
    )
    assert np.all(shear_x(image, -0.5)[20, :10] == FILL)
    np.testing.assert_array_equal(shear_x(image, -0.5)[20, 10:], image[20, :-10])


def test_cutout_fills_a_clipped_square():
    image = np.zeros((224, 224, 3), np.uint8)
    cut = cutout(image, 40 / 224, 0.5, 0.5)
    expected = image.copy()
    expected[72:152, 72:152] = FILL
    np.testing.assert_array_equal(cut, expected)
    assert image.max() == 0  # the input is left alone
    corner = cutout(image, 40 / 224, 0.0, 0.999)
    assert np.count_nonzero(corner[:, :, 0]) == 40 * 41
    assert corner[0, -1, 0] == FILL
    tiny = cutout(np.zeros((8, 8, 1), np.uint8), 40 / 224, 0.5, 0.5)
    assert np.count_nonzero(tiny) == 4


# --- magnitudes

TABLE = {  # name: arguments at magnitudes 0, 5, 10, 20, signs left out
    "AutoContrast": [(), (), (), ()],
    "Equalize": [(), (), (), ()],
    "Invert": [(), (), (), ()],
    "Rotate": [(0,), (15,), (30,), (60,)],
    "Posterize": [(0,), (2,), (4,), (8,)],
    "Solarize": [(0,), (128,), (256,), (512,)],
    "SolarizeAdd": [(0,), (55,), (110,), (220,)],
    "Color": [(0.1,), (1.0,), (1.9,), (3.7,)],
    "Contrast": [(0.1,), (1.0,), (1.9,), (3.7,)],
    "Brightness": [(0.1,), (1.0,), (1.9,), (3.7,)],
    "Sharpness": [(0.1,), (1.0,), (1.9,), (3.7,)],
    "ShearX": [(0,), (0.15,), (0.3,), (0.6,)],
    "ShearY": [(0,), (0.15,), (0.3,), (0.6,)],
    "TranslateX": [(0,), (50 / 224,), (100 / 224,), (200 / 224,)],
    "TranslateY": [(0,), (50 / 224,), (100 / 224,), (200 / 224,)],
    "Cutout": [(0, 0.25, 0.25), *((p / 224, 0.25, 0.25) for p in (20, 40, 80))],
}
SIGNED = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"}


def test_operations_are_the_sixteen():
    assert set(OPS) == set(TABLE)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_arguments_follow_the_table(name):
    arguments = OPS[name][1]
    for magnitude, expected in zip((0, 5, 10, 20), TABLE[name], strict=True):
        got = np.array(arguments(magnitude, Fixed(0.25)))
        np.testing.assert_allclose(got, np.array(expected), rtol=1e-12)
        other = np.array(arguments(magnitude, Fixed(0.75)))
        if name in SIGNED:
            np.testing.assert_array_equal(other, -got)
        elif name != "Cutout":
            np.testing.assert_array_equal(other, got)


def test_whole_number_strengths_round_down():
    assert OPS["Posterize"][1](9, Fixed(0.0)) == (3,)
    assert OPS["Solarize"][1](9, Fixed(0.0)) == (230,)
    assert OPS["SolarizeAdd"][1](2.5, Fixed(0.0)) == (27,)


# --- the whole


@pytest.mark.parametrize(
    "shape", [(8, 8, 1), (8, 8, 3), (224, 224, 3), (1, 1, 3), (5, 9, 1)]
)
@pytest.mark.parametrize("name", sorted(TABLE))
def test_every_operation_keeps_the_form(shape, name):
    image = noise(*shape)
    image.flags.writeable = False
    apply, arguments = OPS[name]
    for magnitude in (0, 10, 20.0):
        out = apply(image, *arguments(magnitude, np.random.default_rng(0)))
        assert out.shape == shape
        assert out.dtype == np.uint8


def test_no_layers_is_the_image():
    image = noise(8, 8, 3)
    out = randaugment(image, np.random.default_rng(0), layers=0, magnitude=10)
    np.testing.assert_array_equal(out, image)


def test_randaugment_is_a_function_of_the_rng():
    image = noise(16, 16, 3)
    first, second = (
        [
            randaugment(image, np.random.default_rng(seed), layers=2, magnitude=9)
            for seed in range(30)
        ]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert len({out.tobytes() for out in first}) > 20


def test_operations_are_drawn_uniformly(monkeypatch):
    counts = dict.fromkeys(OPS, 0)

    def counting(name):
        def apply(image, *arguments):
            counts[name] += 1
            return image

        return apply

    fakes = {name: (counting(name), OPS[name][1]) for name in OPS}
    monkeypatch.setattr("vit_jax.data.randaugment.OPS", fakes)
    rng = np.random.default_rng(0)
    randaugment(noise(8, 8, 1), rng, layers=4800, magnitude=10)
    assert sum(counts.values()) == 4800
    assert min(counts.values()) > 300 - 4 * 17  # 17: one standard deviation
    assert max(counts.values()) < 300 + 4 * 17


def test_signs_are_even():
    rng = np.random.default_rng(0)
    signs = [np.sign(OPS["ShearX"][1](10, rng)[0]) for _ in range(1000)]
    assert abs(np.mean(signs)) < 0.1
