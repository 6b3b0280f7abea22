"""What a data set says of itself, and what a split expression means in it."""

import dataclasses
from collections.abc import Callable, Mapping

from vit_jax.data.errors import BadExampleError, DataError
from vit_jax.data.split import parse_split


@dataclasses.dataclass(frozen=True)
class DatasetFacts:
    """What is known of a data set before an example is read."""

    name: str
    path: str
    version: str
    file_format: str
    splits: Mapping[str, int]  # examples
    shards: Mapping[str, tuple[str, ...]]  # file names in path
    num_classes: int | None
    class_names: tuple[str, ...] | None
    features: tuple[str, ...]
    shard_lengths: Mapping[str, tuple[int, ...]] = dataclasses.field(
        default_factory=dict
    )
    whole: tuple[str, ...] = ()  # splits that cannot be sliced or added to others
    fingerprint: str = ""  # of what examples there are, where that may change

    def identity(self) -> dict[str, object]:
        """What must stay as it is under a run, for its numbers to stay the same."""
        return {
            "version": self.version,
            "splits": dict(self.splits),
            "fingerprint": self.fingerprint,
        }


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
    for name, start, stop in ranges:
        if name in facts.whole and (len(ranges), stop - start) != (
            1,
            facts.splits[name],
        ):
            raise DataError(
                f"data set {facts.name!r}: {name!r} is drawn by weights and has no "
                f"slices or sums, unlike {split!r}; slice its parts in data.mix"
            )
    return ranges


def check_label(label: int, num_classes: int | None, where: Callable[[], str]) -> None:
    """Whether a label is of the set's own classes, where it says how many it has.

    One outside would be learned as no class at all, without a word.

    Raises:
      BadExampleError: it is not.
    """
    if num_classes is not None and not 0 <= label < num_classes:
        raise BadExampleError(
            f"{where()}: its label is {label}, not in 0..{num_classes - 1} (number of "
            f"classes of the data set: {num_classes})"
        )


def check_features(facts: DatasetFacts, *keys: str) -> None:
    """Whether a set has the features that are to be taken.

    Raises:
      DataError: it has not; what it has is listed.
    """
    for key in keys:
        if key not in facts.features:
            raise DataError(
                f"data set {facts.name!r} has no feature {key!r}; it has: "
                f"{', '.join(facts.features)} (data.image_key, data.label_key)"
            )
