"""The records of the ledger; its facts are in entries.py, measured.py, planned.json."""

import dataclasses
import statistics

# Where runs are planned: published ones, and small ones that a machine trains.
LARGE = ("v5e:16x16", "v5p:4x4x4", "h100:1x8")
SMALL = ("v5e:1x1", "v5p:2x2x1", "h100:1x1")


@dataclasses.dataclass(frozen=True)
class Published:
    """A figure of others.

    Args:
      value: in percent.
      source: where it can be read.
      when: what was done to get it: epochs, fine-tuning, resolution.
      what: was measured.
      not_comparable: why this recipe cannot be held against it; empty if it can.
    """

    value: float
    source: str
    when: str = ""
    what: str = "top-1 on ImageNet-1k"
    not_comparable: str = ""

    def __str__(self) -> str:
        when = f", {self.when}" if self.when else ""
        return f"{self.value} % {self.what}{when} ({self.source})"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A recipe with its argument.

    Args:
      spec: ``"mae_i1k:B/16"``, of a file in configs/ and its argument.
      paper: arXiv id; empty for what follows no paper.
      published: figures that it should be held against, or says why not.
      note: in place of a figure, or on all of them.
      needs: flags without which the command does not train, such as a teacher.
      planned_with: overrides that stand for `needs` in a plan, "model.variant=B/32".
      topologies: that it is planned for.
    """

    spec: str
    paper: str
    published: tuple[Published, ...] = ()
    note: str = ""
    needs: tuple[str, ...] = ()
    planned_with: tuple[str, ...] = ()
    topologies: tuple[str, ...] = LARGE

    @property
    def name(self) -> str:
        """Of the file in configs/."""
        return self.spec.partition(":")[0]

    @property
    def arg(self) -> str | None:
        """Of its ``get_config``."""
        _, colon, arg = self.spec.partition(":")
        return arg if colon else None

    @property
    def small(self) -> bool:
        """Whether it is one to run on any machine."""
        return self.topologies == SMALL


@dataclasses.dataclass(frozen=True)
class Measured:
    """A result of ours.

    Args:
      spec: of the entry.
      what: was measured, ``"top-1 of the 360 test images"``.
      values: by seed, or what `per` says, in percent.
      hardware: that it ran on.
      command: that gave it; ``N`` stands for the seed.
      date: of the last run, ``"2026-11-24"``.
      per: what there is a value of; ``"draw"`` of the examples.
    """

    spec: str
    what: str
    values: dict[int, float]
    hardware: str
    command: str
    date: str
    per: str = "seed"

    @property
    def mean(self) -> float:
        """Of all values."""
        return statistics.mean(self.values.values())

    @property
    def spread(self) -> float | None:
        """Standard deviation of the values, as a sample; None of a single one."""
        if len(self.values) < 2:
            return None
        return statistics.stdev(self.values.values())

    @property
    def short(self) -> str:
        """``"98.61 ± 0.48 (3 seeds)"``."""
        if self.spread is None:
            return f"{self.mean:.2f} (1 {self.per})"
        return f"{self.mean:.2f} ± {self.spread:.2f} ({len(self.values)} {self.per}s)"

    def __str__(self) -> str:
        values = ", ".join(f"{key}: {value}" for key, value in self.values.items())
        return (
            f"{self.what}: {self.short}, in %; by {self.per} {values}; "
            f"{self.hardware}, {self.date}; {self.command}"
        )
