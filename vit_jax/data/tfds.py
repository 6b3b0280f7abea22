"""Reads TFDS data sets prepared in ArrayRecord, without TensorFlow.

What a data set holds is read from its own JSON files; records are parsed with the
Example protobuf that TFDS ships, and only the image bytes and the label are taken.
"""

import dataclasses
import json
import os
import re
import socket
from typing import Any

from etils import epath

from vit_jax.data.catalogue import (
    known_names,
    prepare_command,
    split_name,
    unknown_name,
)
from vit_jax.data.errors import DataError
from vit_jax.data.split import parse_split


@dataclasses.dataclass(frozen=True)
class DatasetFacts:
    """What a prepared data set says of itself."""

    name: str
    path: str
    version: str
    file_format: str
    splits: dict[str, int]  # examples
    shards: dict[str, tuple[str, ...]]  # file names in path
    num_classes: int | None
    class_names: tuple[str, ...] | None
    features: tuple[str, ...]


def data_root(dir: str | None = None) -> epath.Path:
    """The data directory: ``dir``, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    chosen = dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return epath.Path(chosen).expanduser()


def _versions(folder: epath.Path) -> list[str]:
    def is_version(child: epath.Path) -> bool:
        return bool(re.fullmatch(r"\d+\.\d+\.\d+", child.name))

    if not folder.is_dir():
        return []
    found = [child.name for child in folder.iterdir() if is_version(child)]
    return sorted(found, key=lambda text: tuple(map(int, text.split("."))))


def _check_reachable(root: epath.Path) -> None:
    """Without a network, a bucket takes long to look into and then seems empty."""
    host = "storage.googleapis.com"
    proxies = ("https_proxy", "HTTPS_PROXY", "STORAGE_EMULATOR_HOST")
    if not os.fspath(root).startswith("gs://") or any(map(os.environ.get, proxies)):
        return
    try:
        socket.create_connection((host, 443), timeout=3).close()
    except OSError as error:
        raise DataError(
            f"data directory {os.fspath(root)}: {host} cannot be reached ({error}); "
            "check the network, or set data.dir to a local directory"
        ) from error


def _find(name: str, dir: str | None) -> epath.Path:
    root = data_root(dir)
    _check_reachable(root)
    folder, version = split_name(name)
    versions = _versions(root / folder)
    prepared = [
        v for v in versions if (root / folder / v / "dataset_info.json").exists()
    ]
    if version in prepared:
        return root / folder / version
    if prepared and version is None:
        return root / folder / prepared[-1]
    if prepared:
        raise DataError(f"{name!r}: prepared versions in {root}: {', '.join(prepared)}")
    configs = [
        f"{folder}/{child.name}"
        for child in ((root / folder).iterdir() if (root / folder).is_dir() else ())
        if _versions(child)
    ]
    if configs:
        raise DataError(
            f"{name!r} has several configs; name one: {', '.join(sorted(configs))}"
        )
    if re.split(r"[/:]", name)[0] not in known_names():
        raise DataError(f"{unknown_name(name)}; none of that name is in {root}")
    raise DataError(
        f"data set {name!r} is not prepared in {root}; "
        f"run: {prepare_command(name, dir)}"
    )


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); move {path.parent} away and prepare "
            "again"
        ) from error


def _shards(name: str, info: dict[str, Any], split: dict[str, Any]) -> tuple[str, ...]:
    total = len(split.get("shardLengths", ()))
    template = split.get("filepathTemplate") or (
        "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    )
    return tuple(
        template.replace("{DATASET}", name)
        .replace("{SPLIT}", split["name"])
        .replace("{FILEFORMAT}", info["fileFormat"])
        .replace("{SHARD_X_OF_Y}", f"{shard:05d}-of-{total:05d}")
        for shard in range(total)
    )


def _classes(path: epath.Path, label_key: str, features: dict[str, Any]) -> Any:
    label = features.get(label_key, {}).get("classLabel")
    num_classes = int(label["numClasses"]) if label else None
    names = path / f"{label_key}.labels.txt"
    if num_classes is None or not names.exists():
        return num_classes, None
    return num_classes, tuple(names.read_text().splitlines())


def describe(
    name: str, *, dir: str | None = None, label_key: str = "label"
) -> DatasetFacts:
    """Reads what a prepared data set says of itself; imports no TensorFlow.

    Raises:
      DataError: it is unknown, not prepared, or in another format than ArrayRecord;
        the message holds the command that helps.
    """
    path = _find(name, dir)
    info = _read_json(path / "dataset_info.json")
    file_format = info.get("fileFormat", "tfrecord")
    # `tfds convert_format` may have put ArrayRecord beside the first format.
    if "array_record" in info.get("alternativeFileFormats", ()):
        file_format = info["fileFormat"] = "array_record"
    if file_format != "array_record":
        raise DataError(
            f"data set {name!r} in {path} is in {file_format} format, which has no "
            f"random access; run: {prepare_command(name, dir)} "
            "(it says where ArrayRecord goes)"
        )
    structure = _read_json(path / "features.json")
    features = structure.get("featuresDict", {}).get("features", {})
    num_classes, class_names = _classes(path, label_key, features)
    return DatasetFacts(
        name=name,
        path=os.fspath(path),
        version=info["version"],
        file_format=file_format,
        splits={
            split["name"]: sum(map(int, split.get("shardLengths", ())))
            for split in info["splits"]
        },
        shards={
            split["name"]: _shards(info["name"], info, split)
            for split in info["splits"]
        },
        num_classes=num_classes,
        class_names=class_names,
        features=tuple(features),
    )


def split_size(facts: DatasetFacts, split: str) -> int:
    """Examples of a split expression such as ``"train[:99%]+test"``.

    Raises:
      DataError: the expression is malformed, names no split of the set, or is empty.
    """
    return sum(stop - start for _, start, stop in split_ranges(facts, split))


def split_ranges(facts: DatasetFacts, split: str) -> list[tuple[str, int, int]]:
    """A split expression as ``(split, start, stop)`` ranges of examples."""
    try:
        ranges = parse_split(split, facts.splits)
    except ValueError as error:
        raise DataError(f"data set {facts.name!r}: {error}") from error
    if not any(stop > start for _, start, stop in ranges):
        raise DataError(f"data set {facts.name!r}: split {split!r} holds no example")
    return ranges


class TfdsSource:
    """Random access to one split of a prepared data set; safe to use from threads.

    Args:
      name: TFDS name, with config and version where wanted.
      split: a split expression.
      dir: data directory, see `data_root`.
      image_key, label_key: features to take.
      cache_bytes: a split of at most this many bytes on disk is kept in memory, still
        encoded, after its first reading.

    Raises:
      DataError: as `describe`, or a feature or shard is missing.
    """

    def __init__(
        self,
        *,
        name: str,
        split: str,
        dir: str | None = None,
        image_key: str = "image",
        label_key: str = "label",
        cache_bytes: int = 1 << 28,
    ):
        self.facts = describe(name, dir=dir, label_key=label_key)
        self.num_classes = self.facts.num_classes
        self.class_names = self.facts.class_names
        for key in (image_key, label_key):
            if key not in self.facts.features:
                raise DataError(
                    f"data set {name!r} has no feature {key!r}; it has: "
                    f"{', '.join(self.facts.features)} (data.image_key, data.label_key)"
                )
        self._image_key, self._label_key = image_key, label_key
        ranges = split_ranges(self.facts, split)
        size = self._check_shards({name for name, _, _ in ranges})
        self._records = [
            (self._open(name), start, stop) for name, start, stop in ranges
        ]
        self._length = sum(stop - start for _, start, stop in ranges)
        self._cache: dict[int, dict[str, Any]] | None = (
            {} if size <= cache_bytes else None
        )
        self._check_kinds()

    def _check_kinds(self) -> None:
        """On the first example: TFDS stores images as bytes and labels as integers."""
        try:
            self._parse(self._read(0))
        except IndexError as error:
            raise DataError(
                f"data set {self.facts.name!r}: {self._image_key!r} and "
                f"{self._label_key!r} are not an encoded image and a class label; set "
                "data.image_key and data.label_key, among: "
                f"{', '.join(self.facts.features)}"
            ) from error

    def _check_shards(self, splits: set[str]) -> int:
        size = 0
        for split in sorted(splits):
            for shard in self.facts.shards[split]:
                path = epath.Path(self.facts.path) / shard
                if not path.exists():
                    raise DataError(
                        f"{path} is missing; delete {self.facts.path} and prepare again"
                    )
                size += path.stat().length
        return size

    def _open(self, split: str) -> Any:
        from array_record.python import array_record_data_source

        folder = self.facts.path
        paths = [os.path.join(folder, shard) for shard in self.facts.shards[split]]
        try:
            records = array_record_data_source.ArrayRecordDataSource(paths)
        except RuntimeError as error:  # such as a shard cut short
            raise DataError(
                f"a shard of split {split!r} in {folder} cannot be opened ({error}); "
                "move the folder away and prepare again"
            ) from error
        if len(records) != self.facts.splits[split]:
            raise DataError(
                f"split {split!r} in {folder} holds {len(records):,} examples where "
                f"dataset_info.json says {self.facts.splits[split]:,}; move the folder "
                "away and prepare again"
            )
        return records

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``{"image": encoded bytes, "label": int}``."""
        if self._cache is None:
            return self._parse(self._read(index))
        example = self._cache.get(index)
        if example is None:
            example = self._cache[index] = self._parse(self._read(index))
        return dict(example)  # a caller may change its own

    def _read(self, index: int) -> bytes:
        if not 0 <= index < self._length:
            raise IndexError(f"index {index} is outside 0..{self._length - 1}")
        offset = index
        for records, start, stop in self._records:
            if offset < stop - start:
                return records[start + offset]
            offset -= stop - start
        raise AssertionError("unreachable: the ranges add up to the length")

    def _parse(self, record: bytes) -> dict[str, Any]:
        from tensorflow_datasets.proto import tf_example_generated_pb2

        # The generated module makes its classes as it is imported.
        example = getattr(tf_example_generated_pb2, "Example")  # noqa: B009
        fields = example.FromString(record).features.feature
        return {
            "image": fields[self._image_key].bytes_list.value[0],
            "label": fields[self._label_key].int64_list.value[0],
        }
