"""Small data sets as a folder and as shards, and ways to damage them."""

import dataclasses
import io
import json
import pathlib
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

CLASSES, EACH, SHARDS = 4, 12, 4
NAME = "chaos_images"  # of the sharded data set


def image_bytes(rng: np.random.Generator, format: str) -> bytes:
    """An encoded image with enough in it to be damaged."""
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    pixels = np.repeat(np.repeat(coarse, 6, axis=0), 6, axis=1)
    pixels = (pixels // 2 + rng.integers(0, 128, pixels.shape)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def examples() -> list[tuple[str, int, bytes]]:
    """Name, label and encoded image: JPEG and PNG in turn."""
    rng = np.random.default_rng(1)
    found = []
    for label in range(CLASSES):
        for number in range(EACH):
            format = ("jpeg", "png")[number % 2]
            name = f"class{label}/{number:02}.{format}"
            found.append((name, label, image_bytes(rng, format)))
    return found


def write_folder(folder: pathlib.Path) -> None:
    """An image folder: a directory per class."""
    for name, _, content in examples():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def record_of(image: bytes, label: int) -> bytes:
    """A record as TFDS writes it."""
    from tensorflow_datasets.proto import tf_example_generated_pb2

    # The generated module makes its classes as it is imported.
    example = getattr(tf_example_generated_pb2, "Example")()  # noqa: B009
    features = example.features.feature
    features["image"].bytes_list.value.append(image)
    features["label"].int64_list.value.append(label)
    return example.SerializeToString(deterministic=True)


def write_shard(path: pathlib.Path, records: list[bytes]) -> None:
    """An ArrayRecord file, a record a chunk as TFDS writes it."""
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"{NAME}-train.array_record-{number:05}-of-{SHARDS:05}"


def shard_records() -> list[list[bytes]]:
    """The records of each shard."""
    records = [record_of(image, label) for _, label, image in examples()]
    return [records[number::SHARDS] for number in range(SHARDS)]


def write_shards(folder: pathlib.Path) -> None:
    """A prepared data set of several shards, as TFDS lays it out."""
    home = folder / NAME / "1.0.0"
    home.mkdir(parents=True)
    shards = shard_records()
    for number, records in enumerate(shards):
        write_shard(home / shard_name(number), records)
    kinds = "tensorflow_datasets.core.features"
    features = {
        "pythonClassName": f"{kinds}.features_dict.FeaturesDict",
        "featuresDict": {
            "features": {
                "image": {
                    "pythonClassName": f"{kinds}.image_feature.Image",
                    "image": {
                        "dtype": "uint8",
                        "shape": {"dimensions": ["-1", "-1", "3"]},
                    },
                },
                "label": {
                    "pythonClassName": f"{kinds}.class_label_feature.ClassLabel",
                    "classLabel": {"numClasses": str(CLASSES)},
                },
            }
        },
    }
    (home / "features.json").write_text(json.dumps(features))
    names = "\n".join(f"class{label}" for label in range(CLASSES))
    (home / "label.labels.txt").write_text(names)
    info = {
        "name": NAME,
        "version": "1.0.0",
        "fileFormat": "array_record",
        "splits": [
            {
                "name": "train",
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": [str(len(records)) for records in shards],
                "numBytes": str(
                    sum(len(record) for records in shards for record in records)
                ),
            }
        ],
    }
    (home / "dataset_info.json").write_text(json.dumps(info))


@dataclasses.dataclass(frozen=True)
class Damage:
    """A way to damage a file.

    Attributes:
      apply: content to other content.
      certain: the file cannot be good afterwards. Otherwise it may still be a valid
        one: a flipped bit may hit a comment, or give other pixels that are no error.
    """

    apply: Callable[[bytes, np.random.Generator], bytes]
    certain: bool


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    """The beginning of a file."""
    return content[: int(len(content) * rng.uniform(0.1, 0.9))]


def flip(content: bytes, rng: np.random.Generator) -> bytes:
    """One other bit."""
    changed = bytearray(content)
    bit = int(rng.integers(8 * len(changed)))
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def garble(content: bytes, rng: np.random.Generator) -> bytes:
    """Random bytes in the middle of it."""
    changed = bytearray(content)
    length = min(64, len(changed) // 4)
    start = int(rng.integers(len(changed) - length))
    changed[start : start + length] = rng.bytes(length)
    return bytes(changed)


def bomb(content: bytes, rng: np.random.Generator) -> bytes:
    """A small PNG that says it is 40,000 x 40,000."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100_000)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


IMAGE_DAMAGES = {
    "cut": Damage(cut, True),
    "empty": Damage(lambda content, rng: b"", True),
    "text": Damage(lambda content, rng: b"<html>404 not found</html>\n" * 9, True),
    "noise": Damage(lambda content, rng: rng.bytes(len(content)), True),
    "bomb": Damage(bomb, True),
    "flip": Damage(flip, False),
    "garbled": Damage(garble, False),
}
SHARD_DAMAGES = {
    "cut": cut,
    "empty": lambda content, rng: b"",
    "text": lambda content, rng: b"<html>404 not found</html>\n" * 9,
    "flip": flip,
    "garbled": garble,
    "missing": None,
}
