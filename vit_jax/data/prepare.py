"""Prepares data sets in ArrayRecord, which has random access (uses TensorFlow)."""

import importlib
import os
import re
import time
from collections.abc import Callable
from typing import Any

from vit_jax.data.array_record import first_line
from vit_jax.data.catalogue import (
    OWN_BUILDERS,
    convert_command,
    known_names,
    prepare_command,
    split_name,
    unknown_name,
)
from vit_jax.data.errors import DataError
from vit_jax.data.facts import DatasetFacts
from vit_jax.data.tensorflow import import_tensorflow
from vit_jax.data.tfds import data_root, describe, describe_any

# The archives that TFDS's text does not put in a form to be checked.
ARCHIVES = {"imagenet2012": ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")}


def prepare(
    name: str,
    *,
    dir: str | None = None,
    new_name: str | None = None,
    convert: bool = False,
    output: str | None = None,
    log: Callable[[str], Any] = print,
) -> DatasetFacts:
    """Makes a data set readable in ArrayRecord, whatever it is made from.

    Args:
      name: a TFDS name, which is downloaded and prepared; ``folder:PATH`` or
        ``idx:PATH``, from which the set ``new_name`` is made.
      dir: data directory, see `data_root`.
      new_name: for ``folder:`` and ``idx:``.
      convert: the TFDS set is there in TFRecord, and is to be in ArrayRecord.
      output: another data directory for what is converted; unset, beside it.
      log: told what is done.

    Raises:
      DataError: as the functions that do it, or the arguments do not fit.
    """
    kind, _, rest = name.partition(":")
    if kind == "tfrecord":
        name, convert = rest, True
    makers = {"folder": "convert_folder", "idx": "convert_idx"}
    if new_name and kind not in makers:
        raise DataError(
            f"--name={new_name} is for folder:PATH and idx:PATH, not {name!r}"
        )
    if output and not convert:
        raise DataError("--output is for --convert; --data_dir says where sets are")
    if kind in ("arrays", "synthetic", "patterns", "mix"):
        raise DataError(f"{name!r} needs no preparation; set data.name to it")
    if kind in makers:
        if convert:
            raise DataError(f"--convert is for TFDS sets in TFRecord, not {name!r}")
        if not new_name:
            raise DataError(f"{name!r} needs --name, the name that the set is to have")
        from vit_jax.data import convert_images

        make = getattr(convert_images, makers[kind])
        return make(rest, name=new_name, dir=dir, log=log)
    if convert:
        from vit_jax.data.convert import convert_tfrecord

        return convert_tfrecord(name, dir=dir, output=output, log=log)
    return prepare_tfds(name, dir=dir, log=log)


def prepare_tfds(
    name: str, *, dir: str | None = None, log: Callable[[str], Any] = print
) -> DatasetFacts:
    """Prepares ``name`` in ArrayRecord and says what was done.

    Readers never see a half-written set: TFDS writes beside it and renames.

    Raises:
      DataError: the name is unknown, archives are missing, a version in another format
        is in the way, or the download failed. Nothing of the user's is deleted.
    """
    existing = _ready(name, dir)  # the quick way, without TensorFlow
    builder: Any = None if existing else _builder(name, dir)
    existing = existing or _existing(builder, name, dir)
    if existing is not None:
        log(f"{name} is already prepared in {existing.path}: {_sizes(existing)}")
        return existing
    _check_archives(name, dir)
    log(f"preparing {name} in {builder.data_dir} (ArrayRecord)")
    started = time.perf_counter()
    _download(builder, name, dir)
    facts = describe(_full_name(builder), dir=dir)
    seconds = time.perf_counter() - started
    size = builder.info.dataset_size / 2**20
    log(
        f"prepared {name} in {facts.path}: {_sizes(facts)}, {size:.1f} MiB, "
        f"{seconds:.0f} s"
    )
    return facts


def _ready(name: str, dir: str | None) -> DatasetFacts | None:
    """What can be read already; None leaves the explanation to TFDS's builder.

    Raises:
      DataError: it cannot be read, and no builder here can make it.
    """
    try:
        return describe(name, dir=dir)
    except DataError as error:
        if re.split(r"[/:]", name)[0] in known_names():
            return None
        if is_tfrecord(name, dir):
            raise  # it names the command that converts
        folder = data_root(dir) / split_name(name)[0]
        if not folder.exists():
            raise DataError(unknown_name(name)) from error
        raise DataError(
            f"{folder} holds {name} in another format or is damaged, and TFDS has no "
            "builder of that name; prepare it again in another directory with its own: "
            "download_and_prepare(file_format='array_record')"
        ) from error


def is_tfrecord(name: str, dir: str | None) -> bool:
    """Whether a set is there, in TFRecord alone."""
    try:
        return describe_any(name, dir=dir).file_format == "tfrecord"
    except DataError:
        return False


def _builder(name: str, dir: str | None) -> Any:
    import_tensorflow()
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import naming

    base = re.split(r"[/:]", name)[0]
    if base in OWN_BUILDERS:
        importlib.import_module(f"vit_jax.data.builders.{base}")
    try:
        # From code, and not of a format yet: TFDS refuses one that is not on disk.
        _, settings = naming.parse_builder_name_kwargs(name)
        return tfds.builder_cls(base)(data_dir=os.fspath(data_root(dir)), **settings)
    except (ValueError, AssertionError, ImportError) as error:
        raise DataError(f"{name!r}: {first_line(error)}") from error


def _full_name(builder: Any) -> str:
    """With the config, also where it is the default one, and the version."""
    folder, _, version = builder.info.full_name.rpartition("/")
    return f"{folder}:{version}"


def _existing(builder: Any, name: str, dir: str | None) -> DatasetFacts | None:
    """What is prepared already; another format in the way is an error."""
    root = os.fspath(builder.data_dir)
    if not os.path.exists(os.path.join(root, "dataset_info.json")):
        return None
    try:
        return describe(_full_name(builder), dir=dir)
    except DataError as error:
        if is_tfrecord(_full_name(builder), dir):
            raise DataError(
                f"{root} holds {name} in tfrecord format; convert it: "
                f"{convert_command(name, dir)}"
            ) from error
        raise DataError(
            f"{root} holds {name} in another format; move it away, or prepare into "
            f"another directory: {prepare_command(name, '/another/dir')}"
        ) from error


def _check_archives(name: str, dir: str | None) -> None:
    """Before anything is written: archives that a person must fetch."""
    import tensorflow_datasets as tfds

    base = re.split(r"[/:]", name)[0]
    if base in OWN_BUILDERS:
        return
    instructions = getattr(tfds.builder_cls(base), "MANUAL_DOWNLOAD_INSTRUCTIONS", None)
    if not instructions:
        return
    manual = data_root(dir) / "downloads" / "manual"
    wanted = ARCHIVES.get(base, ())
    missing = [archive for archive in wanted if not (manual / archive).exists()]
    if missing or not (manual.is_dir() and any(manual.iterdir())):
        what = ", ".join(missing) or " ".join(instructions.split())
        raise DataError(
            f"{name!r} must be downloaded by hand; put into {manual}: {what}; "
            f"then run: {prepare_command(name, dir)}"
        )


def _download(builder: Any, name: str, dir: str | None) -> None:
    import tensorflow_datasets as tfds

    try:
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    except (OSError, AssertionError, tfds.download.DownloadError) as error:
        raise DataError(
            f"{name!r} could not be prepared: {first_line(error)}"
        ) from error
    except Exception as error:
        if type(error).__module__.startswith(("requests", "urllib3")):
            raise DataError(
                f"{name!r} could not be downloaded (no network?): {first_line(error)}"
            ) from error
        raise


def _sizes(facts: DatasetFacts) -> str:
    splits = ", ".join(f"{name} {size:,}" for name, size in facts.splits.items())
    return f"{splits} examples, {facts.num_classes} classes"
