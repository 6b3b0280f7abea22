"""Several sources mixed by weights, as a function of (seed, position) alone.

An epoch of a mixture is as many examples as its parts hold together. Each epoch takes
from a part the share that its weight says, to the example; within a part, its examples
come in turn, every one once before any comes again, whatever the epochs of the mixture:
a small part with a large weight is seen more often, and none of a large part is left
out for good. Ids count through the parts, so they are unique.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.data.errors import DataError
from vit_jax.data.facts import DatasetFacts, split_ranges, split_size

_CACHED = 1 << 14  # permutations at most; those of parts this small are quickly made
CLASSES = ("same", "concat")  # parts share their classes, or each brings its own

Part = tuple[str, str, float]  # data set, split expression, weight


def check_parts(parts: Any, classes: str) -> list[Part]:
    """The parts as a list, if they can be mixed.

    Raises:
      DataError: they are malformed, or a weight is not positive.
    """
    example = '(("imagenet2012", "train", 0.7), ("folder:/data/x", "train", 0.3))'
    if not isinstance(parts, list | tuple) or not parts:
        raise DataError(f"data.name 'mix' needs data.mix, such as {example}")
    for part in parts:
        if (
            not isinstance(part, list | tuple)
            or len(part) != 3
            or not all(isinstance(text, str) for text in part[:2])
            or isinstance(part[2], bool)
            or not isinstance(part[2], int | float)
        ):
            raise DataError(
                f"data.mix holds {part!r}; a part is (name, split, weight), such as "
                f"{example}"
            )
        if not 0 < part[2] < math.inf:
            raise DataError(
                f"data.mix: the weight of {part[0]!r} is {part[2]}; weights are "
                "positive numbers, whatever their sum; leave out a part of weight 0"
            )
        if part[0] == "mix":
            raise DataError("data.mix: a part is itself a mix; list its parts instead")
    if classes not in CLASSES:
        raise DataError(
            f"data.mix_classes {classes!r} is unknown; known: {', '.join(CLASSES)}"
        )
    return [(name, split, float(weight)) for name, split, weight in parts]


def describe(
    parts: Sequence[Part], facts: Sequence[DatasetFacts], classes: str
) -> DatasetFacts:
    """What the mixture is: split ``train``, and the parts' own as ``0.validation``, ...

    Raises:
      DataError: the classes do not fit, or a part has no such split.
    """
    sizes = [split_size(each, part[1]) for each, part in zip(facts, parts, strict=True)]
    num_classes, names = _classes(facts, classes)
    own = {
        f"{number}.{split}": size
        for number, each in enumerate(facts)
        for split, size in each.splits.items()
    }
    return DatasetFacts(
        name="mix",
        path="",
        version="",
        file_format="mix",
        splits={"train": sum(sizes)} | own,
        shards={},
        num_classes=num_classes,
        class_names=names,
        features=("image", "label"),
        whole=("train",),
        fingerprint=" ".join(each.fingerprint or each.version or "-" for each in facts),
    )


def _classes(
    facts: Sequence[DatasetFacts], classes: str
) -> tuple[int | None, tuple[str, ...] | None]:
    counts = [each.num_classes for each in facts]
    names = [each.class_names for each in facts]
    if classes == "concat":
        if None in counts:
            raise DataError(
                "data.mix_classes 'concat': it is not known how many classes "
                f"{facts[counts.index(None)].name!r} has"
            )
        known = all(each is not None for each in names)
        joined = tuple(text for each in names for text in each or ()) if known else None
        return sum(count or 0 for count in counts), joined
    told = {each.name: each.num_classes for each in facts if each.num_classes}
    if len(set(told.values())) > 1:
        text = ", ".join(f"{name} {count}" for name, count in told.items())
        raise DataError(
            f"data.mix: the parts differ in their classes: {text}; "
            "data.mix_classes='concat' gives each part classes of its own"
        )
    listed = {each for each in names if each is not None}
    if len(listed) > 1:
        first, second = sorted(listed)[:2]
        place = next(n for n, name in enumerate(first) if name != second[n])
        raise DataError(
            f"data.mix: the parts name their classes differently: class {place} is "
            f"{first[place]!r} or {second[place]!r}; "
            "data.mix_classes='concat' gives each part classes of its own"
        )
    return next(iter(told.values()), None), next(iter(listed), None)


def offsets(facts: Sequence[DatasetFacts], classes: str) -> list[int]:
    """What is added to the labels of each part."""
    if classes == "same":
        return [0] * len(facts)
    counts = [each.num_classes or 0 for each in facts]
    return [sum(counts[:number]) for number in range(len(facts))]


def part_of(facts: DatasetFacts, split: str) -> tuple[int, str]:
    """``"1.validation[:50%]"`` as part 1 and the expression in that part.

    Raises:
      DataError: the expression is malformed, or is not of one part.
    """
    ranges = split_ranges(facts, split)
    numbers = {name.partition(".")[0] for name, _, _ in ranges}
    if len(numbers) > 1:
        raise DataError(
            f"data set 'mix': {split!r} is of several parts; name one, such as "
            "'0.validation'"
        )
    number = numbers.pop()
    terms = [f"{name.partition('.')[2]}[{low}:{high}]" for name, low, high in ranges]
    return int(number), "+".join(terms)


class Relabelled:
    """A part on its own, with its labels as they are in the mixture."""

    def __init__(self, source: Any, offset: int):
        if getattr(source, "label_shape", ()):
            raise DataError(
                f"data.mix: {source.where(0)} has several labels; in a mix an image "
                "has one"
            )
        self.source, self._offset = source, offset

    def __len__(self) -> int:
        return len(self.source)

    def where(self, index: int) -> str:
        """As the part's own."""
        return self.source.where(index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.source[index]
        return example | {"label": example["label"] + self._offset}


class MixtureSource:
    """Random access to the examples of all parts, and the order that mixes them.

    `order` must decide which ids a run takes: counting through the ids would ignore
    the weights.

    Args:
      sources: the parts, with random access, none empty.
      weights: positive, of any sum.
    """

    def __init__(self, sources: Sequence[Any], weights: Sequence[float]):
        self.sources = tuple(sources)
        self._sizes = [len(source) for source in self.sources]
        self._firsts = np.concatenate([[0], np.cumsum(self._sizes)])
        self._weights = tuple(weights)
        self.counts = shares(weights, len(self))
        # Of an epoch, and of all the passes over its parts that a batch may draw from.
        passes = sum(-(-self.counts // self._sizes)) + len(self.sources)
        self._permutation = functools.lru_cache(maxsize=min(int(passes) + 2, _CACHED))(
            permutation
        )

    def __reduce__(self) -> tuple:
        return type(self), (self.sources, self._weights)  # with a cache of its own

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def _locate(self, index: int) -> tuple[Any, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0..{len(self) - 1}")
        part = int(np.searchsorted(self._firsts, index, side="right")) - 1
        return self.sources[part], index - int(self._firsts[part])

    def where(self, index: int) -> str:
        """As the part's own."""
        source, number = self._locate(index)
        return source.where(number)

    def __getitem__(self, index: int) -> dict[str, Any]:
        source, number = self._locate(index)
        return source[number]

    def order(self, positions: np.ndarray, *, seed: int, shuffle: bool) -> np.ndarray:
        """Ids of the examples at these positions of the run, int64.

        Without ``shuffle`` the parts are spread evenly over an epoch, and each is read
        from its first example to its last.
        """
        epochs, slots = np.divmod(np.asarray(positions, np.int64), len(self))
        ids = np.empty(len(epochs), np.int64)
        for epoch in map(int, np.unique(epochs)):
            here = np.flatnonzero(epochs == epoch)
            drawn = slots[here]
            if shuffle:
                drawn = self._permutation(seed, 0, epoch, len(self))[drawn]
            else:
                drawn = _spread(tuple(map(int, self.counts)))[drawn]
            # A slot is a draw from a part: the slots of one part follow each other.
            ends = np.cumsum(self.counts)
            parts = np.searchsorted(ends, drawn, side="right")
            draws = drawn - (ends - self.counts)[parts]
            for part in map(int, np.unique(parts)):
                rows = parts == part
                ids[here[rows]] = self._ids(part, epoch, draws[rows], seed, shuffle)
        return ids

    def _ids(
        self, part: int, epoch: int, draws: np.ndarray, seed: int, shuffle: bool
    ) -> np.ndarray:
        """Of a part: the ids of some of its draws in an epoch of the mixture."""
        size = self._sizes[part]
        passes, numbers = np.divmod(epoch * int(self.counts[part]) + draws, size)
        if shuffle:
            shuffled = np.empty_like(numbers)
            for number in map(int, np.unique(passes)):
                rows = passes == number
                order = self._permutation(seed, part + 1, number, size)
                shuffled[rows] = order[numbers[rows]]
            numbers = shuffled
        return self._firsts[part] + numbers


def shares(weights: Sequence[float], total: int) -> np.ndarray:
    """``total`` divided by weights, in whole numbers that add up to it."""
    exact = np.asarray(weights, np.float64) / math.fsum(weights) * total
    counts = np.floor(exact).astype(np.int64)
    rest = total - int(counts.sum())
    # Those that lost most by rounding get the rest; the first of equals.
    counts[np.argsort(counts - exact, kind="stable")[:rest]] += 1
    return counts


def permutation(seed: int, part: int, number: int, size: int) -> np.ndarray:
    """The order of a part (from 1) in one pass over it; of part 0, of an epoch."""
    key = np.random.SeedSequence([seed, part, number])
    order = np.random.Generator(np.random.Philox(key)).permutation(size)
    if size <= np.iinfo(np.int32).max:
        order = order.astype(np.int32)  # half the memory
    order.flags.writeable = False  # shared by all callers
    return order


@functools.lru_cache(maxsize=2)
def _spread(counts: tuple[int, ...]) -> np.ndarray:
    """All slots, ordered so that each part's are at even distances."""
    places = np.concatenate([(np.arange(n) + 0.5) / max(n, 1) for n in counts])
    order = np.argsort(places, kind="stable")
    order.flags.writeable = False
    return order
