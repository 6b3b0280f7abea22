"""Damaged images and shards: reported or left out, and nothing else is lost."""

import os
import pathlib
import shutil
import tempfile

import numpy as np

from . import bad_images, workers
from .core import Context, Outcome, Scenario

LIMIT = 60.0
JOBS = 2


class Fixture:
    """The undamaged data sets and the reading processes."""

    def __init__(self, context: Context, home: pathlib.Path):
        fast = pathlib.Path("/dev/shm")
        self._folder = tempfile.TemporaryDirectory(
            prefix="chaos-", dir=fast if os.access(fast, os.W_OK) else home
        )
        self.home = pathlib.Path(self._folder.name)
        self.folder, self.shards = self.home / "folder", self.home / "shards"
        bad_images.write_folder(self.folder)
        bad_images.write_shards(self.shards)
        words = workers.command(
            "data_worker", f"--folder={self.folder}", f"--shards={self.shards}"
        )
        self._workers = workers.Workers(context, words, number=JOBS, limit=LIMIT)

    def read(self, copy: pathlib.Path, *, shards: bool, damaged: list[str]) -> dict:
        """What a worker says of a copy, of which some examples are damaged."""
        name = bad_images.NAME if shards else f"folder:{copy}"
        root = copy / bad_images.NAME / "1.0.0" if shards else copy
        directory = str(copy) if shards else ""
        request = {"name": name, "dir": directory, "root": str(root)}
        return self._workers.ask(request | {"damaged": damaged})

    def close(self) -> None:
        """Ends the processes and removes the data."""
        self._workers.close()
        self._folder.cleanup()


def damage_folder(
    copy: pathlib.Path, rng: np.random.Generator
) -> tuple[str, set[str], set[str]]:
    """Damages one to three files; says how, which must be lost, and which may be."""
    names = [name for name, _, _ in bad_images.examples()]
    chosen = rng.choice(names, int(rng.integers(1, 4)), replace=False)
    must, may, how = set(), set(), []
    for name in map(str, chosen):
        kind = str(rng.choice(list(bad_images.IMAGE_DAMAGES)))
        damage = bad_images.IMAGE_DAMAGES[kind]
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(damage.apply(content, rng))
        (must if damage.certain else may).add(name)
        how.append(f"{kind} {name}")
    return ", ".join(how), must, may


def damage_shard(
    copy: pathlib.Path, rng: np.random.Generator
) -> tuple[str, set[str], set[str]]:
    """Damages the file of one shard; what of it must be lost, reading it tells."""
    name = bad_images.shard_name(int(rng.integers(bad_images.SHARDS)))
    path = copy / bad_images.NAME / "1.0.0" / name
    kind = str(rng.choice(list(bad_images.SHARD_DAMAGES)))
    apply = bad_images.SHARD_DAMAGES[kind]
    if apply is None:
        path.unlink()
    else:
        path.write_bytes(apply(path.read_bytes(), rng))
    return f"{kind} {name}", set(), set()


def damage_record(
    copy: pathlib.Path, rng: np.random.Generator
) -> tuple[str, set[str], set[str]]:
    """A whole shard in which one record holds a damaged image."""
    number = int(rng.integers(bad_images.SHARDS))
    labelled = bad_images.examples()[number :: bad_images.SHARDS]
    victim = int(rng.integers(len(labelled)))
    kind = str(rng.choice(list(bad_images.IMAGE_DAMAGES)))
    damage = bad_images.IMAGE_DAMAGES[kind]
    records = [
        bad_images.record_of(
            damage.apply(image, rng) if row == victim else image, label
        )
        for row, (_, label, image) in enumerate(labelled)
    ]
    name = bad_images.shard_name(number)
    path = copy / bad_images.NAME / "1.0.0" / name
    path.unlink()
    bad_images.write_shard(path, records)
    where = {f"{name}, record {victim}"}
    empty: set[str] = set()
    how = f"{kind} record {victim} of {name}"
    return (how, where, empty) if damage.certain else (how, empty, where)


KINDS = {"images": damage_folder, "shard": damage_shard, "record": damage_record}


def trial(
    context: Context,
    fixture: Fixture,
    folder: pathlib.Path,
    index: int,
    rng: np.random.Generator,
) -> Outcome:
    """Damages a copy and reads it in both modes."""
    kind = list(KINDS)[index % len(KINDS)]
    shards = kind != "images"
    copy = fixture.home / folder.name
    shutil.copytree(fixture.shards if shards else fixture.folder, copy)
    how, must, may = KINDS[kind](copy, rng)
    answer = fixture.read(copy, shards=shards, damaged=sorted(must | may))
    shutil.rmtree(copy)
    if answer["kind"] != "read":
        return Outcome(f"{kind}: {answer['kind']}", False, f"{how}: {answer['detail']}")
    if kind == "shard":
        must = set(answer["unreadable"])
    problems = judge(answer, must, may)
    if problems:
        return Outcome(f"{kind}: WRONG", False, f"{how}: {'; '.join(problems)}")
    return Outcome(f"{kind}: {'left out' if answer['lost'] else 'harmless'}", True)


def judge(answer: dict, must: set[str], may: set[str]) -> list[str]:
    """What is wrong with an answer."""
    lost, problems = set(answer["lost"]), []
    if must - lost:
        problems.append(f"damaged but taken: {sorted(must - lost)[:3]}")
    if lost - must - may:
        problems.append(f"lost without damage: {sorted(lost - must - may)[:3]}")
    if not answer["intact"]:
        problems.append("healthy examples have changed")
    if not answer["repeated"]:
        problems.append("a second reading differs")
    said = answer["stop"]
    files = {text.partition(",")[0] for text in lost}
    if lost and not said:
        problems.append("stop mode did not stop")
    if lost and said and not any(name in said for name in files):
        problems.append(f"stop mode names none of the files: {said[:200]}")
    if not lost and said:
        problems.append(f"stop mode stopped: {said[:200]}")
    return problems


SCENARIO = Scenario(
    name="data",
    what="damaged images, shards and records",
    bar="no crash or hang; stop names the file; skip loses exactly the bad ones",
    count=500,
    short=30,
    prepare=Fixture,
    trial=trial,
    jobs=JOBS,
)
