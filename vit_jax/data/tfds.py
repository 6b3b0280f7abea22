"""Reads TFDS data sets prepared in ArrayRecord, without TensorFlow.

What a data set holds is read from its own JSON files; records are parsed with the
Example protobuf that TFDS ships, and only the image bytes and the label are taken.
"""

import functools
import json
import os
import re
from typing import Any

from etils import epath

from vit_jax.data.array_record import Shards, first_line
from vit_jax.data.catalogue import (
    convert_command,
    known_names,
    prepare_command,
    split_name,
    unknown_name,
)
from vit_jax.data.errors import BadExampleError, DataError
from vit_jax.data.facts import (
    DatasetFacts,
    check_features,
    check_label,
    checksum,
    split_ranges,
)
from vit_jax.data.retry import check_reachable, patiently


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


def _find(name: str, dir: str | None) -> epath.Path:
    root = data_root(dir)
    check_reachable(root)
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


def shard_names(
    name: str, info: dict[str, Any], split: dict[str, Any]
) -> tuple[str, ...]:
    """The files of a split, of its dataset_info.json."""
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
    feature = features.get(label_key, {})
    # Of several labels an example (`many_labels`): a sequence of them.
    label = feature.get("sequence", {}).get("feature", feature).get("classLabel")
    num_classes = int(label["numClasses"]) if label else None
    names = path / f"{label_key}.labels.txt"
    if num_classes is None or not names.exists():
        return num_classes, None
    return num_classes, tuple(names.read_text().splitlines())


def describe(
    name: str, *, dir: str | None = None, label_key: str = "label"
) -> DatasetFacts:
    """Reads what a set in ArrayRecord says of itself; imports no TensorFlow.

    Raises:
      DataError: it is unknown, not prepared, or in another format than ArrayRecord;
        the message holds the command that helps.
    """
    facts = describe_any(name, dir=dir, label_key=label_key)
    if facts.file_format == "tfrecord":
        raise DataError(
            f"data set {name!r} in {facts.path} is in tfrecord format, which has no "
            f"random access; convert it: {convert_command(name, dir)}, or read it as a "
            f"stream, which resumes more slowly: --config.data.name=tfrecord:{name}"
        )
    if facts.file_format != "array_record":
        raise DataError(
            f"data set {name!r} in {facts.path} is in {facts.file_format} format, "
            "which has no random access; prepare it in another directory: "
            f"{prepare_command(name, '/another/dir')}"
        )
    return facts


def describe_any(
    name: str,
    *,
    dir: str | None = None,
    label_key: str = "label",
    prefer: str = "array_record",
) -> DatasetFacts:
    """As `describe`, in whichever format the set is; ``prefer`` where it has several.

    Raises:
      DataError: it is unknown, not prepared, or its description is damaged.
    """
    path = _find(name, dir)
    info = _read_json(path / "dataset_info.json")
    file_format = info.setdefault("fileFormat", "tfrecord")  # older files do not say
    # A conversion may have put one format beside the first.
    if prefer in info.get("alternativeFileFormats", ()):
        file_format = info["fileFormat"] = prefer
    structure: dict[str, Any] = {}
    if file_format == "array_record" or (path / "features.json").exists():
        structure = _read_json(path / "features.json")
    features = structure.get("featuresDict", {}).get("features", {})
    num_classes, class_names = _classes(path, label_key, features)
    lengths = {
        split["name"]: tuple(map(int, split.get("shardLengths", ())))
        for split in info["splits"]
    }
    return DatasetFacts(
        name=name,
        path=os.fspath(path),
        version=info["version"],
        file_format=file_format,
        splits={split: sum(records) for split, records in lengths.items()},
        shards={
            split["name"]: shard_names(info["name"], info, split)
            for split in info["splits"]
        },
        num_classes=num_classes,
        class_names=class_names,
        features=tuple(features),
        shard_lengths=lengths,
        # The lengths decide which example has which number.
        fingerprint=checksum([info["version"], sorted(lengths.items())]),
    )


def parse_record(record: bytes, image_key: str, label_key: str) -> dict[str, Any]:
    """``{"image": encoded bytes, "label": int}`` of a TFDS record.

    Raises:
      IndexError: a feature is missing or of another kind.
    """
    from tensorflow_datasets.proto import tf_example_generated_pb2

    # The generated module makes its classes as it is imported.
    example = getattr(tf_example_generated_pb2, "Example")  # noqa: B009
    fields = example.FromString(record).features.feature
    return {
        "image": fields[image_key].bytes_list.value[0],
        "label": fields[label_key].int64_list.value[0],
    }


class TfdsSource:
    """Random access to one split of a prepared data set; safe to use from threads.

    Args:
      name: TFDS name, with config and version where wanted.
      split: a split expression.
      dir: data directory, see `data_root`.
      image_key, label_key: features to take.
      cache_bytes: a split of at most this many bytes on disk is kept in memory, still
        encoded, after its first reading.
      tolerant: a missing or damaged shard makes its records bad examples, instead of
        an error here.

    Raises:
      DataError: as `describe`, or a feature or shard is missing or damaged.
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
        tolerant: bool = False,
    ):
        self.facts = describe(name, dir=dir, label_key=label_key)
        self.num_classes = self.facts.num_classes
        self.class_names = self.facts.class_names
        check_features(self.facts, image_key, label_key)
        self._image_key, self._label_key = image_key, label_key
        ranges = split_ranges(self.facts, split)
        shards = {name: self._open(name, tolerant) for name, _, _ in ranges}
        self._records = [(shards[name], start, stop) for name, start, stop in ranges]
        self._length = sum(stop - start for _, start, stop in ranges)
        size = sum(map(_size, shards.values()))
        self._cache: dict[int, dict[str, Any]] | None = (
            {} if size <= cache_bytes else None
        )
        self._check_kinds()

    def _check_kinds(self) -> None:
        """On the first examples: an encoded image is bytes, a class label an integer.

        Only where none of them fits is it the features, and not damage.
        """
        misfit: Exception | None = None
        for index in range(min(self._length, 8)):
            read = functools.partial(self._read, index)
            try:
                record = patiently(read, functools.partial(self.where, index))
            except BadExampleError:
                continue  # told where it is read for training
            try:
                self._parse(record)
            except Exception as error:  # protobuf's own kinds, too
                misfit = error
            else:
                return
        if misfit is not None:
            raise DataError(
                f"data set {self.facts.name!r}: {self._image_key!r} and "
                f"{self._label_key!r} are not an encoded image and a class label; set "
                "data.image_key and data.label_key, among: "
                f"{', '.join(self.facts.features)}"
            ) from misfit

    def _open(self, split: str, tolerant: bool) -> Shards:
        folder = self.facts.path
        return Shards(
            [os.path.join(folder, shard) for shard in self.facts.shards[split]],
            self.facts.shard_lengths[split],
            tolerant=tolerant,
            hint=f"move {folder} away and prepare again, or go on without its "
            "examples: --config.data.bad=skip",
        )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``{"image": encoded bytes, "label": int}``.

        Raises:
          BadExampleError: the record is damaged, or its label is of no class.
        """
        example = self._cache.get(index) if self._cache is not None else None
        if example is None:
            record = self._read(index)
            try:
                example = self._parse(record)
            except Exception as error:  # protobuf's own kind, or a missing feature
                raise BadExampleError(
                    f"{self.where(index)}: is no Example with an image and a label "
                    f"({first_line(error)})"
                ) from error
            self._check(example["label"], index)
            if self._cache is not None:
                self._cache[index] = example
        return dict(example)  # a caller may change its own

    def _check(self, label: Any, index: int) -> None:
        check_label(label, self.num_classes, lambda: self.where(index))

    def where(self, index: int) -> str:
        """File and record of an example, for messages."""
        shards, number = self._locate(index)
        return shards.where(number)

    def _locate(self, index: int) -> tuple[Shards, int]:
        if not 0 <= index < self._length:
            raise IndexError(f"index {index} is outside 0..{self._length - 1}")
        offset = index
        for shards, start, stop in self._records:
            if offset < stop - start:
                return shards, start + offset
            offset -= stop - start
        raise AssertionError("unreachable: the ranges add up to the length")

    def _read(self, index: int) -> bytes:
        shards, number = self._locate(index)
        return shards[number]

    def _parse(self, record: bytes) -> dict[str, Any]:
        return parse_record(record, self._image_key, self._label_key)

    def __getstate__(self) -> dict[str, Any]:
        # A process that receives it fills a cache of its own.
        return self.__dict__ | {"_cache": None if self._cache is None else {}}


def _size(shards: Shards) -> int:
    """Bytes on disk of the files that can be used."""
    usable = (n for n in range(len(shards.paths)) if n not in shards.damaged)
    return sum(epath.Path(shards.paths[n]).stat().length for n in usable)
