"""Small data sets on disk with the features that TFDS gives ImageNet's evaluation sets.

Written as TFDS's own feature connectors serialise them (`test_robustness` checks that),
without TensorFlow.
"""

import io
import json

import numpy as np
import PIL.Image
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_generated_pb2

from vit_jax.evals.class_maps import imagenet_classes

IMAGE = {"image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}}}
LABEL = {"classLabel": {"numClasses": "1000"}}
LABELS = {"sequence": {"feature": LABEL, "length": "-1"}}


def write(root, name, split, examples, *, config="", version="1.0.0"):
    """Writes a data set of examples such as ``{"image": array, "label": 3}``.

    A list of labels makes a sequence; an empty set is described and has no records.
    """
    folder = root / name / config / version
    folder.mkdir(parents=True)
    features = {"image": IMAGE, "file_name": {"text": {}}}
    for key, value in (examples[0] if examples else {"label": 0}).items():
        if key != "image":
            features[key] = LABELS if isinstance(value, list) else LABEL
            names = "\n".join(imagenet_classes()) + "\n"
            (folder / f"{key}.labels.txt").write_text(names)
    structure = {"featuresDict": {"features": features}}
    (folder / "features.json").write_text(json.dumps(structure))
    info = {
        "name": name,
        "version": version,
        "fileFormat": "array_record",
        "splits": [{"name": split, "shardLengths": [str(len(examples))]}],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    if not examples:
        return
    path = folder / f"{name}-{split}.array_record-00000-of-00001"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for example in examples:
        writer.write(record(example))
    writer.close()


def record(example):
    """An example as a serialised protocol buffer."""
    made = tf_example_generated_pb2.Example()
    fields = made.features.feature
    for key, value in example.items():
        if key == "image":
            png = io.BytesIO()
            PIL.Image.fromarray(value).save(png, "PNG")
            fields[key].bytes_list.value.append(png.getvalue())
        else:
            fields[key].int64_list.value.extend(np.atleast_1d(value).astype(int))
    return made.SerializeToString()
