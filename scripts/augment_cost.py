"""What each augmentation costs the host, in CPU milliseconds an image.

    python scripts/augment_cost.py [--size 224] [--images 200]

Takes a photograph-like 500x375 image that is already decoded. A policy's row is that
policy alone, on the crop: the crop's own row comes first. Medians of five interleaved
repeats; CPU time of one thread.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from vit_jax.data.crops import CROPS
from vit_jax.data.policies import POLICIES, color_jitter

REPEATS = 5

Work = Callable[[np.random.Generator], np.ndarray]


def photograph(height: int, width: int) -> np.ndarray:
    """Smooth colours, edges and a little noise: uint8 [H, W, 3]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = (120 + 100 * np.sin(9 * x + 4 * y), 255 * x * y, 90 + 130 * (x > y))
    image = np.stack(planes, axis=-1) + rng.normal(0, 6, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def build_works(size: int) -> dict[str, Work]:
    """What is timed, by the name of its row."""
    whole, cropped = photograph(375, 500), photograph(size, size)
    square, larger = (size, size), (round(size * 256 / 224),) * 2
    settings = {"random": {"resize": larger}, "pad": {"pad": 4}, "simple": {"pad": 4}}
    works: dict[str, Work] = {}
    for name, crop in CROPS.items():
        works[f"crop {name}"] = lambda rng, crop=crop, name=name: crop(
            whole, rng, image_size=square, **settings.get(name, {})
        )
    for magnitude in (0, 10, 15):
        works[f"randaugment 2 x {magnitude}"] = lambda rng, magnitude=magnitude: (
            POLICIES["randaugment"](cropped, rng, layers=2, magnitude=magnitude)
        )
    for name in ("autoaugment", "three_augment"):
        works[name] = lambda rng, name=name: POLICIES[name](cropped, rng)
    works["color_jitter 0.3"] = lambda rng: color_jitter(cropped, rng, strength=0.3)
    return works


def milliseconds(work: Work, images: int) -> float:
    """CPU time of one image, every image with a generator of its own."""
    rngs = [np.random.default_rng(number) for number in range(images)]
    start = time.process_time()
    for rng in rngs:
        work(rng)
    return (time.process_time() - start) * 1e3 / images


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="CPU cost of augmentations")
    parser.add_argument("--size", type=int, default=224, help="side of the result")
    parser.add_argument("--images", type=int, default=200, help="draws a repeat")
    args = parser.parse_args()
    works = build_works(args.size)
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPEATS):
        for name, work in works.items():
            times[name].append(milliseconds(work, args.images))
    print(f"{'augmentation':20} CPU ms an image, {args.size} px")
    for name, values in times.items():
        print(f"{name:20} {statistics.median(values):.3f}")


if __name__ == "__main__":
    main()
