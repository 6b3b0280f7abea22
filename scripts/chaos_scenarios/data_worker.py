"""A process that reads damaged data sets through the package's own loader.

Reads ``{"name": ..., "dir": ..., "root": ..., "damaged": [...]}`` a line; answers what
was lost in skip mode, whether all that was not damaged is as in the undamaged set, and
what stop mode said.
"""

import argparse
import json
import os
import pathlib
import sys
import traceback
from collections.abc import Collection
from typing import Any

import jax
import numpy as np

from .bad_images import CLASSES, EACH, NAME, SHARDS, shard_name, shard_records
from .runs import CONFIG

BATCH = 8
STEPS = 2 * CLASSES * EACH // BATCH  # two epochs


def open_loader(name: str, dir: str, bad: str) -> Any:
    """The loader of a training run on this data set."""
    from vit_jax import config as configs
    from vit_jax import setup_data, sharding

    changes = {
        "data.name": name,
        "data.dir": dir,
        "data.bad": bad,
        "data.max_bad": 1000,
        "data.cache_mb": 0,
        "data.augment.crop": "inception",
        "model.num_classes": CLASSES,
        "train.batch_size": BATCH,
    }
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    config = configs.load(str(CONFIG), flags)
    mesh = sharding.build_mesh(**config.mesh)
    return setup_data.build_loader(config, mesh)


def read_all(loader: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, images and labels of all rows of two epochs."""
    from vit_jax.data.pipeline import train_batches

    ids = [loader.ids(step, shuffle=True) for step in range(STEPS)]
    batches = train_batches(loader, start=0, stop=STEPS, shuffle=True, depth=2)
    images, labels = [], []
    for batch in batches:
        images.append(np.asarray(batch["image"]))
        labels.append(np.asarray(batch["label"]))
    return np.concatenate(ids), np.concatenate(images), np.concatenate(labels)


def skip(
    name: str, dir: str, damaged: Collection[str] = ()
) -> tuple[list[str], np.ndarray, Any]:
    """Reads in skip mode: where the lost are, ids that may differ, and all rows."""
    loader = open_loader(name, dir, "skip")
    try:
        rows = read_all(loader)
        lost = {found.id: found.where for found in loader.take_bad()}
        may_differ = [
            number
            for number in range(len(loader.source))
            if number in lost or loader.source.where(number).endswith(tuple(damaged))
        ]
        return list(lost.values()), np.array(may_differ, int), rows
    finally:
        loader.close()


def stop(name: str, dir: str) -> str:
    """What reading in stop mode ends with, or nothing."""
    from vit_jax.data.errors import DataError

    try:
        loader = open_loader(name, dir, "stop")
    except DataError as error:
        return str(error)
    try:
        read_all(loader)
    except DataError as error:
        return str(error)
    finally:
        loader.close()
    return ""


def unreadable(folder: pathlib.Path) -> list[str]:
    """Records that ArrayRecord itself does not give back as they were written."""
    from array_record.python import array_record_module

    lost = []
    for number, records in enumerate(shard_records()):
        path = folder / shard_name(number)
        for record, content in enumerate(records):
            try:
                if not path.exists():
                    raise FileNotFoundError(path)
                reader = array_record_module.ArrayRecordReader(str(path))
                if reader.num_records() != len(records):
                    raise ValueError("another number of records")
                good = reader.read([record])[0] == content
            except Exception:
                good = False
            if not good:
                lost.append(f"{path}, record {record}")
    return lost


def answer(request: dict[str, Any], references: dict[str, Any]) -> dict[str, Any]:
    """What reading one damaged data set came to."""
    name, dir, root = request["name"], request["dir"], request["root"]
    where, may_differ, rows = skip(name, dir, request["damaged"])
    again, _, same = skip(name, dir)
    reference = references["folder" if name.startswith("folder:") else "shards"]
    healthy = ~np.isin(reference[0], may_differ)
    intact = all(
        np.array_equal(mine[healthy], theirs[healthy])
        for mine, theirs in zip(rows, reference, strict=True)
    )
    repeated = all(map(np.array_equal, rows, same)) and set(where) == set(again)
    return {
        "kind": "read",
        "lost": [text.removeprefix(root).lstrip("/") for text in where],
        "intact": intact,
        "repeated": repeated,
        "stop": stop(name, dir),
        "unreadable": [
            text.removeprefix(root).lstrip("/")
            for text in (unreadable(pathlib.Path(dir, NAME, "1.0.0")) if dir else [])
        ],
    }


def main() -> None:
    """Answers until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--shards", required=True)
    options = parser.parse_args()
    assert SHARDS * len(shard_records()[0]) == CLASSES * EACH
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    jax.devices()
    references = {
        "folder": skip(f"folder:{options.folder}", "")[2],
        "shards": skip(NAME, options.shards)[2],
    }
    answers.write(json.dumps({"kind": "ready"}) + "\n")
    answers.flush()
    for line in sys.stdin:
        try:
            given = answer(json.loads(line), references)
        except Exception:
            given = {"kind": "error", "detail": traceback.format_exc()[-1500:]}
        answers.write(json.dumps(given) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
