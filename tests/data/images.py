"""Small image files and data sets for the tests of sources and conversion."""

import io
import json
import struct
from pathlib import Path

import numpy as np
from array_record.python import array_record_module
from PIL import Image

from vit_jax.data.tensorflow import import_tensorflow


def png(number, size=(6, 5), mode="RGB"):
    """A PNG whose pixels are a function of ``number``."""
    channels = {"RGB": 3, "L": 1}[mode]
    shape = (*size, 3) if channels == 3 else size
    pixels = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def write_folder(root, layout):
    """``{"train/cat": 3}`` makes root/train/cat/0.png .. 2.png; returns the bytes."""
    written = {}
    number = 0
    for folder, count in layout.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for n in range(count):
            path = root / folder / f"{n}.png"
            path.write_bytes(png(number))
            written[str(path)] = path.read_bytes()
            number += 1
    return written


def idx(array):
    """An idx file of unsigned bytes."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def one_line(error):
    """The text of a caught error, which is a single line."""
    text = str(error.value)
    assert "\n" not in text
    return text


def tree(root):
    """Every file below a folder with its bytes."""
    files = (path for path in sorted(Path(root).rglob("*")) if path.is_file())
    return {str(path): path.read_bytes() for path in files}


def to_tfrecord(source, target):
    """The same set in TFRecord, as TFDS would have written it."""
    tf = import_tensorflow()
    target.mkdir(parents=True)
    for path in source.iterdir():
        if "array_record" not in path.name:
            (target / path.name).write_bytes(path.read_bytes())
            continue
        reader = array_record_module.ArrayRecordReader(str(path))
        name = path.name.replace("array_record", "tfrecord")
        with tf.io.TFRecordWriter(str(target / name)) as writer:
            for record in reader.read_all():
                writer.write(record)
    info = json.loads((target / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (target / "dataset_info.json").write_text(json.dumps(info))
