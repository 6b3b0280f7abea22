"""JPEG photographs to measure with, made here, as ArrayRecord and as TFRecord."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def make_images(count: int) -> Iterator[bytes]:
    """JPEG photographs: crops of scikit-learn's two, turned, mixed and brightened."""
    from PIL import Image, ImageEnhance
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    rng = np.random.default_rng(0)

    def piece() -> Any:
        photo = photos[rng.integers(2)]
        width = int(rng.integers(320, photo.width + 1))
        height = min(round(width * 0.75), photo.height)
        left = int(rng.integers(photo.width - width + 1))
        top = int(rng.integers(photo.height - height + 1))
        box = (left, top, left + width, top + height)
        image = photo.crop(box).resize((500, 375), Image.Resampling.BICUBIC)
        return (
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if rng.random() < 0.5
            else image
        )

    for _ in range(count):
        image = Image.blend(piece(), piece(), float(rng.uniform(0, 0.3)))
        image = ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.7, 1.2)))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=90)
        yield stream.getvalue()


def write_photos(folder: Path, count: int) -> None:
    """The same records as a TFDS data set in ArrayRecord and as a TFRecord file."""
    import tensorflow as tf
    from array_record.python import array_record_module

    done = folder / "done"
    if done.exists() and done.read_text() == str(count):
        return
    place = folder / "photos" / "1.0.0"
    place.mkdir(parents=True, exist_ok=True)
    array_record = array_record_module.ArrayRecordWriter(
        os.fspath(place / "photos-train.array_record-00000-of-00001"), "group_size:1"
    )
    total = 0
    with tf.io.TFRecordWriter(os.fspath(folder / "photos.tfrecord")) as tfrecord:
        for label, image in enumerate(make_images(count)):
            feature = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                "label": tf.train.Feature(
                    int64_list=tf.train.Int64List(value=[label % 1000])
                ),
            }
            record = tf.train.Example(
                features=tf.train.Features(feature=feature)
            ).SerializeToString()
            tfrecord.write(record)
            array_record.write(record)
            total += len(image)
    array_record.close()
    info = {
        "name": "photos",
        "version": "1.0.0",
        "fileFormat": "array_record",
        "splits": [
            {
                "name": "train",
                "shardLengths": [str(count)],
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        ],
    }
    features = {
        "featuresDict": {
            "features": {
                "image": {"image": {"shape": {"dimensions": ["-1", "-1", "3"]}}},
                "label": {"classLabel": {"numClasses": "1000"}},
            }
        }
    }
    (place / "dataset_info.json").write_text(json.dumps(info))
    (place / "features.json").write_text(json.dumps(features))
    done.write_text(str(count))
    print(f"{count:,} images of {total / count / 1000:.0f} kB on average")
