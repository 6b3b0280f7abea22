"""Images a CPU-second of the input pipeline, beside tf.data and decoding alone.

    python scripts/benchmark_data.py
    python scripts/benchmark_data.py --memory --epochs=20
    python scripts/benchmark_data.py --quick --workers=2

Both pipelines read the same generated JPEG photographs (500 x 375), tf.data from
TFRecord and ours from ArrayRecord; shuffle; decode and crop as an inception crop;
resize to 224; and batch. Each runs in a process of its own, an epoch at a time and in
turns, so that what else the machine does hits all of them. CPU time is of all threads
and worker processes. The exit status is 1 where the bar is not reached.
"""

import argparse
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmark_photos import make_images, write_photos

SIZE = (224, 224)
AREA, RATIO = (0.05, 1.0), (3 / 4, 4 / 3)
BATCH = 128
BAR = 1.2  # times tf.data


Epoch = Callable[[], int]  # runs one and returns how many images there were


@contextlib.contextmanager
def tf_data(folder: Path, options: argparse.Namespace) -> Iterator[Epoch]:
    """The pipeline of tf.data, as fast as its own guide makes it."""
    import jax
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    if options.threads:
        tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    full = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
    parsing = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    def load(record: Any) -> Any:
        example = tf.io.parse_single_example(record, parsing)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(example["image"]),
            full,
            area_range=AREA,
            aspect_ratio_range=RATIO,
            max_attempts=100,
            min_object_covered=0.0,
        )
        window = tf.concat([begin[:2], size[:2]], axis=0)
        image = tf.image.decode_and_crop_jpeg(example["image"], window, channels=3)
        image = tf.image.resize(image, SIZE)
        return tf.cast(image, tf.uint8), tf.cast(example["label"], tf.int32)

    dataset = tf.data.TFRecordDataset(os.fspath(folder / "photos.tfrecord"))
    dataset = dataset.shuffle(options.images)
    dataset = dataset.map(
        load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False
    )
    dataset = dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE)

    def epoch() -> int:
        count = 0
        for images, labels in dataset.as_numpy_iterator():
            jax.device_put(images).block_until_ready()  # where ours ends, too
            count += len(labels)
        return count

    yield epoch


@contextlib.contextmanager
def ours(folder: Path, options: argparse.Namespace) -> Iterator[Epoch]:
    """The package's pipeline, to arrays on the device."""
    import jax

    from vit_jax.data import augment
    from vit_jax.data.pipeline import Deferred, Loader, train_batches
    from vit_jax.data.tfds import TfdsSource

    begun = time.perf_counter()
    source = TfdsSource(
        name="photos", split="train", dir=os.fspath(folder), cache_bytes=0
    )
    load = Deferred(
        augment.train_transform,
        takes_sound=True,
        image_size=SIZE,
        channels=3,
        crop="inception",
        area=AREA,
        resize=None,
        pad=0,
        randaugment_layers=0,
        randaugment_magnitude=0,
        policy="none",
        color_jitter=0.0,
        views=1,
    )
    loader = Loader(
        source,
        load,
        sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]),
        batch_size=BATCH,
        seed=0,
        threads=options.threads,
        workers=options.workers,
    )
    steps = len(source) // BATCH
    at = 0

    def epoch() -> int:
        nonlocal at
        for batch in train_batches(
            loader, start=at, stop=at + steps, shuffle=True, depth=2
        ):
            batch["image"].block_until_ready()
            if not at:
                first = time.perf_counter() - begun
                print(f"first batch after {first:.1f} s", file=sys.stderr)
            at += 1
        return steps * BATCH

    with contextlib.closing(loader):
        yield epoch


@contextlib.contextmanager
def decode_only(folder: Path, options: argparse.Namespace) -> Iterator[Epoch]:
    """Nothing but decoding, of files in memory, in one thread."""
    from vit_jax.data.decode import decode

    files = list(make_images(min(options.images, 200)))

    def epoch() -> int:
        for file in files:
            decode(file, channels=3, fast=True)
        return len(files)

    yield epoch


ROLES = {"ours": ours, "tf.data": tf_data, "decode only": decode_only}


def cpu_seconds() -> float:
    """Of this process and its children, all threads."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = time.process_time()
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2]
                user, system = fields.split()[11:13]
                total += (int(user) + int(system)) / ticks
    return total


def resident() -> float:
    """MiB of this process and its children."""
    pids = ["self"]
    for children in Path("/proc/self/task").glob("*/children"):
        pids += children.read_text().split()
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def serve(role: str, folder: Path, options: argparse.Namespace) -> None:
    """Runs an epoch for each line of the input and prints what it took."""
    with ROLES[role](folder, options) as epoch:
        for _ in sys.stdin:
            cpu, wall = cpu_seconds(), time.perf_counter()
            images = epoch()
            took = {
                "images": images,
                "cpu": cpu_seconds() - cpu,
                "wall": time.perf_counter() - wall,
            }
            gc.collect()
            print(json.dumps(took | {"resident": resident()}), flush=True)


class Runner:
    """A process that runs epochs of one role."""

    def __init__(self, role: str, arguments: list[str]):
        self._process = subprocess.Popen(
            [sys.executable, __file__, f"--role={role}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
            | {"CUDA_VISIBLE_DEVICES": ""},
        )

    def epoch(self) -> dict[str, float]:
        """Images, CPU and wall seconds, and MiB after it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a benchmark process ended early")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def compare(arguments: list[str], epochs: int, repeats: int) -> bool:
    """Runs the roles in turns and prints medians and ratios; whether they suffice."""
    with contextlib.ExitStack() as stack:
        runners = {
            role: stack.enter_context(contextlib.closing(Runner(role, arguments)))
            for role in ROLES
        }
        rates, walls, ratios = take_turns(runners, epochs, repeats)
    print(f"\n{'':12} img/CPU-s  img/s   (medians of {repeats})")
    for role in ROLES:
        rate, wall = statistics.median(rates[role]), statistics.median(walls[role])
        print(f"{role:12} {rate:9.0f} {wall:6.0f}")
    ratio = statistics.median(ratios)
    share = statistics.median(rates["ours"]) / statistics.median(rates["decode only"])
    print(f"ours / tf.data {ratio:.2f} (bar {BAR}); ours / decode only {share:.2f}")
    print("reached" if ratio >= BAR else "NOT reached")
    return ratio >= BAR


def take_turns(
    runners: dict[str, Runner], epochs: int, repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], list[float]]:
    """Images a CPU-second and a second, by role, and ours over tf.data's, each time."""
    rates: dict[str, list[float]] = {role: [] for role in ROLES}
    walls: dict[str, list[float]] = {role: [] for role in ROLES}
    ratios = []
    for runner in runners.values():
        runner.epoch()  # imports, first use, filling of caches
    for repeat in range(repeats):
        for role, runner in runners.items():
            runs = [runner.epoch() for _ in range(epochs)]
            images = sum(run["images"] for run in runs)
            rates[role].append(images / sum(run["cpu"] for run in runs))
            walls[role].append(images / sum(run["wall"] for run in runs))
        ratios.append(rates["ours"][-1] / rates["tf.data"][-1])
        print(
            f"repeat {repeat + 1}: "
            + ", ".join(f"{role} {rates[role][-1]:.0f}" for role in ROLES)
            + f" img/CPU-s; ratio {ratios[-1]:.2f}",
            flush=True,
        )
    return rates, walls, ratios


def memory(arguments: list[str], epochs: int) -> None:
    """Prints resident memory after each epoch, and how much it grew."""
    with contextlib.closing(Runner("ours", arguments)) as runner:
        sizes = [runner.epoch()["resident"] for _ in range(epochs)]
    print("resident MiB after each epoch: " + " ".join(f"{size:.0f}" for size in sizes))
    settled = sizes[min(2, epochs - 1)]
    print(f"growth from epoch 3 to {epochs}: {sizes[-1] - settled:+.1f} MiB")


def seek() -> None:
    """Prints how long it takes to find a step far into a run."""
    from vit_jax.data.order import epoch_order, example_ids

    size = 1_281_167
    begun = time.perf_counter()
    example_ids(
        100 * size // 1024,
        seed=0,
        batch_size=1024,
        num_examples=size,
        shuffle=True,
    )
    first = time.perf_counter() - begun
    begun = time.perf_counter()
    epoch_order(0, 102, size)
    print(
        f"seek to epoch 100 of {size:,} examples: {first:.3f} s; "
        f"an epoch's order: {time.perf_counter() - begun:.3f} s"
    )


def main() -> int:
    """Prints the comparison; the exit status."""
    parser = argparse.ArgumentParser(
        description="Images a CPU-second of the input pipeline."
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=2, help="of a repeat")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0, help="0: one a core")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: threads")
    parser.add_argument("--memory", action="store_true", help="memory over the epochs")
    parser.add_argument("--quick", action="store_true", help="fewer images and repeats")
    parser.add_argument("--dir", default="", help="where the images are kept")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.images, options.repeats, options.epochs = 512, 3, 1
    with contextlib.ExitStack() as stack:
        folder = options.dir or stack.enter_context(tempfile.TemporaryDirectory())
        if options.role:
            serve(options.role, Path(folder), options)
            return 0
        write_photos(Path(folder), options.images)
        arguments = [
            f"--{name}={getattr(options, name)}"
            for name in ("images", "threads", "workers")
        ] + [f"--dir={folder}"]
        seek()
        if options.memory:
            memory(arguments, options.epochs)
            return 0
        return 0 if compare(arguments, options.epochs, options.repeats) else 1


if __name__ == "__main__":
    sys.exit(main())
