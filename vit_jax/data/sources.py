"""Data sets by name, whatever they are kept in: what they are, and their examples.

A source is safe to use from threads and can be pickled, and has ``len(source)`` and
``source.where(index)``: file and record, for messages. With random access it also has
``source[index] -> {"image": encoded bytes or uint8 array, "label": int}``, which raises
`BadExampleError` for a damaged example. Where an example has several labels, "label" is
a row of their numbers as `rows.each_once` makes it, and ``source.label_shape`` its
shape. One that is a stream has ``source.stream(start, seed=, shuffle=)`` instead,
``(id, example)`` from a position of the run on. One that decides itself which ids a run
takes has ``source.order(positions, seed=, shuffle=)``.

To add a kind: a file with its ``describe`` and its source, and a row in SOURCES.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from vit_jax.data.errors import DataError
from vit_jax.data.facts import DatasetFacts


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """Where examples come from. What a kind of source has no use for is ignored.

    Args:
      name: ``KIND:REST`` with a kind of SOURCES, or a TFDS name.
      dir, image_key, label_key, cache_bytes: of TFDS sets.
      tolerant: damaged files are bad examples, and no error at the opening.
      many: an example has any number of labels: of TFDS sets `many_labels`, of
        `arrays` where they are rows padded with -1.
      mix, mix_classes: the parts of ``mix``, see `mixture`.
      image_shape, num_classes: of synthetic examples and patterns.
    """

    name: str
    dir: str | None = None
    image_key: str = "image"
    label_key: str = "label"
    cache_bytes: int = 1 << 28
    tolerant: bool = False
    many: bool = False
    mix: Any = ()
    mix_classes: str = "same"
    image_shape: tuple[int, ...] = (224, 224, 3)
    num_classes: int | None = None

    @property
    def kind(self) -> str:
        """The row of SOURCES, or "" for a TFDS name."""
        kind = self.name.partition(":")[0]
        return kind if kind in SOURCES else ""

    @property
    def rest(self) -> str:
        """What follows the kind; a TFDS name as it is."""
        return self.name.partition(":")[2] if self.kind else self.name


class Kind(NamedTuple):
    """A kind of source; its module is imported when it is used."""

    describe: Callable[[DataSpec], DatasetFacts]
    open: Callable[[DataSpec, str], Any]


def describe(spec: DataSpec) -> DatasetFacts:
    """What a data set says of itself.

    Raises:
      DataError: it is not there, or not as it must be; the message says what helps.
    """
    return SOURCES[spec.kind].describe(spec)


def open_source(spec: DataSpec, split: str) -> Any:
    """The examples of a split expression.

    Raises:
      DataError: as `describe`, or there is no such split.
    """
    source = SOURCES[spec.kind].open(spec, split)
    if spec.many and not getattr(source, "label_shape", ()):
        raise DataError(
            f"data set {spec.name!r}: several labels an example are read from TFDS "
            "sets in ArrayRecord, such as imagenet2012_real, and from arrays; here "
            "each has one"
        )
    return source


def _describe_tfds(spec: DataSpec) -> DatasetFacts:
    from vit_jax.data import tfds

    return tfds.describe(spec.rest, dir=spec.dir, label_key=spec.label_key)


def _open_tfds(spec: DataSpec, split: str) -> Any:
    from vit_jax.data import many_labels, tfds

    kind = many_labels.ManyLabelsSource if spec.many else tfds.TfdsSource
    return kind(
        name=spec.rest,
        split=split,
        dir=spec.dir,
        image_key=spec.image_key,
        label_key=spec.label_key,
        cache_bytes=spec.cache_bytes,
        tolerant=spec.tolerant,
    )


def _describe_tfrecord(spec: DataSpec) -> DatasetFacts:
    from vit_jax.data import tfrecord

    facts = tfrecord.describe(spec.rest, dir=spec.dir, label_key=spec.label_key)
    return dataclasses.replace(facts, name=spec.name)


def _open_tfrecord(spec: DataSpec, split: str) -> Any:
    from vit_jax.data import tfrecord

    return tfrecord.TfrecordSource(
        name=spec.rest,
        split=split,
        dir=spec.dir,
        image_key=spec.image_key,
        label_key=spec.label_key,
        tolerant=spec.tolerant,
    )


def _describe_folder(spec: DataSpec) -> DatasetFacts:
    from vit_jax.data import folder

    return folder.describe(spec.rest)


def _open_folder(spec: DataSpec, split: str) -> Any:
    from vit_jax.data import folder

    return folder.FolderSource(spec.rest, split)


def _describe_arrays(spec: DataSpec) -> DatasetFacts:
    from vit_jax.data import arrays

    return arrays.describe(spec.rest)


def _open_arrays(spec: DataSpec, split: str) -> Any:
    from vit_jax.data import arrays

    return arrays.NamedArraySource(spec.rest, split)


def _describe_synthetic(spec: DataSpec) -> DatasetFacts:
    from vit_jax.data import synthetic

    return synthetic.describe(spec.rest, num_classes=spec.num_classes)


def _open_synthetic(spec: DataSpec, split: str) -> Any:
    from vit_jax.data import synthetic

    return synthetic.SyntheticSource(
        spec.rest, split, image_shape=spec.image_shape, num_classes=spec.num_classes
    )


def _describe_patterns(spec: DataSpec) -> DatasetFacts:
    from vit_jax.data import patterns

    return patterns.describe(spec.rest, num_classes=spec.num_classes)


def _open_patterns(spec: DataSpec, split: str) -> Any:
    from vit_jax.data import patterns

    return patterns.PatternSource(
        spec.rest, split, image_shape=spec.image_shape, num_classes=spec.num_classes
    )


def _mixed(spec: DataSpec) -> tuple[list, list[DataSpec], list[DatasetFacts]]:
    """The parts of a mixture: as given, as specs, and what they say of themselves."""
    from vit_jax.data import mixture

    if spec.rest:
        raise DataError(f"data.name {spec.name!r}: the parts of 'mix' are in data.mix")
    parts = mixture.check_parts(spec.mix, spec.mix_classes)
    # The model's classes are those of a part only where all have the same.
    classes = spec.num_classes if spec.mix_classes == "same" else None
    specs = [
        dataclasses.replace(spec, name=name, mix=(), num_classes=classes)
        for name, _, _ in parts
    ]
    for each in specs:
        if each.kind == "tfrecord":
            raise DataError(
                f"data.mix: {each.name!r} has no random access; convert it: vit-jax "
                f"prepare {each.rest} --convert, and name it {each.rest!r}"
            )
    return parts, specs, [describe(each) for each in specs]


def _describe_mix(spec: DataSpec) -> DatasetFacts:
    from vit_jax.data import mixture

    parts, _, facts = _mixed(spec)
    return mixture.describe(parts, facts, spec.mix_classes)


def _open_mix(spec: DataSpec, split: str) -> Any:
    from vit_jax.data import mixture

    parts, specs, facts = _mixed(spec)
    whole = mixture.describe(parts, facts, spec.mix_classes)
    added = mixture.offsets(facts, spec.mix_classes)
    if split.strip() != "train":
        number, expression = mixture.part_of(whole, split)
        return mixture.Relabelled(open_source(specs[number], expression), added[number])
    opened = [
        mixture.Relabelled(open_source(each, expression), offset)
        for each, (_, expression, _), offset in zip(specs, parts, added, strict=True)
    ]
    return mixture.MixtureSource(opened, [weight for _, _, weight in parts])


SOURCES = {
    "": Kind(_describe_tfds, _open_tfds),
    "tfrecord": Kind(_describe_tfrecord, _open_tfrecord),
    "folder": Kind(_describe_folder, _open_folder),
    "arrays": Kind(_describe_arrays, _open_arrays),
    "synthetic": Kind(_describe_synthetic, _open_synthetic),
    "patterns": Kind(_describe_patterns, _open_patterns),
    "mix": Kind(_describe_mix, _open_mix),
}
