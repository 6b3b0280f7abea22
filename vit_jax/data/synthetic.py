"""Images of noise that cost nothing: ``synthetic``, or ``synthetic:NUMBER`` of them.

For measuring and trying out: no disk, and each example a function of its index alone.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.data.errors import DataError
from vit_jax.data.facts import DatasetFacts, split_ranges

NUM_EXAMPLES = 1_281_167  # as many as ImageNet-1k has
NUM_VALIDATION = 50_000  # at most, and at most a tenth of the others, rounded up
NUM_CLASSES = 1000
SHIFTS = 65_521  # prime: places of the noise at which an image begins


def describe(
    text: str, *, num_classes: int | None = None, kind: str = "synthetic"
) -> DatasetFacts:
    """Splits ``train`` and ``validation`` of ``synthetic:NUMBER``, without the prefix.

    Args:
      text: the number, or nothing.
      num_classes: unset, as many as ImageNet-1k has.
      kind: the prefix.

    Raises:
      DataError: the number is none.
    """
    digits = text.replace("_", "").replace(",", "")
    if text and not (digits.isdecimal() and 0 < int(digits) < 1 << 40):
        raise DataError(
            f"data.name '{kind}:{text}': the number of examples must be positive, such "
            f"as {kind}:1281167"
        )
    size = int(digits) if text else NUM_EXAMPLES
    return DatasetFacts(
        name=f"{kind}:{text}" if text else kind,
        path="",
        version="",
        file_format=kind,
        splits={
            "train": size,
            "validation": min(NUM_VALIDATION, -(-size // 10)),
        },
        shards={},
        num_classes=num_classes or NUM_CLASSES,
        class_names=None,
        features=("image", "label"),
    )


@functools.lru_cache(maxsize=2)
def _noise(size: int) -> np.ndarray:
    """Random bytes, one stretch of which is an image of ``size`` bytes."""
    noise = np.random.Generator(np.random.Philox(0)).integers(
        0, 256, size + SHIFTS, np.uint8
    )
    noise.flags.writeable = False
    return noise


class Numbered:
    """Random access to examples that are a function of their number.

    Args:
      split: a split expression.
      facts: of `describe`.
      image_shape: height, width, channels.

    Raises:
      DataError: there is no such split.
    """

    def __init__(self, split: str, *, facts: DatasetFacts, image_shape: Sequence[int]):
        self.num_classes, self.class_names = facts.num_classes, None
        self._shape = tuple(map(int, image_shape))
        self._classes = facts.num_classes or NUM_CLASSES
        self._name = facts.name
        # Validation goes on where training ends: the splits share no example.
        first = {"train": 0, "validation": facts.splits["train"]}
        self._ranges = [
            (first[name] + start, first[name] + stop)
            for name, start, stop in split_ranges(facts, split)
        ]

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self._ranges)

    def _number(self, index: int) -> int:
        offset = index
        for start, stop in self._ranges:
            if 0 <= offset < stop - start:
                return start + offset
            offset -= stop - start
        raise IndexError(f"index {index} is outside 0..{len(self) - 1}")

    def where(self, index: int) -> str:
        """The data set and the number, for messages."""
        return f"{self._name}, record {self._number(index)}"


class SyntheticSource(Numbered):
    """Random access to uint8 images of noise with labels that go round the classes.

    Args:
      text: how many, as in `describe`.
      split: a split expression.
      image_shape: height, width, channels.
      num_classes: labels are below it.

    Raises:
      DataError: as `describe`, or there is no such split.
    """

    def __init__(
        self,
        text: str,
        split: str,
        *,
        image_shape: Sequence[int] = (224, 224, 3),
        num_classes: int | None = None,
    ):
        facts = describe(text, num_classes=num_classes)
        super().__init__(split, facts=facts, image_shape=image_shape)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``{"image": uint8 [H, W, C], "label": int}``."""
        number = self._number(index)
        size = int(np.prod(self._shape))
        # Neighbours begin far from each other in the noise.
        start = number * 40_503 % SHIFTS
        image = _noise(size)[start : start + size].copy()
        # Its own number makes every image another one.
        image[:8] = np.frombuffer(number.to_bytes(8, "little"), np.uint8)[:size]
        return {
            "image": image.reshape(self._shape),
            "label": number % self._classes,
        }
