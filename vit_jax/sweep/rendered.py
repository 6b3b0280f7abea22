"""What the schedulers' renderers share: a batch of trials, and the command of one."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from vit_jax.sweep.ranges import SweepError


@dataclasses.dataclass(frozen=True)
class Batch:
    """Trials that one submission runs.

    Args:
      name: of the job; letters, digits and dashes.
      workdir: of the sweep.
      numbers: of the trials, as in ``"0-11,14"``.
      count: how many they are.
      parallel: at a time, at most; None: as many as there is room for.
      retries: as of the local runner.
    """

    name: str
    workdir: str
    numbers: str
    count: int
    parallel: int | None
    retries: int

    def arguments(self, index: str) -> list[str]:
        """Arguments of `vit-jax` that run the trial of an index from 0."""
        return [
            *("sweep", "run-trial", f"--workdir={self.workdir}"),
            f"--of={self.numbers}",
            f"--index={index}",
            f"--retries={self.retries}",
        ]


@dataclasses.dataclass(frozen=True)
class Rendered:
    """Files by name, and the command that submits them, which may name them."""

    files: Mapping[str, str]
    submit: Sequence[str]


def compact(numbers: Sequence[int]) -> str:
    """``[0, 1, 2, 5]`` as ``"0-2,5"``."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def numbers_of(text: str) -> list[int]:
    """What `compact` was given."""
    numbers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not found:
            raise SweepError(f"--of={text} is not of the form 0-11,14")
        numbers += range(int(found[1]), int(found[2] or found[1]) + 1)
    return numbers


def pairs(items: Sequence[str], flag: str) -> dict[str, str]:
    """``["nvidia.com/gpu=1"]`` as a dict."""
    found = [item.partition("=") for item in items]
    if wrong := [
        item for item, (k, _, v) in zip(items, found, strict=True) if not v or not k
    ]:
        raise SweepError(f"{flag}={wrong[0]} is not KEY=VALUE")
    return {key: value for key, _, value in found}


def needs_bucket(batch: Batch, backend: str) -> None:
    """Refuses a work directory that the machines of a cloud cannot see."""
    if not batch.workdir.startswith("gs://"):
        raise SweepError(
            f"--backend={backend} runs where {batch.workdir} is not; use "
            "--workdir=gs://BUCKET/PATH"
        )
