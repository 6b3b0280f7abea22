"""What people call a set of chips, in both spellings: ``v5e:16x16`` and ``v5e-256``.

[SLICES*]KIND:SHAPE   v5e:4x8   v5p:4x4x4   h100:8x8 (hosts x GPUs)   2*v5e:16x16
[SLICES*]KIND-COUNT   v5e-256 counts chips; v4-, v5p- and tpu7x- count cores, two a
                      chip; h100-64 counts GPUs
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence

from vit_jax.plan.chips import BY_KIND, Chip

_SQUARE = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_SMALL_CUBES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
_SAME = {"v5litepod": "v5e", "v7x": "tpu7x", "trillium": "v6e", "ironwood": "tpu7x"}
_SPELLING = re.compile(
    r"((?P<slices>\d+)\*)?(?P<kind>[a-z]\w*?)"
    r"(:(?P<shape>\d+(x\d+)*)|-(?P<count>\d+))"
)


class TopologyError(ValueError):
    """A topology that does not exist, with those that do."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """One or several slices of a kind of chip.

    Args:
      chip: of the table.
      shape: of one slice; hosts and GPUs a host for GPUs.
      slices: with a slower network between them.
    """

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    def __str__(self) -> str:
        return (
            f"{self.slices}*{self.slice_name}" if self.slices > 1 else self.slice_name
        )

    @property
    def slice_name(self) -> str:
        """One slice, as ``v5e:16x16``."""
        return f"{self.chip.kind}:{'x'.join(map(str, self.shape))}"

    @property
    def count_name(self) -> str:
        """One slice in the other spelling, as ``v5e-256``; cores of v4 and v5p."""
        return f"{self.chip.kind}-{math.prod(self.shape) * self.chip.cores}"

    @property
    def chips(self) -> int:
        """Of all slices."""
        return self.slices * math.prod(self.shape)

    @property
    def cores(self) -> int:
        """TensorCores of TPUs; of a GPU, which is one device, 1."""
        return self.chips * self.chip.cores

    @property
    def devices(self) -> int:
        """That a run's JAX sees."""
        return self.chips * self.chip.devices

    @property
    def hosts(self) -> int:
        """Machines, of all slices."""
        if not self.chip.is_tpu:
            return self.slices * self.shape[0]
        chips = math.prod(self.shape)
        if chips <= self.chip.on_one_host:
            return self.slices
        return self.slices * (chips // self.chip.per_host)

    @property
    def chips_per_host(self) -> int:
        """That one machine holds."""
        return self.chips // self.hosts

    @property
    def hosts_per_slice(self) -> int:
        """Machines of one slice; all of GPUs'."""
        return self.hosts // self.slices

    @property
    def fast(self) -> int:
        """Devices that the fast links join: of a slice, or of a GPU host."""
        if self.chip.is_tpu:
            return self.devices // self.slices
        return self.shape[1]


def lays_out(topology: Topology, sizes: Sequence[int]) -> bool:
    """Whether a slice's mesh axes can be laid out on its chips.

    On TPUs an axis takes whole sides of the slice, which close to rings: of 16 x 16
    chips those are 16 and 256, and there is no axis of 128. JAX refuses others, but for
    v5e.
    """
    if not topology.chip.is_tpu or topology.chip.devices > 1:
        return True
    return _place([size for size in sizes if size > 1], topology.shape)


def _place(sizes: Sequence[int], sides: Sequence[int]) -> bool:
    if not sizes:
        return True
    size, *rest = sizes
    places = range(len(sides))
    return any(
        _place(rest, [side for place, side in enumerate(sides) if place not in taken])
        for number in range(1, len(sides) + 1)
        for taken in itertools.combinations(places, number)
        if math.prod(sides[place] for place in taken) == size
    )


def axis_sizes(topology: Topology) -> list[int]:
    """Sizes of an axis that takes none, some or all of the sides of a slice."""
    sides = topology.shape
    if not topology.chip.is_tpu or topology.chip.devices > 1:
        sides = _primes(topology.devices // topology.slices)
    return sorted(
        {
            math.prod(taken)
            for number in range(len(sides) + 1)
            for taken in itertools.combinations(sides, number)
        }
    )


def _primes(number: int) -> list[int]:
    """Prime factors."""
    for factor in range(2, number + 1):
        if number % factor == 0:
            return [factor, *_primes(number // factor)]
    return []


def parse_list(text: str, *, slices: int | None = None) -> list[Topology]:
    """Topologies with commas between them.

    Args:
      text: as on the command line.
      slices: of each that does not say it itself.

    Raises:
      TopologyError: one is not valid.
    """
    return [parse(word, slices=slices) for word in text.split(",")]


def parse(text: str, *, slices: int | None = None) -> Topology:
    """Reads one topology, in either spelling.

    Raises:
      TopologyError: there is none of that name; the message lists what is valid.
    """
    if slices is not None and slices < 1:
        raise TopologyError(f"--slices must be at least 1, got {slices}")
    match = _SPELLING.fullmatch(text.strip().lower())
    kind = _SAME.get(match["kind"], match["kind"]) if match else ""
    if match is None or kind not in BY_KIND:
        raise TopologyError(
            f"topology {text.strip()!r} is not KIND:SHAPE or KIND-COUNT, such as "
            f"v5e:16x16, v5e-256 or h100:8x8 (hosts x GPUs); kinds: "
            f"{', '.join(BY_KIND)}"
        )
    chip = BY_KIND[kind]
    if match["slices"] and slices is not None and int(match["slices"]) != slices:
        raise TopologyError(
            f"topology {text.strip()!r} has {match['slices']} slices and --slices is "
            f"{slices}; give one of the two"
        )
    several = int(match["slices"] or slices or 1)
    if several < 1:
        raise TopologyError(f"topology {text.strip()!r}: slices must be at least 1")
    if match["shape"]:
        shape = _check_shape(text, chip, tuple(map(int, match["shape"].split("x"))))
    else:
        shape = _shape_of(text, chip, int(match["count"]))
    return Topology(chip, shape, several)


def shapes(chip: Chip) -> Sequence[tuple[int, ...]]:
    """Every shape of a slice of TPUs, the smallest first."""
    if chip.cores == 1:
        return _SQUARE
    sides = range(4, 65, 4)
    large = (
        shape
        for shape in itertools.combinations_with_replacement(sides, 3)
        if math.prod(shape) <= chip.largest
    )
    return (*_SMALL_CUBES, *sorted(large, key=lambda shape: (math.prod(shape), shape)))


def _check_shape(text: str, chip: Chip, shape: tuple[int, ...]) -> tuple[int, ...]:
    if chip.is_tpu:
        if shape in shapes(chip):
            return shape
        raise TopologyError(
            f"topology {text.strip()!r} does not exist; {chip.kind} has {_valid(chip)}"
        )
    if len(shape) == 2 and shape[0] >= 1 and 1 <= shape[1] <= chip.on_one_host:
        return shape
    raise TopologyError(
        f"topology {text.strip()!r} is not hosts x GPUs; {chip.kind} has 1 to "
        f"{chip.on_one_host} GPUs a host, such as {chip.kind}:1x8 or {chip.kind}:8x8"
    )


def _shape_of(text: str, chip: Chip, count: int) -> tuple[int, ...]:
    """The shape that a count stands for: the one whose longest side is shortest."""
    if not chip.is_tpu:
        if 1 <= count <= chip.on_one_host:
            return (1, count)
        if count and count % chip.on_one_host == 0:
            return (count // chip.on_one_host, chip.on_one_host)
        raise TopologyError(
            f"topology {text.strip()!r}: {count} GPUs are not whole hosts of "
            f"{chip.on_one_host}; write hosts x GPUs, such as {chip.kind}:8x4"
        )
    found = [shape for shape in shapes(chip) if math.prod(shape) * chip.cores == count]
    if found:
        return min(found, key=max)
    what = "cores, two a chip" if chip.cores == 2 else "chips"
    raise TopologyError(
        f"topology {text.strip()!r} does not exist (the number counts {what}); "
        f"{chip.kind} has {_valid(chip)}"
    )


def _valid(chip: Chip) -> str:
    """The valid shapes in both spellings, on one line."""
    names = [Topology(chip, shape) for shape in shapes(chip)]
    listed = [f"{name.slice_name} ({name.count_name})" for name in names[:8]]
    if chip.cores == 1:
        return ", ".join(listed)
    return (
        f"{', '.join(listed)} and larger AxBxC with A<=B<=C in fours, up to "
        f"{chip.largest:,} chips"
    )
