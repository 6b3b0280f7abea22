"""Turns a TFDS set in TFRecord into ArrayRecord, without Beam and without its builder.

Every record passes TFRecord's checksum. Files are written aside, counted and made
durable before one rename makes them visible: what was interrupted is never taken for
whole.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from vit_jax.data.array_record import Shards, first_line
from vit_jax.data.errors import DataError
from vit_jax.data.facts import DatasetFacts
from vit_jax.data.tensorflow import import_tensorflow
from vit_jax.data.tfds import describe, describe_any, shard_names
from vit_jax.data.tfrecord import BATCH, find_damage, reason_of

# A record is a chunk of its own, as random access wants it; images are compressed
# already. TFDS reads the same.
WRITER_OPTIONS = "group_size:1"
ASIDE = ".incomplete-"  # begins the names of what is being written


def convert_tfrecord(
    name: str,
    *,
    dir: str | None = None,
    output: str | None = None,
    log: Callable[[str], Any] = print,
) -> DatasetFacts:
    """Writes a TFRecord set as ArrayRecord, beside it or in another data directory.

    Order and shards stay as they are, so example ids do too. The TFRecord files are
    left where they are.

    Raises:
      DataError: the set is not there or damaged, or the disk has no room. Nothing has
        changed then.
    """
    # In another directory it may be there already, in either format.
    there = output or dir
    with contextlib.suppress(DataError):
        facts = describe(name, dir=there)
        log(f"{name} is in ArrayRecord already: {facts.path}")
        return facts
    facts = describe_any(name, dir=dir, prefer="tfrecord")
    if facts.file_format != "tfrecord":
        raise DataError(
            f"data set {name!r} in {facts.path} is in {facts.file_format} format; only "
            "tfrecord is converted"
        )
    folder = local(facts.path)
    info = json.loads((folder / "dataset_info.json").read_text())
    target = folder if output is None else _target(folder, facts, name, output)
    started = time.perf_counter()
    log(f"converting {name} in {folder} from TFRecord to ArrayRecord in {target}")
    names = _new_names(info, facts)
    sources = {
        split: [folder / file for file in facts.shards[split]] for split in names
    }
    for path in (path for paths in sources.values() for path in paths):
        if not path.exists():
            raise DataError(f"{path} is missing; {folder} is incomplete")
    size = sum(path.stat().st_size for paths in sources.values() for path in paths)
    with aside(target, size=size) as temporary:
        with progress(sum(facts.splits.values()), f"converting {name}") as advance:
            for split, paths in sources.items():
                for path, file, length in zip(
                    paths, names[split], facts.shard_lengths[split], strict=True
                ):
                    _convert_file(path, temporary / file, length, advance)
        for split, files in names.items():
            check_written(temporary, files, facts.shard_lengths[split])
        if output is None:
            _publish_beside(folder, temporary, info)
        else:
            _publish_new(folder, temporary, target, info)
    done = describe(name, dir=there)
    seconds = time.perf_counter() - started
    log(
        f"converted {name}: {sum(facts.splits.values()):,} examples, "
        f"{size / 2**20:.1f} MiB, {seconds:.0f} s; they are in {done.path}"
    )
    return done


def _target(
    folder: pathlib.Path, facts: DatasetFacts, name: str, output: str
) -> pathlib.Path:
    """Where the set goes in another data directory: NAME[/CONFIG]/VERSION."""
    target = local(output) / name.partition(":")[0] / folder.name
    if target.exists():
        raise DataError(
            f"{target} exists already; move it away, or use another --output"
        )
    return target


def _new_names(info: dict[str, Any], facts: DatasetFacts) -> dict[str, tuple[str, ...]]:
    names = {
        split["name"]: shard_names(
            info["name"], info | {"fileFormat": "array_record"}, split
        )
        for split in info["splits"]
    }
    for split, files in names.items():
        if set(files) & set(facts.shards[split]):
            raise DataError(
                f"the file names in {facts.path} do not have their format in them "
                f"({files[0]}), so a second format has no place beside the first"
            )
    return names


def _convert_file(
    source: pathlib.Path,
    target: pathlib.Path,
    length: int,
    advance: Callable[[int], Any],
) -> None:
    """One file to one file.

    Raises:
      DataError: it is damaged, or has another number of records than it should have.
    """
    tf = import_tensorflow()
    count = 0
    try:
        with writing(target) as write:
            # Many at a time: handing a record over costs more than reading it.
            batches = tf.data.TFRecordDataset(str(source)).batch(BATCH)
            for records in batches.as_numpy_iterator():
                for record in records:
                    write(record)
                count += len(records)
                advance(len(records))
    except tf.errors.OpError as error:  # a checksum, or the end within a record
        record, found = find_damage(str(source), length)
        raise DataError(
            f"{source}, record {record}: {found or reason_of(error)}; get the file anew"
        ) from error
    if count != length:
        raise DataError(
            f"{source} holds {count:,} examples where dataset_info.json says "
            f"{length:,}; get the file anew"
        )


def _publish_beside(
    folder: pathlib.Path, temporary: pathlib.Path, info: dict[str, Any]
) -> None:
    for file in sorted(temporary.iterdir()):
        file.replace(folder / file.name)
    # Only what this file says is there for readers.
    formats = [*info.get("alternativeFileFormats", ()), "array_record"]
    write_durably(
        folder / "dataset_info.json", info | {"alternativeFileFormats": formats}
    )


def _publish_new(
    folder: pathlib.Path,
    temporary: pathlib.Path,
    target: pathlib.Path,
    info: dict[str, Any],
) -> None:
    for file in folder.iterdir():
        if file.suffix in (".json", ".txt") and file.name != "dataset_info.json":
            shutil.copyfile(file, temporary / file.name)
    info = info | {"fileFormat": "array_record"}
    info.pop("alternativeFileFormats", None)
    write_durably(temporary / "dataset_info.json", info)
    temporary.rename(target)


def local(path: str) -> pathlib.Path:
    """A path to write to.

    Raises:
      DataError: it is a bucket: ArrayRecord is written to a file system.
    """
    if "://" in path:
        raise DataError(
            f"{path}: conversion reads and writes local directories; copy the set to "
            "one, convert it, and copy it back"
        )
    return pathlib.Path(path).expanduser()


@contextlib.contextmanager
def aside(target: pathlib.Path, *, size: int = 0) -> Iterator[pathlib.Path]:
    """A new folder beside (or, where ``target`` exists, in) it, gone at the end.

    What earlier processes of this host left, that are no more, is removed.

    Raises:
      DataError: the disk has no room for ``size`` bytes, or fails.
    """
    parent = target if target.exists() else target.parent
    made = [path for path in (parent, *parent.parents) if not path.exists()]
    temporary = parent / f"{ASIDE}{socket.gethostname()}-{os.getpid()}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for old in parent.glob(f"{ASIDE}{socket.gethostname()}-*"):
            if not _alive(old.name):
                shutil.rmtree(old, ignore_errors=True)
        free = shutil.disk_usage(parent).free
        if size > free:
            raise DataError(
                f"{parent} has {free / 2**30:.1f} GiB free, and {size / 2**30:.1f} are "
                "needed; free some, or write elsewhere"
            )
        temporary.mkdir()
        yield temporary
    except OSError as error:
        raise DataError(f"{parent}: writing failed ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for path in made:
            with contextlib.suppress(OSError):  # not empty: it is needed
                path.rmdir()


def _alive(name: str) -> bool:
    match = re.search(r"-(\d+)$", name)
    try:
        os.kill(int(match[1]) if match else 0, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[Callable[[bytes], Any]]:
    """Writes an ArrayRecord file; it is on the disk when the block ends well."""
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), WRITER_OPTIONS)
    try:
        yield writer.write
        writer.close()
    except RuntimeError as error:  # such as a full disk
        raise DataError(f"{path} cannot be written ({first_line(error)})") from error
    finally:
        if writer.is_open():
            with contextlib.suppress(RuntimeError):
                writer.close()
    sync(path)


def sync(path: pathlib.Path) -> None:
    """Waits until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_durably(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Replaces a JSON file by another in one step."""
    temporary = path.with_name(f"{ASIDE}{path.name}")
    temporary.write_text(json.dumps(content, indent=2))
    sync(temporary)
    temporary.replace(path)


def check_written(folder: pathlib.Path, files: Any, lengths: Any) -> None:
    """Opens and counts what was written.

    Raises:
      DataError: a file does not hold what it should.
    """
    paths = [str(folder / file) for file in files]
    Shards(paths, lengths, hint="the disk did not keep what was written to it")


@contextlib.contextmanager
def progress(total: int, text: str) -> Iterator[Callable[[int], Any]]:
    """A line with the time that is left, where there is a terminal."""
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TextColumn("left"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(
        *columns,
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as bar:
        task = bar.add_task(text, total=total)
        yield lambda count: bar.advance(task, count)
