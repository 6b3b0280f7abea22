"""Decode, crops and the host-side transforms."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from vit_jax.data.augment import eval_transform, train_transform
from vit_jax.data.crops import (
    CROPS,
    central_crop,
    inception_crop,
    long_part,
    pad_crop,
    random_crop,
    resize,
    resize_small,
    sample_box,
    simple_crop,
)
from vit_jax.data.decode import decode
from vit_jax.data.errors import BadExampleError
from vit_jax.data.policies import POLICIES, color_jitter

RED, GREEN, BLUE = (250, 10, 20), (5, 240, 30), (15, 25, 230)
SHAPES = [(8, 8, 1), (8, 8, 3), (37, 53, 1), (53, 37, 3), (1, 1, 3), (3, 60, 3)]


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def coordinates(height, width):
    """An image whose pixels say where they are: channels (row, column, 1)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.ones_like(rows)], axis=-1).astype(np.uint8)


def encode(array, file_format, **options):
    stream = io.BytesIO()
    Image.fromarray(array.squeeze()).save(stream, file_format, **options)
    return stream.getvalue()


def train(**changes):
    settings = {
        "image_size": (16, 16),
        "channels": 3,
        "crop": "inception",
        "area": (0.05, 1.0),
        "resize": (20, 20),
        "pad": 2,
        "policy": "none",
        "randaugment_layers": 2,
        "randaugment_magnitude": 10,
        "color_jitter": 0.0,
        "views": 1,
    }
    return train_transform(**(settings | changes))


# --- decode


def test_decode_png_is_exact_and_rgb():
    image = np.array([[RED, GREEN], [BLUE, RED]], np.uint8)
    np.testing.assert_array_equal(decode(encode(image, "PNG"), channels=3), image)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "BMP"])
def test_decode_other_formats_are_rgb(file_format):
    image = np.full((16, 24, 3), RED, np.uint8)
    decoded = decode(encode(image, file_format, quality=95), channels=3)
    assert decoded.shape == (16, 24, 3)
    np.testing.assert_allclose(decoded.astype(int), image.astype(int), atol=6)


def test_decode_converts_between_gray_and_rgb():
    gray = noise(5, 7)
    assert decode(encode(gray, "PNG"), channels=1).shape == (5, 7, 1)
    for source in (encode(gray, "PNG"), gray, gray[:, :, None]):
        rgb = decode(source, channels=3)
        np.testing.assert_array_equal(rgb, np.repeat(gray[:, :, None], 3, axis=2))
        np.testing.assert_array_equal(decode(source, channels=1)[:, :, 0], gray)
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    for source in (encode(red, "PNG"), red):
        assert np.all(np.abs(decode(source, channels=1).astype(int) - 76) <= 1)


def test_decode_drops_alpha():
    rgba = np.concatenate([noise(4, 4, 3), np.zeros((4, 4, 1), np.uint8)], axis=2)
    np.testing.assert_array_equal(
        decode(encode(rgba, "PNG"), channels=3), rgba[..., :3]
    )


def test_decode_ignores_exif_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to display
    data = encode(noise(16, 32, 3), "JPEG", exif=exif)
    assert decode(data, channels=3).shape == (16, 32, 3)
    assert decode(data, channels=1).shape == (16, 32, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_decode_falls_back_to_pil(channels):
    image = noise(6, 9, 3)
    data = encode(image, "PCX")
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is None
    decoded = decode(data, channels=channels)
    assert decoded.shape == (6, 9, channels)
    if channels == 3:
        np.testing.assert_array_equal(decoded, image)


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken"])
def test_decode_reports_what_it_cannot_read(data):
    with pytest.raises(
        ValueError, match=f"cannot decode image: {len(data)} bytes"
    ) as e:
        decode(data, channels=3)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4), np.float32), r"got float32 \[4, 4\]"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"got uint8 \[2, 4, 4, 3\]"),
        (np.zeros((4, 4, 2), np.uint8), r"expected 1 or 3 channels"),
    ],
)
def test_decode_reports_wrong_arrays(array, message):
    with pytest.raises(ValueError, match=message):
        decode(array, channels=3)


def test_decode_reports_wrong_channels():
    with pytest.raises(ValueError, match="channels must be 1"):
        decode(noise(4, 4, 3), channels=4)


# --- crops


def boxes(height, width, count, area=(0.05, 1.0), ratio=(3 / 4, 4 / 3)):
    rng = np.random.default_rng(1)
    return np.array(
        [sample_box(height, width, rng, area=area, ratio=ratio) for _ in range(count)]
    )


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (224, 224)])
def test_inception_boxes_keep_their_limits(height, width):
    top, left, box_height, box_width = boxes(height, width, 2000).T
    fraction = box_height * box_width / (height * width)
    aspect = box_width / box_height
    assert np.all((top >= 0) & (left >= 0))
    assert np.all((top + box_height <= height) & (left + box_width <= width))
    assert 0.05 <= fraction.min() < 0.07 < 0.75 < fraction.max() <= 1
    # Whole pixels: the width is off by half a pixel at most, of 44 or more.
    assert 0.74 <= aspect.min() < 0.77 < 1.3 < aspect.max() <= 1.35
    assert np.any(top + box_height == height)
    assert np.any(left + box_width == width)


def test_inception_heights_are_uniform_for_a_fixed_aspect_ratio():
    _, _, height, width = boxes(400, 400, 4000, ratio=(1.0, 1.0)).T
    np.testing.assert_array_equal(height, width)
    low, high = 400 * 0.05**0.5, 400
    assert abs(height.mean() - (low + high) / 2) < 6  # 4.2 standard errors
    assert abs(height.std() - (high - low) / 12**0.5) < 5
    # Uniform in the side, so the mean area is (1 + s + s^2) / 3 with s^2 = 0.05.
    assert abs((height * width).mean() / 400**2 - 0.4245) < 0.02


def test_inception_aspect_ratios_are_uniform():
    _, _, height, width = boxes(2000, 2000, 4000, area=(0.1, 0.2)).T
    quartiles = np.quantile(width / height, [0.25, 0.5, 0.75])
    expected = 3 / 4 + np.array([0.25, 0.5, 0.75]) * (4 / 3 - 3 / 4)
    np.testing.assert_allclose(quartiles, expected, atol=0.025)


def test_inception_positions_are_uniform():
    top, left, height, width = boxes(300, 400, 4000, area=(0.1, 0.3)).T
    assert abs((top / (300 - height)).mean() - 0.5) < 0.02
    assert abs((left / (400 - width)).mean() - 0.5) < 0.02


def test_inception_uses_the_whole_image_when_nothing_fits():
    np.testing.assert_array_equal(boxes(10, 200, 1, area=(0.9, 1.0)), [[0, 0, 10, 200]])
    image = noise(10, 200, 3)
    cropped = inception_crop(
        image, np.random.default_rng(0), image_size=(10, 200), area=(0.9, 1.0)
    )
    np.testing.assert_array_equal(cropped, image)


def test_inception_crops_before_it_resizes():
    image = coordinates(200, 200)
    cropped = inception_crop(
        image, np.random.default_rng(3), image_size=(32, 32), area=(0.05, 0.1)
    )
    assert cropped.shape == (32, 32, 3)
    for axis in (0, 1):
        values = cropped[:, :, axis].astype(int)
        assert np.all(np.diff(values, axis=axis) >= 0)
        # A side of sqrt(0.05 / (4 / 3)) to sqrt(0.1 / (3 / 4)) of 200, less one step.
        assert 36 < np.ptp(values) < 74


def test_random_crop_is_a_window_of_the_resized_image():
    image, seen = coordinates(12, 10), set()
    rng = np.random.default_rng(0)
    for _ in range(300):
        crop = random_crop(image, rng, image_size=(10, 9), resize=(12, 10))
        top, left = int(crop[0, 0, 0]), int(crop[0, 0, 1])
        np.testing.assert_array_equal(crop, image[top : top + 10, left : left + 9])
        seen.add((top, left))
    assert seen == {(top, left) for top in range(3) for left in range(2)}
    enlarged = random_crop(noise(5, 5, 1), rng, image_size=(8, 8), resize=(9, 11))
    assert enlarged.shape == (8, 8, 1)


def test_pad_crop_shifts_within_zeros():
    image = coordinates(8, 8) + 1  # no zeros of its own
    padded = np.zeros((12, 12, 3), np.uint8)
    padded[2:10, 2:10] = image
    windows = {
        padded[top : top + 8, left : left + 8].tobytes(): (top, left)
        for top in range(5)
        for left in range(5)
    }
    rng = np.random.default_rng(0)
    crops = [pad_crop(image, rng, image_size=(8, 8), pad=2) for _ in range(400)]
    assert {windows[crop.tobytes()] for crop in crops} == set(windows.values())


def test_pad_crop_without_padding_is_the_image():
    image = noise(8, 8, 1)
    crop = pad_crop(image, np.random.default_rng(0), image_size=(8, 8), pad=0)
    np.testing.assert_array_equal(crop, image)


@pytest.mark.parametrize("channels", [1, 3])
def test_simple_crop_shifts_within_a_reflection(channels):
    image = coordinates(8, 11)[:, :, :channels]
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    windows = {
        padded[top : top + 8, left : left + 8].tobytes(): (top, left)
        for top in range(5)
        for left in range(8)
    }
    rng = np.random.default_rng(0)
    crops = [simple_crop(image, rng, image_size=(8, 8), pad=2) for _ in range(800)]
    assert {windows[crop.tobytes()] for crop in crops} == set(windows.values())


@pytest.mark.parametrize(
    ("shape", "size", "covering"),
    [
        ((300, 400), (24, 24), (24, 32)),
        ((400, 300), (24, 24), (32, 24)),
        ((10, 40), (20, 24), (20, 80)),  # enlarged
        ((30, 30), (12, 24), (24, 24)),  # not square: covers both sides
    ],
)
def test_simple_crop_keeps_the_aspect_ratio(shape, size, covering):
    image = noise(*shape, 3)
    kind = cv2.INTER_AREA if covering[0] < shape[0] else cv2.INTER_LINEAR
    scaled = cv2.resize(image, covering[::-1], interpolation=kind)
    crop = simple_crop(image, np.random.default_rng(2), image_size=size, pad=0)
    assert crop.shape == (*size, 3)
    windows = [
        scaled[top : top + size[0], left : left + size[1]]
        for top in range(covering[0] - size[0] + 1)
        for left in range(covering[1] - size[1] + 1)
    ]
    assert any(np.array_equal(crop, window) for window in windows)


def test_resize_is_bilinear_with_half_pixel_centres():
    image = np.array([[0, 100]], np.uint8)[:, :, None]
    enlarged = resize(image, image_size=(1, 4))
    np.testing.assert_array_equal(enlarged[0, :, 0], [0, 25, 75, 100])


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((300, 400), 256, (256, 341)),
        ((400, 300), 256, (341, 256)),
        ((8, 8), 16, (16, 16)),
        ((256, 500), 256, (256, 500)),
    ],
)
def test_resize_small_keeps_the_aspect_ratio(shape, size, expected):
    assert resize_small(noise(*shape, 3), size=size).shape == (*expected, 3)


def test_resize_small_averages_when_it_shrinks():
    image = noise(12, 16, 1)
    blocks = image.reshape(3, 4, 4, 4).mean(axis=(1, 3))
    small = resize_small(image, size=3)[:, :, 0]
    np.testing.assert_allclose(small.astype(float), blocks, atol=0.51)


def test_resize_small_interpolates_when_it_enlarges():
    image = np.array([[0, 100], [0, 100]], np.uint8)[:, :, None]
    large = resize_small(image, size=4)
    np.testing.assert_array_equal(large[:, :, 0], [[0, 25, 75, 100]] * 4)


def test_central_crop_cuts_the_middle():
    crop = central_crop(coordinates(11, 20), image_size=(5, 6))
    np.testing.assert_array_equal(crop[0, 0], [3, 7, 1])
    np.testing.assert_array_equal(crop[-1, -1], [7, 12, 1])


@pytest.mark.parametrize("shape", [(5, 20, 3), (20, 5, 1), (5, 6, 3), (7, 7, 1)])
def test_central_crop_enlarges_what_is_too_small(shape):
    image = noise(*shape)
    crop = central_crop(image, image_size=(9, 10))
    assert crop.shape == (9, 10, shape[2])
    assert abs(crop.mean() - image.mean()) < 30  # pixels of the image, no padding


# --- transforms


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", sorted(CROPS))
def test_train_transform_output_form(shape, channels, crop):
    transform = train(
        crop=crop, channels=channels, policy="randaugment", color_jitter=0.3
    )
    image = noise(*shape)
    before = image.copy()
    for seed in range(5):
        out = transform(image, np.random.default_rng(seed))
        assert out.shape == (16, 16, channels)
        assert out.dtype == np.uint8
        assert out.flags.c_contiguous
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("crop", sorted(CROPS))
@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_train_transform_is_a_function_of_image_and_rng(crop, policy, jitter):
    transform = train(crop=crop, policy=policy, color_jitter=jitter)
    data = encode(noise(30, 40, 3), "PNG")
    outputs = [
        [transform(data, np.random.default_rng(seed)).tobytes() for seed in range(20)]
        for _ in range(2)
    ]
    assert outputs[0] == outputs[1]
    varies = policy != "none" or jitter > 0 or crop != "resize"
    assert (len(set(outputs[0])) > 5) == varies


def test_train_transform_passes_its_settings_on():
    image = coordinates(100, 100)
    small = train(area=(0.05, 0.06))(image, np.random.default_rng(0))
    assert np.ptp(small[:, :, 0]) < 30
    whole = train(crop="random", resize=(16, 16))(image, np.random.default_rng(0))
    np.testing.assert_array_equal(whole, resize(image, image_size=(16, 16)))
    still = train(crop="pad", pad=0)(image, np.random.default_rng(0))
    np.testing.assert_array_equal(still, resize(image, image_size=(16, 16)))
    flat = train(crop="resize")(image, np.random.default_rng(0))
    np.testing.assert_array_equal(flat, resize(image, image_size=(16, 16)))
    still = train(crop="simple", pad=0)(image, np.random.default_rng(0))
    np.testing.assert_array_equal(still, resize_small(image, size=16))
    inverting = train(
        crop="resize", policy="randaugment", randaugment_layers=1, color_jitter=0.0
    )
    still = train(crop="resize", policy="randaugment", randaugment_layers=0)
    np.testing.assert_array_equal(still(image, np.random.default_rng(0)), flat)
    outputs = {inverting(image, np.random.default_rng(i)).tobytes() for i in range(40)}
    assert len(outputs) > 10


def test_train_transform_applies_the_policy_then_the_jitter():
    image, seed = noise(16, 16, 3), 5
    out = train(crop="resize", policy="three_augment", color_jitter=0.4)(
        image, np.random.default_rng(seed)
    )
    rng = np.random.default_rng(seed)
    expected = POLICIES["three_augment"](image, rng)
    expected = color_jitter(expected, rng, strength=0.4)
    np.testing.assert_array_equal(out, expected)


def gif_larger_than_its_screen(pixels):
    """A GIF whose header says 20 x 10; the frame is larger, and so is what PIL gives."""
    data = bytearray(encode(pixels, "GIF"))
    data[6:10] = (20).to_bytes(2, "little") + (10).to_bytes(2, "little")
    return bytes(data)


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "jpeg"])
def test_a_second_visit_gives_the_same_pixels(kind):
    pixels = cv2.resize(noise(12, 15, 3), (150, 120))
    if kind == "gif":
        data = gif_larger_than_its_screen(pixels)
        assert decode(data, channels=3).shape[:2] == (120, 150)
    else:
        data = encode(pixels, kind.upper())
    transform = train(area=(0.05, 0.5))
    for seed in range(20):
        first, second = (
            transform(data, np.random.default_rng(seed), sound=sound)
            for sound in (False, True)
        )
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "JPEG", "BMP", "WEBP"])
def test_a_second_visit_of_a_file_that_is_cut_since(kind):
    data = encode(noise(40, 30, 3), kind)
    for size in range(2, 40):
        with pytest.raises(BadExampleError, match="cannot decode image"):
            train()(data[:size], np.random.default_rng(0), sound=True)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_views_are_draws_of_the_same_rng(channels, policy):
    settings = {"channels": channels, "policy": policy, "color_jitter": 0.3}
    image = noise(30, 40, 3)
    views = train(views=3, **settings)(image, np.random.default_rng(4))
    assert views.shape == (3, 16, 16, channels)
    assert views.dtype == np.uint8 and views.flags.c_contiguous
    one, rng = train(**settings), np.random.default_rng(4)
    np.testing.assert_array_equal(views, [one(image, rng) for _ in range(3)])
    assert len({view.tobytes() for view in views}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": "centre"}, "unknown crop 'centre'; known: inception, pad, random"),
        ({"area": (0.0, 1.0)}, "area must satisfy"),
        ({"area": (0.5, 0.2)}, "area must satisfy"),
        ({"crop": "random", "resize": None}, "needs resize of at least"),
        ({"crop": "random", "resize": (15, 20)}, "needs resize of at least"),
        ({"crop": "pad", "pad": -1}, "pad must not be negative"),
        ({"crop": "simple", "pad": -1}, "pad must not be negative"),
        ({"crop": "simple", "pad": 16}, "pad must be less than 16 .* got 16"),
        ({"policy": "augmix"}, "unknown policy 'augmix'; known: autoaugment, none, "),
        ({"color_jitter": -0.1}, "color_jitter must be finite and not negative"),
        ({"color_jitter": float("nan")}, "color_jitter must be finite"),
        ({"views": 0}, "views at least 1"),
        ({"randaugment_layers": -1}, "must not be negative"),
        ({"randaugment_magnitude": -0.5}, "must not be negative"),
    ],
)
def test_train_transform_reports_wrong_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        train(**changes)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [0, 12, 20])
def test_eval_transform_output_form(shape, channels, size):
    transform = eval_transform(image_size=(16, 14), channels=channels, resize=size)
    out = transform(noise(*shape))
    assert out.shape == (16, 14, channels)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous


def test_eval_transform_resizes_then_crops():
    image = noise(60, 80, 3)
    data = encode(image, "PNG")
    cropped = eval_transform(image_size=(24, 24), channels=3, resize=30)(data)
    np.testing.assert_array_equal(
        cropped, cv2.resize(image, (40, 30), interpolation=cv2.INTER_AREA)[3:27, 8:32]
    )
    direct = eval_transform(image_size=(24, 20), channels=3, resize=0)(data)
    np.testing.assert_array_equal(direct, cv2.resize(image, (20, 24)))


def long_image(length, axis):
    """Its colour says how far along it is, from 0 to 1000 of 1001."""
    ramp = np.arange(length) * 1001 // length
    pixels = np.stack([ramp // 256, ramp % 256, ramp * 0], -1).astype(np.uint8)
    image = np.repeat(pixels[None], 2, axis=0)
    return image if axis else np.ascontiguousarray(image.swapaxes(0, 1))


def along(crop):
    """Where a crop of a `long_image` is, by its middle pixel."""
    high, low, _ = map(int, crop[crop.shape[0] // 2, crop.shape[1] // 2])
    return high * 256 + low


@pytest.fixture
def largest(monkeypatch):
    """The most pixels that a scaled image had."""
    sizes = [0]
    original = cv2.resize

    def scaled(image, size, **options):
        assert size[0] * size[1] < 10_000_000, "would take gigabytes"
        sizes.append(size[0] * size[1])
        return original(image, size, **options)

    monkeypatch.setattr(cv2, "resize", scaled)
    return lambda: max(sizes)


@pytest.mark.parametrize("axis", [0, 1])
def test_an_extremely_long_image_takes_little_memory(largest, axis):
    image = long_image(60_000, axis)
    data = encode(image, "PNG")
    assert len(data) < 5000
    transform = eval_transform(image_size=(224, 224), channels=3, resize=256)
    crop = transform(data)
    assert crop.shape == (224, 224, 3)
    assert along(crop) == 500  # the middle
    assert 0 < largest() <= 100 * 256 * 256
    places = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        crop = simple_crop(image, rng, image_size=(224, 200), pad=4)
        assert crop.shape == (224, 200, 3)
        places.append(along(crop))
    assert min(places) < 200 and max(places) > 800  # anywhere
    assert largest() <= 100 * 256 * 256


@pytest.mark.parametrize("shape", [(2, 200, 3), (300, 3, 3), (2, 250, 3)])
def test_a_long_image_that_fits_is_whole(shape):
    image = noise(*shape)
    image_size = (1, 125) if shape[1] == 250 else (8, 8)
    assert long_part(image, image_size) is image


def test_eval_transform_reports_a_negative_size():
    with pytest.raises(ValueError, match="resize must be 0"):
        eval_transform(image_size=(8, 8), channels=1, resize=-1)


def test_opencv_starts_no_threads():
    assert cv2.getNumThreads() == 1
