"""Makes TFDS data sets in ArrayRecord from image folders and from idx files.

The result is a directory as TFDS writes it: `tfds.builder_from_directory` reads it, and
so does `data.name=NAME`.
"""

import gzip
import itertools
import math
import pathlib
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vit_jax.data.arrays import check_arrays
from vit_jax.data.convert import aside, check_written, local, progress, sync, writing
from vit_jax.data.errors import DataError
from vit_jax.data.facts import DatasetFacts
from vit_jax.data.folder import FolderSource
from vit_jax.data.folder import describe as describe_folder
from vit_jax.data.tensorflow import import_tensorflow
from vit_jax.data.tfds import data_root, describe

VERSION = "1.0.0"
SHARD_BYTES = 256 << 20

Images = Iterator[tuple[bytes, int]]  # encoded, label


class Content(NamedTuple):
    """What a data set is made of."""

    splits: Mapping[str, int]  # examples
    examples: Callable[[str], Images]
    shape: tuple[int | None, int | None, int]
    encoding: str  # png | jpeg
    class_names: Sequence[str]
    description: str


def convert_folder(
    path: str, *, name: str, dir: str | None = None, log: Callable[[str], Any] = print
) -> DatasetFacts:
    """Writes a folder of images (see `data.folder`) as the TFDS set ``name``.

    Files are taken as they are, in the order that ``folder:PATH`` has, so example ids
    stay the same.

    Raises:
      DataError: the folder is not as it must be, or a file in it is no image.
    """
    facts = describe_folder(path)
    splits = {split: size for split, size in facts.splits.items() if size}
    if empty := [split for split in facts.splits if split not in splits]:
        log(f"folder {path}: left out, as without an image: {', '.join(empty)}")
    for split in splits:
        if "." in split:
            raise DataError(
                f"folder {path}: TFDS knows no split names with a dot such as "
                f"{split!r}; rename that folder"
            )
    suffixes: set[str] = set()

    def examples(split: str) -> Images:
        source = FolderSource(path, split)
        for index in range(len(source)):
            example = source[index]
            yield example["image"], example["label"]

    for split in splits:
        source = FolderSource(path, split)
        suffixes.update(
            pathlib.PurePath(source.where(index)).suffix.lower()
            for index in range(len(source))
        )
    content = Content(
        splits=splits,
        examples=examples,
        shape=(None, None, 3),
        encoding="png" if suffixes == {".png"} else "jpeg",
        class_names=facts.class_names or (),
        description=f"Images of {len(facts.class_names or ())} classes from folders.",
    )
    return _write(content, name=name, origin=f"folder {path}", dir=dir, log=log)


def convert_idx(
    path: str, *, name: str, dir: str | None = None, log: Callable[[str], Any] = print
) -> DatasetFacts:
    """Writes idx files, as MNIST and Fashion-MNIST have, as the TFDS set ``name``.

    A folder holds ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, and the
    same with ``t10k`` (or ``test``), each as it is or with ``.gz``; a common beginning
    of the names, such as ``emnist-letters-``, is allowed.

    Raises:
      DataError: files are missing, damaged, or do not belong together.
    """
    arrays = {
        split: (_read_idx(images), _read_idx(labels))
        for split, (images, labels) in _idx_files(local(path)).items()
    }
    for split, (images, labels) in arrays.items():
        check_arrays(f"{path}, {split}", images.shape, images.dtype, labels, None)
    shapes = {images.shape[1:] for images, _ in arrays.values()}
    if len(shapes) > 1:
        raise DataError(f"{path}: the splits have images of shapes {sorted(shapes)}")
    height, width, *channels = shapes.pop()
    classes = max(int(labels.max()) for _, labels in arrays.values()) + 1

    def examples(split: str) -> Images:
        for image, label in zip(*arrays[split], strict=True):
            yield _png(image), int(label)

    content = Content(
        splits={split: len(labels) for split, (_, labels) in arrays.items()},
        examples=examples,
        shape=(height, width, channels[0] if channels else 1),
        encoding="png",
        class_names=[str(number) for number in range(classes)],
        description=f"Images of {classes} classes from idx files.",
    )
    return _write(content, name=name, origin=f"idx files {path}", dir=dir, log=log)


def _png(image: np.ndarray) -> bytes:
    import cv2

    if image.ndim == 3 and image.shape[-1] == 3:
        image = image[..., ::-1]  # cv2 takes BGR
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(image))
    if not done:
        raise DataError(f"an image of shape {image.shape} cannot be written as PNG")
    return encoded.tobytes()


def _idx_files(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """Split to its files of images and labels."""
    example = "train-images-idx3-ubyte[.gz] and train-labels-idx1-ubyte[.gz]"
    if not folder.is_dir():
        raise DataError(f"{folder} is no directory; idx:PATH names one with {example}")
    pattern = re.compile(
        r"(.*?)(train|t10k|test)[-.]?(images|labels)[-.]idx[1-4][-.]ubyte(\.gz)?"
    )
    found: dict[tuple[str, str], dict[str, pathlib.Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := pattern.fullmatch(path.name):
            split = "train" if match[2] == "train" else "test"
            # Of a file and its .gz the first, which is the plain one.
            found.setdefault((match[1], split), {}).setdefault(match[3], path)
    if not found:
        raise DataError(f"{folder} holds no idx files, such as {example}")
    prefixes = sorted({prefix for prefix, _ in found})
    if len(prefixes) > 1:
        raise DataError(
            f"{folder} holds several data sets: {', '.join(prefixes)}; put each into a "
            "directory of its own"
        )
    for (_, split), files in found.items():
        for kind in ("images", "labels"):
            if kind not in files:
                raise DataError(f"{folder}: there are no {kind} of split {split!r}")
    return {
        split: (files["images"], files["labels"])
        for (_, split), files in sorted(found.items(), reverse=True)
    }


def _read_idx(path: pathlib.Path) -> np.ndarray:
    """The array in an idx file.

    Raises:
      DataError: it is damaged, or does not hold bytes.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read ({error}); get the file anew"
        ) from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != 8:
        raise DataError(
            f"{path} is no idx file of unsigned bytes (begins with {content[:4]!r})"
        )
    rank = content[3]
    shape = tuple(
        int.from_bytes(content[4 * axis : 4 * axis + 4], "big")
        for axis in range(1, rank + 1)
    )
    data = content[4 + 4 * rank :]
    if len(data) != math.prod(shape):
        raise DataError(
            f"{path} holds {len(data):,} bytes of data where its header says "
            f"{' x '.join(map(str, shape))}; get the file anew"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _write(
    content: Content,
    *,
    name: str,
    origin: str,
    dir: str | None,
    log: Callable[[str], Any],
) -> DatasetFacts:
    """Writes all splits and the description, then makes them visible at once."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise DataError(
            f"--name={name}: a TFDS name is of small letters, digits and _, and begins "
            "with a letter"
        )
    target = local(str(data_root(dir))) / name / VERSION
    if target.exists():
        raise DataError(
            f"{target} exists already; move it away, or take another --name"
        )
    started = time.perf_counter()
    log(f"writing {origin} as {name} in {target} (ArrayRecord)")
    lengths: dict[str, list[int]] = {}
    sizes: dict[str, int] = {}
    with aside(target) as temporary:
        with progress(sum(content.splits.values()), f"writing {name}") as advance:
            for split in content.splits:
                lengths[split], sizes[split] = _write_split(
                    temporary, name, split, content.examples(split), advance
                )
        _write_description(temporary, content, lengths, sizes)
        temporary.rename(target)
    facts = describe(name, dir=dir)
    text = ", ".join(f"{split} {size:,}" for split, size in facts.splits.items())
    log(
        f"wrote {name} in {facts.path}: {text} examples, {facts.num_classes} classes, "
        f"{sum(sizes.values()) / 2**20:.1f} MiB, {time.perf_counter() - started:.0f} s"
    )
    return facts


def _write_split(
    folder: pathlib.Path,
    name: str,
    split: str,
    examples: Images,
    advance: Callable[[int], Any],
) -> tuple[list[int], int]:
    """The shards of a split; the examples of each, and the bytes of all."""
    lengths: list[int] = []
    total = 0
    waiting = iter(examples)
    while (first := next(waiting, None)) is not None:
        size = count = 0
        path = folder / f"{split}-{len(lengths)}"
        with writing(path) as write:
            for image, label in itertools.chain([first], waiting):
                record = _record(image, label)
                write(record)
                size, count = size + len(record), count + 1
                advance(1)
                if size >= SHARD_BYTES:
                    break
        lengths.append(count)
        total += size
    files = [
        f"{name}-{split}.array_record-{number:05d}-of-{len(lengths):05d}"
        for number in range(len(lengths))
    ]
    for number, file in enumerate(files):
        (folder / f"{split}-{number}").rename(folder / file)
    check_written(folder, files, lengths)
    return lengths, total


def _record(image: bytes, label: int) -> bytes:
    from tensorflow_datasets.proto import tf_example_generated_pb2

    # The generated module makes its classes as it is imported.
    example = getattr(tf_example_generated_pb2, "Example")()  # noqa: B009
    example.features.feature["image"].bytes_list.value.append(image)
    example.features.feature["label"].int64_list.value.append(label)
    return example.SerializeToString(deterministic=True)


def _write_description(
    folder: pathlib.Path,
    content: Content,
    lengths: Mapping[str, list[int]],
    sizes: Mapping[str, int],
) -> None:
    """features.json, dataset_info.json and the names of the classes, by TFDS."""
    import_tensorflow()
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(
                    shape=content.shape, encoding_format=content.encoding
                ),
                "label": tfds.features.ClassLabel(names=list(content.class_names)),
            }
        ),
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=lengths[split],
                num_bytes=sizes[split],
                filename_template=template,
            )
            for split in content.splits
        ],
        version=VERSION,
        description=content.description,
        supervised_keys=("image", "label"),
        check_data=False,
    )
    for file in folder.glob("*.json"):
        sync(file)
