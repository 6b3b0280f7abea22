"""Policies and colour jitter against PIL and plain numpy."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from vit_jax.data import policies
from vit_jax.data.policies import (
    IMAGENET_POLICY,
    POLICIES,
    autoaugment,
    color_jitter,
    gaussian_blur,
    grayscale,
    three_augment,
)
from vit_jax.data.randaugment import OPS, solarize

SHAPES = [(8, 8, 1), (9, 13, 3), (1, 1, 3), (1, 7, 1)]
SETTINGS = {"randaugment": {"layers": 2, "magnitude": 9}}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photograph(size=64):
    """Smooth shapes with edges, in colour."""
    y, x = np.mgrid[:size, :size] / size
    planes = (127 + 120 * np.sin(7 * x + 3 * y), 255 * x * y, 200 * (x > y) + 20)
    return np.stack(planes, axis=-1).astype(np.uint8)


class Scripted:
    """A generator that returns what it is told and remembers what it was asked."""

    def __init__(self, *, integers=(), randoms=(), uniforms=(), order=()):
        self.values = {"integers": list(integers), "random": list(randoms)}
        self.values |= {"uniform": list(uniforms), "permutation": [list(order)]}
        self.asked = []

    def _next(self, name, *arguments):
        self.asked.append((name, *arguments))
        return self.values[name].pop(0)

    def integers(self, *arguments):
        return self._next("integers", *arguments)

    def random(self):
        return self._next("random")

    def uniform(self, *arguments):
        return self._next("uniform", *arguments)

    def permutation(self, *arguments):
        return self._next("permutation", *arguments)


# `install_import_hook` checks annotations: the script must pass as a generator.
class Generator(Scripted, np.random.Generator):
    def __init__(self, **script):
        np.random.Generator.__init__(self, np.random.PCG64(0))
        Scripted.__init__(self, **script)


# --- AutoAugment


def test_imagenet_policy_is_25_pairs_of_known_operations():
    assert len(IMAGENET_POLICY) == 25
    assert {name for pair in IMAGENET_POLICY for name, _, _ in pair} < set(OPS)


def by_pil(name, magnitude, image):
    """An operation without geometry by PIL; its argument by the paper's table."""
    if name == "Equalize":
        return ImageOps.equalize(image)
    if name == "Invert":
        return ImageOps.invert(image)
    if name == "Solarize":
        return ImageOps.solarize(image, int(magnitude / 10 * 256))
    if name == "Posterize":
        return ImageOps.posterize(image, max(int(magnitude / 10 * 4), 1))
    return ImageEnhance.Color(image).enhance(0.1 + 1.8 * magnitude / 10)


POINT = {"Equalize", "Invert", "Solarize", "Posterize", "Color"}
POINT_PAIRS = [
    index
    for index, pair in enumerate(IMAGENET_POLICY)
    if {name for name, _, _ in pair} <= POINT
]


@pytest.mark.parametrize("index", POINT_PAIRS)
def test_autoaugment_equals_pil(index):
    rng = Generator(integers=[index], randoms=[0.0, 0.0])
    image = photograph()
    expected = Image.fromarray(image)
    for name, probability, magnitude in IMAGENET_POLICY[index]:
        if probability > 0:
            expected = by_pil(name, magnitude, expected)
    np.testing.assert_array_equal(autoaugment(image, rng), np.asarray(expected))
    assert rng.asked[0] == ("integers", 25)


def test_autoaugment_covers_enough_pairs_by_pil():
    assert len(POINT_PAIRS) == 10


def test_autoaugment_applies_with_the_probability(monkeypatch):
    counts = {}

    def counting(name):
        def apply(image, *arguments):
            counts[name] = counts.get(name, 0) + 1
            return image

        return apply, OPS[name][1]

    monkeypatch.setattr(policies, "OPS", {name: counting(name) for name in OPS})
    rng, draws = np.random.default_rng(0), 20_000
    for _ in range(draws):
        autoaugment(noise(2, 2, 1), rng)
    expected = dict.fromkeys(counts, 0.0)
    for pair in IMAGENET_POLICY:
        for name, probability, _ in pair:
            if probability:
                expected[name] += probability / 25 * draws
    assert set(counts) == set(expected)
    for name, count in counts.items():
        # At most two of an operation in a pair: variance at most twice a Poisson's.
        assert abs(count - expected[name]) < 4 * (2 * expected[name]) ** 0.5, name


def test_autoaugment_keeps_translated_images_in_sight():
    rng = Generator(integers=[15], randoms=[1.0, 0.0, 0.0])
    image = noise(224, 224, 3)  # TranslateY at 9: 90 of 224 pixels
    out = autoaugment(image, rng)
    np.testing.assert_array_equal(out[:-90], image[90:])


# --- 3-Augment


@pytest.mark.parametrize("channels", [1, 3])
def test_three_augment_is_one_of_three(channels):
    image = photograph()[:, :, :channels]
    gray = three_augment(image, Generator(integers=[0]))
    np.testing.assert_array_equal(gray, grayscale(image))
    solarized = three_augment(image, Generator(integers=[1]))
    pil = Image.fromarray(image if channels == 3 else image[:, :, 0])
    expected = np.asarray(ImageOps.solarize(pil)).reshape(image.shape)
    np.testing.assert_array_equal(solarized, expected)
    rng = Generator(integers=[2], uniforms=[1.3])
    np.testing.assert_array_equal(three_augment(image, rng), gaussian_blur(image, 1.3))
    assert rng.asked == [("integers", 3), ("uniform", 0.1, 2.0)]


def test_three_augment_chooses_evenly():
    image, rng = photograph(8), np.random.default_rng(0)
    gray, flipped = grayscale(image).tobytes(), solarize(image, 128).tobytes()
    outputs = [three_augment(image, rng).tobytes() for _ in range(3000)]
    grays, solarized = outputs.count(gray), outputs.count(flipped)
    for count in (grays, solarized, 3000 - grays - solarized):
        assert abs(count - 1000) < 4 * 26  # 26: one standard deviation


def test_grayscale_is_the_luma():
    image = noise(40, 30, 3)
    expected = np.asarray(Image.fromarray(image).convert("L"))[:, :, None]
    # Both round 0.299 R + 0.587 G + 0.114 B, in other fixed points.
    assert np.abs(grayscale(image).astype(int) - expected).max() <= 1
    one = noise(4, 4, 1)
    np.testing.assert_array_equal(grayscale(one), one)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_gaussian_blur_is_a_gaussian(sigma, channels):
    image = noise(20, 25, channels)
    reach = 12
    taps = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    padded = np.pad(image.astype(float), ((reach,) * 2, (reach,) * 2, (0, 0)), "edge")
    rows = sum(t * padded[i : i + 20] for i, t in enumerate(taps))
    expected = sum(t * rows[:, i : i + 25] for i, t in enumerate(taps))
    # Cut at 3 sigma: 0.27 % of the weight on each axis, at most 255 away; and rounding.
    assert np.abs(gaussian_blur(image, sigma) - expected).max() < 2 * 0.0027 * 255 + 1


def test_gaussian_blur_is_near_that_of_pil():
    image = noise(64, 64, 3)
    for sigma in (0.5, 1.0, 2.0):
        theirs = Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma))
        ours = gaussian_blur(image, sigma).astype(int)
        # Box filters against a Gaussian: measured at 1.7 to 4.6 % of what either does.
        difference = np.abs(ours - np.asarray(theirs)).mean()
        assert difference < 0.06 * np.abs(ours - image).mean()


# --- colour jitter


def by_pil_jitter(index, image, factor):
    """torchvision's adjustments of PIL images are these."""
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    return kinds[index](image).enhance(factor)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
@pytest.mark.parametrize("factors", [(0.7, 1.2, 0.9), (1.3, 0.71, 1.25)])
def test_color_jitter_equals_pil(order, factors):
    image = photograph()
    expected = Image.fromarray(image)
    for index, factor in zip(order, factors, strict=True):
        expected = by_pil_jitter(index, expected, factor)
    rng = Generator(uniforms=factors, order=order)
    out = color_jitter(image, rng, strength=0.3)
    assert rng.asked == [("permutation", 3)] + [("uniform", 0.7, 1.3)] * 3
    # The mean gray of `contrast` may round otherwise: 1 * |1 - factor|, then scaled by
    # what follows (1.3 * 1.3 at most) and truncated at each of three steps.
    difference = np.abs(out.astype(int) - np.asarray(expected)).max()
    assert difference <= 0.3 * 1.3**2 + 3


def test_color_jitter_is_even_and_in_its_range():
    image, rng = np.full((2, 2, 3), 100, np.uint8), np.random.default_rng(0)
    # Gray and constant: contrast and saturation change nothing.
    values = [color_jitter(image, rng, strength=0.4)[0, 0, 0] for _ in range(2000)]
    assert min(values) in (60, 61) and max(values) in (138, 139)
    assert abs(np.mean(values) - 99.5) < 4 * 0.4 * 100 / (3 * 2000) ** 0.5
    strong = [color_jitter(image, rng, strength=2.0)[0, 0, 0] for _ in range(200)]
    assert min(strong) < 20 and max(strong) > 200


def test_color_jitter_without_strength_changes_nothing():
    image = photograph()
    out = color_jitter(image, np.random.default_rng(0), strength=0)
    np.testing.assert_array_equal(out, image)


# --- all of them


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_policies_keep_the_form_and_the_input(shape, name):
    image = noise(*shape)
    image.flags.writeable = False
    for seed in range(40):
        rng = np.random.default_rng(seed)
        out = POLICIES[name](image, rng, **SETTINGS.get(name, {}))
        out = color_jitter(out, rng, strength=0.3)
        assert out.shape == shape
        assert out.dtype == np.uint8


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"none"}))
def test_policies_are_functions_of_the_rng(name):
    image, settings = photograph(32), SETTINGS.get(name, {})
    first, second = (
        [POLICIES[name](image, np.random.default_rng(i), **settings) for i in range(40)]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert len({out.tobytes() for out in first}) > 10


def test_opencv_starts_no_threads():
    assert cv2.getNumThreads() == 1
